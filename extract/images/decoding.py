"""Bytes of one image into a uint8 RGB tensor, or a recorded reason why not.

Policy: the orientation in EXIF or XMP is applied as Pillow applies it; alpha is dropped; palette,
grey and CMYK become RGB; 16 bits are scaled to 8; the first frame of an animation counts;
floating-point and 32-bit integer images are refused, because their range is nobody's guess.

JPEG goes through `alike.extract.images.jpeg`, all else through Pillow: torchvision 0.29 ends the
process with a segmentation fault on a PNG with a damaged row.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from alike.extract.errors import BadImage
from alike.extract.images.formats import FORMATS, HEIC_ADVICE, HEIF
from alike.extract.images.jpeg import JPEG, jpeg_header, jpeg_pixels
from alike.extract.limits import MAX_PIXELS

NPY, JPEG_END = b"\x93NUMPY", b"\xff\xd9"
NPY_HEADER = re.compile(
    rb"\{'descr': '\|u1', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \} *\n"
)
CUT_SHORT = ("truncat", "incomplete", "unexpected end", "not enough", "broken png", "eof")
BOMB = re.compile(r"\((\d+) pixels\) exceeds limit")
"""What Pillow says of an image of more than twice its limit, before we know its size."""
POINTER = b"version https://git-lfs"
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
MAX_CHUNK = 64 * 2**20
"""Largest text or colour profile of a PNG, unpacked: Pillow's own limit for all texts together."""
ORIENTATION = 0x0112
UPRIGHT: Mapping[int, Callable[[torch.Tensor], torch.Tensor]] = {
    2: lambda pixels: pixels.flip(2),
    3: lambda pixels: pixels.flip(1, 2),
    4: lambda pixels: pixels.flip(1),
    5: lambda pixels: pixels.transpose(1, 2),
    6: lambda pixels: pixels.rot90(-1, (1, 2)),
    7: lambda pixels: pixels.transpose(1, 2).flip(1, 2),
    8: lambda pixels: pixels.rot90(1, (1, 2)),
}
"""EXIF orientation to what makes an image (3, H, W) upright."""
UNTURNED, UNKNOWN = 1, 0
"""Orientation of an image that is upright or says nothing; of one whose metadata are damaged."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """An image file, or an array in .npy form, as a uint8 tensor (3, H, W).

    Args:
        data: the whole file; arrays are uint8 (H, W, 3), (3, H, W), (H, W) or (H, W, 1).
        max_pixels: height times width of the largest image decoded; checked before decoding.

    Raises:
        BadImage: `unreadable`, `truncated`, `damaged`, `too large` or `wrong mode`.
    """
    return decode_turned(data, max_pixels)[0]


def decode_turned(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[torch.Tensor, int]:
    """As `decode`, with the orientation by which the image was turned (see `image_format`)."""
    if not data:
        raise BadImage("truncated", "empty file")
    if data.startswith(NPY):
        return _from_array(data, max_pixels), UNTURNED
    if data.startswith(JPEG):
        return _from_jpeg(data, max_pixels)
    return _from_pillow(data, max_pixels)


def image_format(data: bytes) -> tuple[str, int]:
    """(format, orientation 1 to 8) of an image that decodes; nothing is decoded.

    Any other orientation is none that is known: metadata are damaged, or name none of the eight.
    """
    if data.startswith(NPY):
        return "array", UNTURNED
    if data.startswith(JPEG):
        return "JPEG", _jpeg_orientation(data)
    with _pillow().open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
        return str(image.format), _orientation(image)


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) of an image as its header says, not turned; no pixel is decoded.

    Raises:
        BadImage: as `decode`, for what its header shows.
    """
    if not data:
        raise BadImage("truncated", "empty file")
    if data.startswith(NPY):
        array = _npy(data)
        channels_first = array.ndim == 3 and array.shape[2] not in (1, 3)
        shape = array.shape[1:] if channels_first else array.shape
        return (int(shape[1]), int(shape[0])) if len(shape) > 1 else (0, 0)
    if data.startswith(JPEG):
        header = jpeg_header(data)
        return header.width, header.height
    from PIL import UnidentifiedImageError

    try:
        with _pillow().open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            width, height = image.size
            return width, height
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("unreadable", _unknown_format(data)) from error
    except Exception as error:
        raise _bad(error) from error


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImage("too large", f"{width}x{height} pixels, at most {max_pixels} are decoded")
    if width * height == 0:
        raise BadImage("unreadable", f"{width}x{height} pixels")


