from .maps import MapSettings as MapSettings
from .maps import find_map as find_map
from .maps import make_map as make_map
from .projections import FEWEST as FEWEST
from .projections import perplexity_of as perplexity_of
