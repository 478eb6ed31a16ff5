"""The signature of an image for the search of twins: its luminance in 64x64 cells."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

SIDE = 64
"""Cells along a side of a thumbnail."""
SMALLEST = 24
"""Pixels of the shorter side from which on an image has a thumbnail that tells it from others."""


def thumbnail(image: "torch.Tensor") -> NDArray[np.uint8] | None:
    """The luminance (Rec. 601) of a decoded image, averaged in 64x64 cells.

    Args:
        image: uint8 (3, H, W), whole: before the network's resize and crop.

    Returns:
        uint8 (64, 64); None for an image too small to be told from others by its pixels.
    """
    from PIL import Image

    height, width = image.shape[1:]
    if min(height, width) < SMALLEST:
        return None
    pixels: Any = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).convert("L")
    way = Image.Resampling.BOX if min(height, width) >= SIDE else Image.Resampling.BICUBIC
    return np.asarray(pixels.resize((SIDE, SIDE), way))
