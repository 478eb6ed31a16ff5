from .maps import MapSettings as MapSettings
from .maps import find_map as find_map
from .maps import make_map as make_map
