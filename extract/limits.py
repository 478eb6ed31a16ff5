"""Limits that hold for every image, wherever it comes from."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit: a quarter of a gigabyte as RGB."""
