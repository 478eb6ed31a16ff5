"""How alike people find images, beside how alike a network does: votes, triplets, dissimilarities."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
