"""An image as its user names it, to its bytes and to the frame that the network sees.

A user names an image by a file, by a URL, by its bytes, or by the number of a stored row. Whoever
takes an image from a user takes it through this module, so that all refuse the same things with
the same words. Sources read the images of a whole set (`ImageSource.read`): there one bad image is
recorded, here it is an error.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alike.extract.errors import BadImage, BadInput
from alike.extract.images import ImageSource, image_id, open_source, read_url

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from alike.extract.networks import Transform
    from alike.extract.store import StoreBase

ADVICE = "give an image file, a URL, or the number of a stored row"


@dataclass(frozen=True)
class NamedImage:
    """An image that was read.

    Attributes:
        name: what messages and captions call it.
        data: its bytes, not decoded.
        advice: what to do if it cannot be decoded.
    """

    name: str
    data: bytes
    advice: str = ADVICE

    def __repr__(self) -> str:
        return f"NamedImage({self.name!r}, {len(self.data)} bytes)"

    @property
    def image_id(self) -> str:
        """SHA-256 of the bytes, by which a store knows its images."""
        return image_id(self.data)

    def pixels(self) -> "Tensor":
        """The image as uint8 (3, H, W).

        Raises:
            BadInput: it cannot be decoded; names it and says why.
        """
        # Here, because it loads torch, which a stored row is found without.
        from alike.extract.images import decode

        try:
            return decode(self.data)
        except BadImage as error:
            raise self._unusable(error) from error

    def frame(self, transform: "Transform") -> "Tensor":
        """What the network sees of it, before normalisation: uint8 (3, h, w).

        Raises:
            BadInput: it cannot be decoded, or is too large once resized.
        """
        pixels = self.pixels()
        try:
            return transform.frame(pixels)
        except BadImage as error:
            raise self._unusable(error) from error

    def _unusable(self, error: BadImage) -> BadInput:
        return BadInput(f"image {self.name!r} cannot be decoded ({error}): {self.advice}")


ImageLike = NamedImage | Path | str | bytes
"""An image that lies outside a store: read, a file, a URL of an fsspec filesystem, or its bytes."""


def read_image(image: ImageLike) -> NamedImage:
    """Read an image that lies outside a store; one that was read comes back as it is.

    Raises:
        BadInput: nothing there, a folder, a pipe or device, or more than `MAX_BYTES`.

    Example:
        >>> read_image(b"the bytes of an image")
        NamedImage('21 bytes', 21 bytes)
    """
    if isinstance(image, NamedImage):
        return image
    if isinstance(image, bytes):
        return NamedImage(f"{len(image)} bytes", image)
    name = str(image)
    try:
        return NamedImage(name, read_url(name))
    except BadImage as error:
        raise BadInput(f"image {name!r} cannot be read ({error}): {ADVICE}") from error


@dataclass(frozen=True)
class StoredImages:
    """The images behind the rows of a store, read from where they lie.

    Attributes:
        source: where they lie.
        table: by row: image_id, path, and what else the caller keeps there.
        place: of the store, for messages.
    """

    source: ImageSource
    table: "pd.DataFrame"
    place: str

    @classmethod
    def of(cls, store: "StoreBase", images: "pd.DataFrame | None" = None) -> "StoredImages":
        """The images of a store.

        Args:
            store: that knows its source.
            images: row, image_id, path of those that are meant; None for the whole set.

        Raises:
            BadInput: the store does not know its source, or the source is gone.
        """
        spec, options = store.source()
        images = store.images() if images is None else images
        rows = images[images["row"] >= 0].drop_duplicates("row").set_index("row")
        return cls(open_source(spec, **options), rows, store.url)

    def read(self, row: int) -> NamedImage:
        """The image of a row, as it was when its features were computed.

        Raises:
            BadInput: no such row, or its file is gone or has other content now.
        """
        if row not in self.table.index:
            rows = self.table.index
            span = f"its rows are {rows.min()} to {rows.max()}" if len(rows) else "it has no rows"
            raise BadInput(
                f"no row {row} in {self.place}: {span}, and "
                f"`alike store ls {shlex.quote(self.place)}` lists them"
            )
        path = str(self.table.at[row, "path"])
        name = f"{path!r} of row {row}"
        try:
            image = NamedImage(path, self.source.read(path))
        except (BadImage, OSError) as error:
            raise BadInput(
                f"image {name} cannot be read any more ({error}): bring it back to "
                f"{self.source.spec}, or run `alike extract` again"
            ) from error
        if image.image_id != self.table.at[row, "image_id"]:
            # Features of one image must not be shown beside another.
            raise BadInput(
                f"image {name} has changed since its features were computed: bring the old file "
                "back, or run `alike extract` again"
            )
        return image

    def frames(self, rows: Sequence[int], transform: "Transform") -> "list[Tensor]":
        """What a network sees of the images of rows, each uint8 (3, h, w).

        Raises:
            BadInput: as `read` and `NamedImage.frame`.
        """
        return [self.read(int(row)).frame(transform) for row in rows]


def read_images(images: Sequence[ImageLike | int], store: "StoreBase") -> list[NamedImage]:
    """Read images as their user names them: as `read_image`, or by the number of a stored row.

    Raises:
        BadInput: as `read_image` and `StoredImages.read`.
    """
    rows = {int(image) for image in images if isinstance(image, int | np.integer)}
    by_row = {}
    # A store that was imported knows no source; without rows none is needed.
    if rows:
        stored = StoredImages.of(store)
        by_row = {row: stored.read(row) for row in sorted(rows)}
    return [
        by_row[int(image)] if isinstance(image, int | np.integer) else read_image(image)
        for image in images
    ]


def transform_of(features: Any) -> "Transform":
    """The preprocessing that stored features were computed with."""
    from alike.extract.networks import Transform

    return Transform.from_dict(dict(features.attrs["transform"]))
