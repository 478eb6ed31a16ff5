from .relevance import lrp as lrp
from .relevance import lrp_from as lrp_from
from .relevance import pixel_limits as pixel_limits
