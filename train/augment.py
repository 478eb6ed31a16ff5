"""Augmentations of training frames, from torchvision's v2 transforms."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as geometry

from alike.extract.errors import BadInput

Parts = Callable[[int, int], list[v2.Transform]]


@dataclass(frozen=True)
class Augment:
    """One way to vary a frame (3, h, w) uint8 without changing its size or its class.

    Attributes:
        name: as on the command line.
        about: one line, with what it must not be used for.
        make: (height, width) -> transforms of one frame, in order.
        border: pixels added on every side before them, as a share of the shorter side. It is added
            to the whole batch at once: v2's own padding of single frames took 8 ms each.
    """

    name: str
    about: str
    make: Parts
    border: float = 0.0


class Augmentation:
    """An `Augment` for frames of one size, applied to batches."""

    def __init__(self, kind: Augment, size: tuple[int, int]) -> None:
        parts = kind.make(*size)
        self.one = v2.Compose(parts) if parts else None
        self.border = max(1, int(kind.border * min(size))) if kind.border else 0

    def __call__(self, frames: Tensor) -> Tensor:
        """Vary each of the frames (B, 3, h, w) uint8 by itself, from torch's global generator."""
        if self.one is None:
            return frames
        if self.border:
            frames = geometry.pad(frames, [self.border], padding_mode="edge")
        return torch.stack([self.one(frame) for frame in frames])


def _shift(height: int, width: int) -> list[v2.Transform]:
    return [v2.RandomCrop((height, width))]


def _shift_flip(height: int, width: int) -> list[v2.Transform]:
    return [v2.RandomCrop((height, width)), v2.RandomHorizontalFlip()]


def _zoom_flip(height: int, width: int) -> list[v2.Transform]:
    zoom = v2.RandomResizedCrop((height, width), scale=(0.5, 1.0), antialias=True)
    return [zoom, v2.RandomHorizontalFlip()]


def _trivial(height: int, width: int) -> list[v2.Transform]:
    return [*_shift_flip(height, width), v2.TrivialAugmentWide()]


_EIGHTH = 1 / 8
_ROWS = (
    Augment("none", "frames as they are", lambda height, width: []),
    Augment("shift", "moved by up to an eighth of the side (default)", _shift, _EIGHTH),
    Augment("shift_flip", "moved and mirrored; not for text or digits", _shift_flip, _EIGHTH),
    Augment("zoom_flip", "half to all of the area, mirrored, as for ImageNet", _zoom_flip),
    Augment("trivial", "shift_flip and one change of TrivialAugment", _trivial, _EIGHTH),
)

AUGMENTATIONS: dict[str, Augment] = {row.name: row for row in _ROWS}


def augmentation_named(name: str, size: tuple[int, int]) -> Augmentation:
    """The augmentation of `AUGMENTATIONS` for frames of `size` (height, width)."""
    if name not in AUGMENTATIONS:
        names = ", ".join(AUGMENTATIONS)
        raise BadInput(f"augmentation {name!r} is not known; choose one of {names}")
    return Augmentation(AUGMENTATIONS[name], size)
