from .copies import linked_units as linked_units
from .influence import SCORES as SCORES
from .influence import Changes as Changes
from .influence import score_spread as score_spread
from .lists import Nearest as Nearest
from .lists import hub_skew as hub_skew
from .lists import nearest as nearest
from .lists import two_nn as two_nn
