"""Bytes of one image into a uint8 RGB tensor, or a recorded reason why not.

Policy: the orientation in EXIF is applied; alpha is dropped; palette, grey and CMYK become RGB;
16 bits are scaled to 8; the first frame of an animation counts; floating-point and 32-bit integer
images are refused, because their range is nobody's guess.

JPEG goes through torchvision's operator while there is one (0.29 announces its removal): 0.56 ms
against Pillow's 0.73 ms for 299x299, the same pixels. All else goes through Pillow: torchvision
0.29 ends the process with a segmentation fault on a PNG with a damaged row.
"""

import importlib
import io
import math
import re
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from alike.extract.errors import BadImage
from alike.extract.limits import MAX_PIXELS

JPEG, NPY = b"\xff\xd8\xff", b"\x93NUMPY"
NPY_HEADER = re.compile(
    rb"\{'descr': '\|u1', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \} *\n"
)
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))
READ_AS_RGB, APPLY_EXIF = 3, True
CUT_SHORT = ("truncat", "incomplete", "unexpected end", "not enough", "broken png", "eof")


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """An image file, or an array in .npy form, as a uint8 tensor (3, H, W).

    Args:
        data: the whole file; arrays are uint8 (H, W, 3), (3, H, W), (H, W) or (H, W, 1).
        max_pixels: height times width of the largest image decoded; checked before decoding.

    Raises:
        BadImage: `unreadable`, `truncated`, `too large` or `wrong mode`.
    """
    if not data:
        raise BadImage("truncated", "empty file")
    if data.startswith(NPY):
        return _from_array(data, max_pixels)
    if data.startswith(JPEG):
        return _from_jpeg(data, max_pixels)
    return _from_pillow(data, max_pixels)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImage("too large", f"{width}x{height} pixels, at most {max_pixels} are decoded")
    if width * height == 0:
        raise BadImage("unreadable", f"{width}x{height} pixels")


def _from_jpeg(data: bytes, max_pixels: int) -> torch.Tensor:
    _check_pixels(*_jpeg_size(data), max_pixels)
    operator = _jpeg_operator()
    if operator is None:
        return _from_pillow(data, max_pixels)
    try:
        stored = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image: torch.Tensor = operator(stored, READ_AS_RGB, APPLY_EXIF)
        return image
    except RuntimeError as error:
        raise _bad(error) from error


@cache
def _jpeg_operator() -> Callable[..., Any] | None:
    """`torchvision.io.decode_jpeg` without the warning that it gives on every call."""
    importlib.import_module("torchvision")
    return getattr(torch.ops.image, "decode_jpeg", None)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the frame header: segments are walked, nothing is decoded."""
    at = 2
    while at + 9 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF:
            raise BadImage("unreadable", f"no JPEG marker at byte {at}")
        if marker in FRAME_MARKERS:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        if marker == 0xFF:
            at += 1
        elif marker in BARE_MARKERS:
            at += 2
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    raise BadImage("truncated", "JPEG ends before its frame header")


def _from_pillow(data: bytes, max_pixels: int) -> torch.Tensor:
    from PIL import Image, ImageOps, UnidentifiedImageError

    if data.startswith(b"RIFF") and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise BadImage("truncated", f"{len(data)} bytes, its header says more")
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_pixels(*image.size, max_pixels)
            if image.mode in ("I", "F"):
                raise BadImage("wrong mode", f"{image.mode}: 32-bit values have no fixed range")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                grey = np.asarray(upright).astype(np.uint32)
                return _as_rgb(((grey + 128) // 257).astype(np.uint8))
            if upright.mode == "P" and "transparency" in upright.info:
                upright = upright.convert("RGBA")
            return _as_rgb(np.array(upright.convert("RGB")))
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage("unreadable", "no image of a known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too large", _one_line(error)) from error
    # Damaged bytes make Pillow's readers raise any type: IndexError, KeyError, zlib.error…
    except Exception as error:
        raise _bad(error) from error


def _from_array(data: bytes, max_pixels: int) -> torch.Tensor:
    array = _npy(data)
    if array.ndim == 3 and array.shape[2] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        raise BadImage("wrong mode", f"array of shape {array.shape}: no grey or RGB image")
    _check_pixels(array.shape[1], array.shape[0], max_pixels)
    return _as_rgb(array)


def _npy(data: bytes) -> np.ndarray:
    """A uint8 array from its .npy form, in O(1) beyond the copy of its numbers.

    Not by `np.load`, which parses the header with `ast`: before Python 3.11.8 and 3.12.2, of two
    threads that do so at once one may fail with SystemError (CPython issue 106905).
    """
    wide = 4 if data[6:7] > b"\x01" else 2
    start = 8 + wide
    end = start + int.from_bytes(data[8:start], "little")
    if len(data) < end or end == start:
        raise BadImage("truncated", f"{len(data)} bytes end before the header of the array does")
    header = NPY_HEADER.fullmatch(data[start:end])
    if header is None:
        kind = re.search(rb"'descr': '([^']*)'", data[start:end])
        if kind is None:
            raise BadImage("unreadable", "no header of an array")
        raise BadImage("wrong mode", f"array of {_dtype(kind[1].decode('latin1'))}, uint8 expected")
    shape = tuple(int(length) for length in header[2].replace(b" ", b"").split(b",") if length)
    if len(data) - end < math.prod(shape):
        raise BadImage("truncated", f"{len(data) - end} bytes for an array of shape {shape}")
    flat = np.frombuffer(data, dtype=np.uint8, count=math.prod(shape), offset=end)
    return flat.reshape(shape, order="F" if header[1] == b"True" else "C")


def _dtype(code: str) -> str:
    try:
        return np.dtype(code).name
    except TypeError:
        return code


def _as_rgb(pixels: np.ndarray) -> torch.Tensor:
    """(H, W) or (H, W, 3) uint8 as a tensor (3, H, W)."""
    tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
    return tensor.expand(3, -1, -1) if pixels.ndim == 2 else tensor.permute(2, 0, 1)


def _bad(error: Exception) -> BadImage:
    reason = _one_line(error)
    short = isinstance(error, EOFError) or any(word in reason.lower() for word in CUT_SHORT)
    return BadImage("truncated" if short else "unreadable", reason)


def _one_line(error: Exception) -> str:
    text = str(error).split("\n")[0]
    text = text.rpartition(".cpp:")[2].partition(", ")[2] if ".cpp:" in text else text
    return (text or type(error).__name__)[:160]
