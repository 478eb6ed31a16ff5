from .measure import Tables as Tables
from .measure import evaluate_measure as evaluate_measure
from .network import PENULTIMATE as PENULTIMATE
from .network import named_rightly as named_rightly
from .network import network_scores as network_scores
from .rows import pair_replicates as pair_replicates
from .sets import evaluate_sets as evaluate_sets
from .table import SCORES as SCORES
