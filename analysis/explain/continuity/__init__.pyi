from .continuity import METHODS as METHODS
from .stored import continuity_of as continuity_of
