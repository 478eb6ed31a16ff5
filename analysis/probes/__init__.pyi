from .linear import LinearProbe as LinearProbe
from .linear import fit_linear as fit_linear
from .scores import KNN as KNN
from .scores import NAMES as NAMES
from .scores import probe_rights as probe_rights
from .scores import probe_scores as probe_scores
from .standard import Standard as Standard
from .votes import vote_rights as vote_rights
