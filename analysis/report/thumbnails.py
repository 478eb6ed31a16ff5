"""Small pictures of stored images, read from where the images lie."""

import io
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alike.analysis.report.lookup import listed
from alike.analysis.report.parts import data_uri
from alike.extract.errors import AlikeError
from alike.extract.frames import StoredImages
from alike.extract.images import decode

if TYPE_CHECKING:
    from torch import Tensor

TINY = 48
READERS = 8


@dataclass(frozen=True)
class Thumbnail:
    """One small picture.

    Attributes:
        data: PNG or JPEG.
        kind: `png` or `jpeg`.
        tiny: the image itself is only a few pixels wide and looks best with hard pixel edges.
    """

    data: bytes
    kind: str
    tiny: bool

    @property
    def uri(self) -> str:
        """The picture as a `data:` address."""
        return data_uri(self.data, self.kind)


@dataclass(frozen=True)
class Atlas:
    """Many small pictures on one sheet, for the card that follows the pointer over a map.

    Attributes:
        uri: a `data:` address of the sheet.
        cell: side of a picture in pixels.
        across: pictures in a line of the sheet.
        cells: row -> number of its picture, counted along the lines.
        tiny: whether the images look best with hard pixel edges.
    """

    uri: str
    cell: int
    across: int
    cells: dict[int, int]
    tiny: bool


class Pictures:
    """Reads the images of a store as small pictures, several at a time.

    Args:
        store: the store; it knows its source and the path of every row.

    Raises:
        BadInput: the store does not know its images, or they are no longer there.
    """

    def __init__(self, store: Any) -> None:
        self._images = StoredImages.of(store)
        self.paths, self.labels = listed(store)

    def thumbnails(self, rows: Iterable[int], side: int = 96) -> dict[int, Thumbnail]:
        """Pictures no larger than `side` pixels; images that cannot be read are left out."""
        pictures = self._read(rows, side)
        return {row: _thumbnail(picture, tiny) for row, (picture, tiny) in pictures.items()}

    def atlas(self, rows: Iterable[int], cell: int = 56) -> Atlas | None:
        """One sheet with a square picture of every image; None where none can be read."""
        from PIL import Image

        pictures = self._read(rows, cell)
        if not pictures:
            return None
        across = math.ceil(math.sqrt(len(pictures)))
        down = math.ceil(len(pictures) / across)
        sheet = Image.new("RGB", (across * cell, down * cell), (236, 234, 228))
        n_tiny = 0
        for number, (picture, tiny) in enumerate(pictures.values()):
            n_tiny += tiny
            if tiny:
                scale = cell / max(picture.size)
                size = (round(picture.width * scale), round(picture.height * scale))
                picture = picture.resize(size, Image.Resampling.NEAREST)
            x = (number % across) * cell + (cell - picture.width) // 2
            y = (number // across) * cell + (cell - picture.height) // 2
            sheet.paste(picture, (x, y))
        uri = data_uri(_coded(sheet, "jpeg", quality=72), "jpeg")
        cells = {row: number for number, row in enumerate(pictures)}
        return Atlas(uri, cell, across, cells, n_tiny * 2 > len(pictures))

    def _read(self, rows: Iterable[int], side: int) -> dict[int, tuple[Any, bool]]:
        known_rows = [int(row) for row in dict.fromkeys(rows) if int(row) in self.paths]
        with ThreadPoolExecutor(READERS) as readers:
            pictures = readers.map(lambda row: self._picture(row, side), known_rows)
            return {
                row: got for row, got in zip(known_rows, pictures, strict=True) if got is not None
            }

    def _picture(self, row: int, side: int) -> tuple[Any, bool] | None:
        try:
            return _small(self._images.read(row).pixels(), side)
        except AlikeError:
            # A picture that has gone or changed since extraction leaves a gap; its numbers stay.
            return None


def thumbnail(data: bytes, side: int = 96) -> Thumbnail | None:
    """The picture of an image file's bytes; None if they cannot be decoded."""
    try:
        return _thumbnail(*_small(decode(data), side))
    except (AlikeError, OSError):
        return None


def _small(pixels: "Tensor", side: int) -> tuple[Any, bool]:
    """The image no larger than `side` pixels, and whether it is tiny itself."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    tiny = max(picture.size) <= TINY
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return picture, tiny


def _thumbnail(picture: Any, tiny: bool) -> Thumbnail:
    kind, options = ("png", {"optimize": True}) if tiny else ("jpeg", {"quality": 80})
    return Thumbnail(_coded(picture, kind, **options), kind, tiny)


def _coded(picture: Any, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind.upper(), **options)
    return sink.getvalue()
