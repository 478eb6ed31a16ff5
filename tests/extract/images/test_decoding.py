import io
import random
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
import torch
from images import encoded, picture
from PIL import Image

import alike.extract.images.decoding
from alike.extract.errors import BadImage
from alike.extract.images.decoding import NPY, decode

IMAGE = picture(0, (60, 40))
WIDE = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(IMAGE, "JPEG", exif=exif)


def palette_with_alpha() -> bytes:
    return encoded(IMAGE.convert("P"), "PNG", transparency=bytes(range(256)))


def animation() -> bytes:
    frames = [IMAGE.convert("P"), picture(1, (60, 40)).convert("P")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def as_npy(array: np.ndarray) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


GOOD: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(IMAGE),
    "progressive": lambda: encoded(IMAGE, progressive=True),
    "cmyk": lambda: encoded(IMAGE.convert("CMYK")),
    "grey jpeg": lambda: encoded(IMAGE.convert("L")),
    "png": lambda: encoded(IMAGE, "PNG"),
    "palette": lambda: encoded(IMAGE.convert("P"), "PNG"),
    "palette with alpha": palette_with_alpha,
    "alpha": lambda: encoded(IMAGE.convert("RGBA"), "PNG"),
    "grey with alpha": lambda: encoded(IMAGE.convert("LA"), "PNG"),
    "one bit": lambda: encoded(IMAGE.convert("1"), "PNG"),
    "webp": lambda: encoded(IMAGE, "WEBP"),
    "gif": animation,
    "bmp": lambda: encoded(IMAGE, "BMP"),
    "tiff": lambda: encoded(IMAGE, "TIFF"),
}


@pytest.mark.parametrize("name", GOOD)
def test_same_pixels_as_pillow(name: str) -> None:
    data = GOOD[name]()
    with Image.open(io.BytesIO(data)) as opened:
        plain = opened.convert("RGBA").convert("RGB") if "palette w" in name else opened
        expected = np.array(plain.convert("RGB"))
    found = decode(data)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_orientation_in_exif_is_applied() -> None:
    plain = decode(encoded(IMAGE))
    assert torch.equal(decode(turned()), plain.rot90(-1, (1, 2)))


def test_sixteen_bits_are_scaled() -> None:
    found = decode(encoded(Image.fromarray(WIDE), "PNG"))
    assert np.abs(found[0].numpy() - WIDE / 257).max() <= 0.51
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("shape", [(4, 6, 3), (3, 4, 6), (4, 6), (4, 6, 1)])
def test_arrays(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    found = decode(as_npy(array)).numpy()
    plane = {3: array[..., 0] if shape[-1] != 6 else array[0], 2: array}[len(shape)]
    assert found.shape == (3, 4, 6)
    assert np.array_equal(found[0], plane)


def huge_png() -> bytes:
    data = bytearray(encoded(IMAGE, "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def huge_jpeg() -> bytes:
    data = bytearray(encoded(IMAGE))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty": ("truncated", lambda: b""),
    "text": ("unreadable", lambda: b"no image at all\n"),
    "jpeg marker alone": ("truncated", lambda: b"\xff\xd8\xff"),
    "half a jpeg": ("truncated", lambda: encoded(IMAGE)[:700]),
    "half a progressive jpeg": ("truncated", lambda: encoded(IMAGE, progressive=True)[:700]),
    "half a png": ("truncated", lambda: encoded(IMAGE, "PNG")[:900]),
    "half a webp": ("truncated", lambda: encoded(IMAGE, "WEBP")[:300]),
    "half a gif": ("truncated", lambda: encoded(IMAGE.convert("P"), "GIF")[:900]),
    "half an array": ("truncated", lambda: as_npy(np.zeros((9, 9, 3), np.uint8))[:-5]),
    "bomb png": ("too large", huge_png),
    "bomb jpeg": ("too large", huge_jpeg),
    "float tiff": ("wrong mode", lambda: encoded(IMAGE.convert("F"), "TIFF")),
    "float array": ("wrong mode", lambda: as_npy(np.zeros((4, 4, 3), np.float32))),
    "no array": ("unreadable", lambda: NPY + b"\x01\x00\x02\x00{}"),
    "half a header": ("truncated", lambda: as_npy(np.zeros((4, 4), np.uint8))[:40]),
    "five channels": ("wrong mode", lambda: as_npy(np.zeros((4, 4, 5), np.uint8))),
    "pickle in npy": ("wrong mode", lambda: as_npy(np.array([{}], dtype=object))),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_have_a_state_and_one_line(name: str) -> None:
    state, make = BAD[name]
    with pytest.raises(BadImage) as caught:
        decode(make())
    assert caught.value.state == state
    assert caught.value.reason
    assert "\n" not in caught.value.reason
    assert " at 0x" not in caught.value.reason


@pytest.mark.quick
def test_limit_of_pixels_is_an_argument() -> None:
    with pytest.raises(BadImage, match="60x40 pixels, at most 2399"):
        decode(encoded(IMAGE), max_pixels=2399)
    assert decode(encoded(IMAGE), max_pixels=2400).shape == (3, 40, 60)


@pytest.mark.parametrize("name", GOOD)
def test_damaged_bytes_never_raise_anything_else(name: str) -> None:
    """Each either decodes or is a bad image; torchvision's PNG reader ended the process here."""
    drawn = random.Random(name)
    whole = GOOD[name]()
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(drawn.choice((1, 4, 30))):
            data[drawn.randrange(len(data))] = drawn.randrange(256)
        with suppress(BadImage):
            assert decode(bytes(data), max_pixels=10**6).shape[0] == 3


def test_pillow_takes_over_when_torchvision_has_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decode(turned())
    monkeypatch.setattr(alike.extract.images.decoding, "jpeg_pixels", lambda *_: None)
    assert torch.equal(decode(turned()), expected)
    with pytest.raises(BadImage, match="truncated"):
        decode(encoded(IMAGE)[:700])


@pytest.mark.parametrize("array", [
    np.arange(60, dtype=np.uint8).reshape(4, 5, 3),
    np.asfortranarray(np.arange(20, dtype=np.uint8).reshape(4, 5)),
])  # fmt: skip
def test_arrays_are_read_without_a_parser_that_threads_may_not_share(array, monkeypatch):
    """CPython issue 106905: two threads that parse with `ast` at once raise SystemError."""
    data = as_npy(array)

    def shared(*_, **__):
        raise AssertionError("parsed with ast")

    monkeypatch.setattr("ast.literal_eval", shared)
    found = decode(data).numpy()
    wanted = array.transpose(2, 0, 1) if array.ndim == 3 else np.stack([array] * 3)
    np.testing.assert_array_equal(found, wanted)
