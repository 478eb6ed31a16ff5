"""JPEG: its header, and its pixels with every sign of damage that libjpeg gives.

libjpeg never fails on damaged data. It fills in, and says so in a warning. TurboJPEG hands the
warning on, and `simplejpeg` raises it; torchvision's decoder prints it and Pillow drops it.
Measured with one thread: 250 us for 299x299 by simplejpeg, 274 us by torchvision, 580 us by Pillow;
1.5, 1.7 and 6.2 ms for 600x800; the same pixels. So the warnings cost nothing.
"""

import importlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from alike.extract.errors import BadImage

JPEG = b"\xff\xd8\xff"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))
_SCAN, _APP1 = 0xDA, 0xE1
_CUT = ("premature end of jpeg file", "unexpected end")
_DAMAGED = ("premature end of data segment", "bad huffman code", "instead of rst")
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
READ_AS_RGB, APPLY_EXIF = 3, False


@dataclass(frozen=True)
class JpegHeader:
    """What the segments of a JPEG say, before anything is decoded.

    Attributes:
        width: in pixels, as stored.
        height: in pixels, as stored.
        components: 1 grey, 3 colour, 4 CMYK.
        metadata: whether there may be an orientation (an APP1 segment: EXIF or XMP).
        segments: (start, stop) of each segment before the first scan, stray bytes left out.
        scan: byte at which the first scan starts.
    """

    width: int
    height: int
    components: int
    metadata: bool
    segments: tuple[tuple[int, int], ...]
    scan: int

    @property
    def stray(self) -> bool:
        """Whether bytes that belong to no segment stand before the first scan."""
        return 2 + sum(stop - start for start, stop in self.segments) < self.scan

    def without_stray(self, data: bytes) -> bytes:
        """The same file without those bytes, so that a warning of libjpeg is one of its scans."""
        if not self.stray:
            return data
        return b"".join([data[:2], *(data[a:b] for a, b in self.segments), data[self.scan :]])


def jpeg_header(data: bytes) -> JpegHeader:
    """Walk the segments as libjpeg does: bytes between them, and ``FF 00``, are passed over.

    Raises:
        BadImage: `truncated`, the file ends before its frame header.
    """
    at, frame, metadata = 2, None, False
    segments: list[tuple[int, int]] = []
    while True:
        at = data.find(0xFF, at)
        if at < 0 or at + 4 > len(data):
            break
        marker = data[at + 1]
        if marker == _SCAN:
            break
        if marker in (0xFF, 0x00):
            at += 1 if marker == 0xFF else 2
            continue
        stop = at + 2
        if marker not in _BARE:
            stop += max(struct.unpack(">H", data[at + 2 : at + 4])[0], 2)
        if marker in _FRAMES and frame is None and at + 10 <= len(data):
            frame = struct.unpack(">HHB", data[at + 5 : at + 10])
        metadata |= marker == _APP1
        segments.append((at, min(stop, len(data))))
        at = stop
    if frame is None:
        raise BadImage("truncated", "JPEG ends before its frame header")
    height, width, components = frame
    scan = at if at >= 0 else len(data)
    return JpegHeader(width, height, components, metadata, tuple(segments), min(scan, len(data)))


def jpeg_pixels(data: bytes, header: JpegHeader) -> torch.Tensor | None:
    """The pixels as stored, not turned: uint8 (3, H, W); None if only Pillow can decode it here.

    Raises:
        BadImage: `damaged` if libjpeg warns of data that it filled in, `truncated` if the file ends
            early.
        RuntimeError: libjpeg refuses it.
    """
    strict = _strict_decoder()
    # TurboJPEG has no way from CMYK to RGB that inverts as Adobe does.
    if strict is not None and header.components in (1, 3):
        clean = header.without_stray(data)
        try:
            return torch.from_numpy(strict(clean, "RGB", strict=True)).permute(2, 0, 1)
        except ValueError as error:
            check_warning(str(error), clean)
    operator = _operator()
    if operator is None:
        return None
    stored = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: torch.Tensor = operator(stored, READ_AS_RGB, APPLY_EXIF)
    return pixels


def check_warning(message: str, data: bytes) -> None:
    """Raise if a warning of libjpeg means that pixels were filled in.

    Zeros before the end marker are padding that some cameras write. Any other bytes there mean
    that the scan was decoded to other lengths than it was written with.

    Raises:
        BadImage: `damaged` or `truncated`.
    """
    text = message.lower()
    if any(words in text for words in _CUT):
        raise BadImage("truncated", message)
    rest = _EXTRANEOUS.search(text)
    padding = rest is not None and bytes(int(rest[1])) + b"\xff\xd9" in data
    if any(words in text for words in _DAMAGED) or ("extraneous" in text and not padding):
        raise BadImage("damaged", message)


@cache
def _strict_decoder() -> Callable[..., Any] | None:
    """`simplejpeg.decode_jpeg`; None on a machine for which there is no build of it."""
    try:
        module = importlib.import_module("simplejpeg")
    except ImportError:
        return None
    decoder: Callable[..., Any] = module.decode_jpeg
    return decoder


@cache
def _operator() -> Callable[..., Any] | None:
    """`torchvision.io.decode_jpeg` without the warning that it gives on every call."""
    importlib.import_module("torchvision")
    return getattr(torch.ops.image, "decode_jpeg", None)
