"""Pictures of images, by the hash of their bytes: small ones are made once and kept."""

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.errors import AlikeError, BadImage, BadInput
from alike.extract.frames import NamedImage, StoredImages
from alike.serve.budgets import ByteCache

TINY = 48
"""Images of no more pixels a side keep every pixel as it is."""
VERSION = "1"
"""Of how a picture is made: others are made again."""
JPEG = b"\xff\xd8\xff"
QUALITY = 82


class NotThere(BadInput):
    """What was named is not there."""


class StoreGone(NotThere):
    """A store that was served is not there any more."""


def pixels_of(image: NamedImage) -> int:
    """Pixels that are decoded for an image, by its header.

    Raises:
        BadInput: no readable image; says why.
    """
    # Here, because it loads torch, which the page starts without.
    from alike.extract.images import image_size

    try:
        width, height = image_size(image.data)
    except BadImage as error:
        raise BadInput(
            f"image {image.name!r} cannot be decoded ({error}): {image.advice}"
        ) from error
    return width * height


def thumbnail(image: NamedImage, side: int) -> bytes:
    """A WebP no larger than `side` pixels; small images keep their size.

    A JPEG is decoded at the smallest of its own scales that is large enough.

    Raises:
        BadInput: it cannot be decoded.
    """
    from PIL import Image, ImageOps

    if not image.data.startswith(JPEG):
        picture = Image.fromarray(_upright(image))
        picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        return _webp(picture)
    try:
        with Image.open(io.BytesIO(image.data), formats=("JPEG",)) as stored:
            # Within the call: `draft`, which leaves out what a smaller picture does not need.
            stored.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
            return _webp(ImageOps.exif_transpose(stored).convert("RGB"))
    # Damaged bytes make Pillow's readers raise any type.
    except Exception as error:
        raise BadInput(f"image {image.name!r} cannot be decoded ({error})") from error


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of (H, W, 3) uint8."""
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def _upright(image: NamedImage) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = image.pixels().permute(1, 2, 0).contiguous().numpy()
    return pixels


def _webp(picture: Any) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", lossless=max(picture.size) <= TINY, quality=QUALITY, method=2)
    return encoded.getvalue()


class StoredPictures:
    """The images of a store by the hash of their bytes, whichever extraction has them."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._read: tuple[Any, StoredImages, dict[str, int]] | None = None

    def image(self, name: str) -> NamedImage:
        """An image as it was when its features were computed.

        Args:
            name: SHA-256 of its bytes.

        Raises:
            NotThere: the store has no such image, or its file is gone or has other content now.
        """
        stored, rows = self._current()
        if name not in rows:
            raise NotThere(f"image {name[:12]}… is not in the store, and is not uploaded any more")
        try:
            return stored.read(rows[name])
        except BadInput as error:
            raise NotThere(str(error)) from error

    def has(self, name: str, *, unknown: bool = False) -> bool:
        """Whether the store has an image of this hash; `unknown` if it cannot be read."""
        try:
            return name in self._current()[1]
        except (AlikeError, OSError):
            return unknown

    def _current(self) -> tuple[StoredImages, dict[str, int]]:
        stamp = self._store.view_stamp()
        entry = self._read
        if entry is None or entry[0] != stamp:
            with self._lock:
                entry = self._read
                if entry is None or entry[0] != stamp:
                    images = StoredImages.of(self._store)
                    rows = dict(zip(images.table["image_id"], images.table.index, strict=True))
                    entry = self._read = (stamp, images, rows)
        return entry[1], entry[2]


def forget_pictures(folder: Path, image_ids: Iterable[str]) -> None:
    """Delete the pictures of images from a folder that `Thumbnails` keeps."""
    for name in image_ids:
        for path in folder.glob(f"v*/{name[:2]}/{name}-*.webp"):
            path.unlink(missing_ok=True)


class Thumbnails:
    """Small pictures in memory and on disk, each within a number of bytes.

    Attributes:
        memory: those in memory.
        count: pictures that were made since the start.
    """

    def __init__(self, memory: int, folder: Path | None, disk: int) -> None:
        """Keep pictures.

        Args:
            memory: bytes in memory.
            folder: where they are kept beyond the end of the process; None for nowhere.
            disk: bytes there.
        """
        self.memory = ByteCache(memory)
        self.count = 0
        self._folder = None if folder is None else folder / f"v{VERSION}"
        self._budget = disk
        self._lock = threading.Lock()
        self._used: int | None = None

    def get(self, name: str, side: int) -> bytes | None:
        """A picture that was made before; None if there is none."""
        data: bytes | None = self.memory.get((name, side))
        if data is not None or self._folder is None:
            return data
        path = self._path(name, side)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return data
        self.memory.put((name, side), data, len(data))
        return data

    def keep(self, name: str, side: int, data: bytes, *, on_disk: bool) -> None:
        """Keep a picture that was made."""
        self.count += 1
        self.memory.put((name, side), data, len(data))
        if self._folder is None or not on_disk:
            return
        path = self._path(name, side)
        # A full disk, or a folder that may not be written, costs the time to make it again.
        with contextlib.suppress(OSError), self._lock:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
                part.write(data)
            Path(part.name).replace(path)
            self._bound(len(data))

    def _path(self, name: str, side: int) -> Path:
        assert self._folder is not None
        return self._folder / name[:2] / f"{name}-{side}.webp"

    def _bound(self, new: int) -> None:
        """Delete the pictures that were not looked at for longest, if there are too many bytes."""
        assert self._folder is not None
        if self._used is not None and self._used + new <= self._budget:
            self._used += new
            return
        files = [(one.stat(), one) for one in self._folder.glob("*/*") if one.is_file()]
        self._used = sum(stat.st_size for stat, _ in files)
        if self._used <= self._budget:
            return
        for stat, file in sorted(files, key=lambda one: one[0].st_mtime):
            if self._used <= 0.9 * self._budget:
                break
            file.unlink(missing_ok=True)
            self._used -= stat.st_size
