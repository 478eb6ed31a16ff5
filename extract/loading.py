"""From rows of the store to frames of the network: images are read, checked, decoded, resized."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from alike.extract.errors import BadImage
from alike.extract.images import ImageSource, decode_turned, image_id, is_known
from alike.extract.networks import Transform
from alike.extract.stages import StageClock
from alike.extract.store import ABSENT
from alike.extract.twins import thumbnail

RETRIED = (ABSENT, "changed", "missing")
"""States that say nothing about the image's content: the next run tries again."""


@dataclass(frozen=True, slots=True)
class Image:
    """One row to compute.

    Attributes:
        row: of the store.
        path: None for an image that left the set before it was computed.
        image_id: SHA-256 of its bytes.
        signed: whether the store has its thumbnail, for the search of twins.
    """

    row: int
    path: str | None
    image_id: str
    signed: bool = True


@dataclass(frozen=True)
class Frames:
    """What became of some images.

    Attributes:
        frames: uint8 (n, 3, h, w), channels last in memory.
        rows: the n rows that have a frame, in order.
        bad: row to (state, reason) of the images that have none.
    """

    frames: torch.Tensor
    rows: list[int]
    bad: dict[int, tuple[str, str]]


@dataclass(frozen=True)
class FrameLoader:
    """Loads images as frames of one size.

    Attributes:
        source: of the images' bytes.
        transform: that belongs to the network.
        size: (height, width) of every frame; another is a bad image.
        pinned: whether frames lie in pinned memory, for a GPU.
        clock: counts the seconds of `read` and `decode`.
        thumbnails: takes those of the images that are not `signed`, by row.
        unturned: takes the rows of images whose orientation is not known.
    """

    source: ImageSource
    transform: Transform
    size: tuple[int, int]
    pinned: bool
    clock: StageClock
    thumbnails: dict[int, NDArray[np.uint8] | None] = field(default_factory=dict)
    unturned: list[int] = field(default_factory=list)

    def __call__(self, images: Sequence[Image]) -> Frames:
        """Read, check, decode and frame images; runs in any thread."""
        channels_last = torch.empty(
            (len(images), *self.size, 3), dtype=torch.uint8, pin_memory=self.pinned
        )
        frames = channels_last.permute(0, 3, 1, 2)
        rows: list[int] = []
        bad: dict[int, tuple[str, str]] = {}
        for image in images:
            try:
                with self.clock.on("read"):
                    data = read_checked(self.source, image)
                with self.clock.on("decode"):
                    frames[len(rows)] = self._frame(data, image)
                rows.append(image.row)
            except BadImage as error:
                bad[image.row] = (error.state, error.reason)
        return Frames(frames[: len(rows)], rows, bad)

    def _frame(self, data: bytes, image: Image) -> torch.Tensor:
        pixels, orientation = decode_turned(data)
        if not is_known(orientation):
            self.unturned.append(image.row)
        if not image.signed:
            self.thumbnails[image.row] = thumbnail(pixels)
        frame = self.transform.frame(pixels)
        if tuple(frame.shape[1:]) != self.size:
            (height, width), (rows, columns) = frame.shape[1:], self.size
            raise BadImage(
                "wrong size",
                f"{height}x{width} where the set is {rows}x{columns} and nothing resizes",
            )
        return frame


def read_checked(source: ImageSource, image: Image) -> bytes:
    """An image's bytes, if they still are the bytes that were listed.

    Raises:
        BadImage: `absent`, `missing` or `changed`; these states are tried again by the next run.
    """
    if image.path is None:
        raise BadImage(ABSENT, "left the set before it was computed")
    try:
        data = source.read(image.path)
    except BadImage as error:
        raise BadImage("missing", f"{error.state} after it was listed: {error.reason}") from error
    if image_id(data) != image.image_id:
        raise BadImage("changed", "its bytes are not those that were listed")
    return data
