from .measure import Tables as Tables
from .measure import judge_measure as judge_measure
from .network import ENTERING as ENTERING
from .network import named_rightly as named_rightly
from .network import network_scores as network_scores
from .rows import pair_replicates as pair_replicates
from .sets import judge_sets as judge_sets
from .table import SCORES as SCORES
