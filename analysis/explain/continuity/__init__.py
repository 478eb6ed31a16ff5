"""Are explanations continuous: small changes of an image, small changes of relevance."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
