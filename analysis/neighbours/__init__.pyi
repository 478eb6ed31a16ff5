from .lists import Nearest as Nearest
from .lists import hub_skew as hub_skew
from .lists import nearest as nearest
from .lists import two_nn as two_nn