def is_known(orientation: int) -> bool:
    """Whether an orientation is one of EXIF's eight."""
    return orientation == UNTURNED or orientation in UPRIGHT


def _from_jpeg(data: bytes, max_pixels: int) -> tuple[torch.Tensor, int]:
    header = jpeg_header(data)
    _check_pixels(header.width, header.height, max_pixels)
    try:
        pixels = jpeg_pixels(data, header)
    except RuntimeError as error:
        bad = _bad(error)
        # Whole to its end marker, and still too short: bytes were lost on the way.
        lost = bad.state == "truncated" and data.endswith(JPEG_END)
        raise (BadImage("damaged", bad.reason) if lost else bad) from error
    if pixels is None:
        return _from_pillow(data, max_pixels)
    return _upright(pixels, _jpeg_orientation(data) if header.metadata else UNTURNED)


def _upright(pixels: torch.Tensor, orientation: int) -> tuple[torch.Tensor, int]:
    turn = UPRIGHT.get(orientation)
    return (pixels if turn is None else turn(pixels).contiguous()), orientation


def _jpeg_orientation(data: bytes) -> int:
    """The orientation in the metadata, by Pillow, which looks into EXIF, then into XMP."""
    try:
        with _pillow().open(io.BytesIO(data), formats=("JPEG",)) as image:
            return int(_orientation(image))
    # libjpeg opened it: a header that only Pillow refuses costs the orientation, not the image.
    except Exception:
        return UNKNOWN


def _orientation(image: Any) -> int:
    try:
        exif = image.getexif()
        # Pillow reads some damaged metadata as no tag at all, without an error.
        value = exif.get(ORIENTATION, UNKNOWN if image.info.get("exif") and not exif else UNTURNED)
        return value if isinstance(value, int) else UNKNOWN
    # Damaged metadata make the parser raise any type; viewers show such an image unturned.
    except Exception:
        return UNKNOWN


@cache
def _pillow() -> Any:
    """Pillow's `Image` with our limits and the plugin for HEIC, if it is installed."""
    from PIL import Image, PngImagePlugin

    PngImagePlugin.MAX_TEXT_CHUNK = MAX_CHUNK
    # Our limit is the same, and says so with the image's name.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    if HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image


def _from_pillow(data: bytes, max_pixels: int) -> tuple[torch.Tensor, int]:
    from PIL import UnidentifiedImageError

    if data.startswith(b"RIFF") and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise BadImage("truncated", f"{len(data)} bytes, its header says more")
    try:
        with _pillow().open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            width, height = image.size
            _check_pixels(width, height, max_pixels)
            if image.mode in ("I", "F"):
                raise BadImage("wrong mode", f"{image.mode}: 32-bit values have no fixed range")
            image.load()
            # Once loaded: TIFF and HEIC turn their pixels while loading, and take the tag away.
            orientation = _orientation(image)
            return _upright(_pillow_pixels(image), orientation)
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage("unreadable", _unknown_format(data)) from error
    # Damaged bytes make Pillow's readers raise any type: IndexError, KeyError, zlib.error…
    except Exception as error:
        raise _bad(error, max_pixels) from error


def _pillow_pixels(image: Any) -> torch.Tensor:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return _as_rgb(((grey + 128) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return _as_rgb(np.array(image.convert("RGB")))


def _unknown_format(data: bytes) -> str:
    if not HEIF and data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        return f"HEIC; {HEIC_ADVICE}"
    if data.startswith(POINTER):
        return "a Git LFS pointer, not the image: run `git lfs pull` in its repository"
    return f"no image of a format that is read ({', '.join(FORMATS)})"


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


def _bad(error: Exception, max_pixels: int = MAX_PIXELS) -> BadImage:
    reason = _one_line(error)
    bomb = BOMB.search(reason)
    if bomb:
        return BadImage("too large", f"{bomb[1]} pixels, at most {max_pixels} are decoded")
    short = isinstance(error, EOFError) or any(word in reason.lower() for word in CUT_SHORT)
    return BadImage("truncated" if short else "unreadable", reason)


def _one_line(error: Exception) -> str:
    text = str(error).split("\n")[0]
    text = text.rpartition(".cpp:")[2].partition(", ")[2] if ".cpp:" in text else text
    return (text or type(error).__name__)[:160]
