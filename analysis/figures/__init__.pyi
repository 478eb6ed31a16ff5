from .classes import class_matrix as class_matrix
from .classes import closest_pairs as closest_pairs
from .classes import similarity_order as similarity_order
from .map import MOST_POINTS as MOST_POINTS
from .map import map_figure as map_figure
from .map import shown_rows as shown_rows
from .networks import network_figure as network_figure
from .networks import placed_networks as placed_networks
