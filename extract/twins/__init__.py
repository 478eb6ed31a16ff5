"""Twins: images of a set that show one picture, found by hash and confirmed in pixels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
