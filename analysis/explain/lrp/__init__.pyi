from .relevance import lrp as lrp
from .relevance import pixel_limits as pixel_limits
