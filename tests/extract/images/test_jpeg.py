"""Orientation, stray bytes and damage of image files, against Pillow."""

import io
import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from images import encoded, picture
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError, features

from alike.extract.errors import BadImage
from alike.extract.images import decoding, formats
from alike.extract.images.decoding import decode
from alike.extract.images.formats import FORMATS, left_out_note
from alike.extract.images.jpeg import check_warning
from alike.extract.images.sources import open_source
from alike.extract.preview import preview

IMAGE = picture(0, (90, 60))
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="{}"/>'
    "</rdf:RDF></x:xmpmeta>"
)
STRAY = {"one byte": b"\x17", "three": b"abc", "escaped": b"\xff\x00", "fill": b"\xff\xff"}


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def exif_segment(orientation: int) -> bytes:
    return segment(0xE1, exif_of(orientation))


def xmp_segment(orientation: int | None) -> bytes:
    text = "<x:xmpmeta/>" if orientation is None else XMP.format(orientation)
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00" + text.encode())


ORDERS = {
    "exif": lambda n: exif_segment(n),
    "xmp before exif": lambda n: xmp_segment(None) + exif_segment(n),
    "exif before xmp": lambda n: exif_segment(n) + xmp_segment(None),
    "other turn in xmp": lambda n: xmp_segment(n % 8 + 1) + exif_segment(n),
    "xmp alone": lambda n: xmp_segment(n),
    "profile before exif": lambda n: segment(0xE2, b"ICC_PROFILE\x00\x01\x01") + exif_segment(n),
    "comment before exif": lambda n: segment(0xFE, b"a word") + exif_segment(n),
    "stray byte before exif": lambda n: segment(0xFE, b"") + b"\x00" + exif_segment(n),
    "stray and xmp before exif": lambda n: xmp_segment(None) + b"\x00\x01" + exif_segment(n),
    "damaged exif": lambda n: segment(0xE1, b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff"),
    "none": lambda n: b"",
}


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(("order", "orientation"), list(product(ORDERS, range(10))))
def test_jpegs_stand_upright_as_in_pillow(order: str, orientation: int) -> None:
    plain = encoded(IMAGE)
    data = plain[:2] + ORDERS[order](orientation) + plain[2:]
    found = decode(data).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, by_pillow(data))


METADATA = {
    "exif": lambda n: {"exif": exif_of(n)},
    "xmp": lambda n: {"xmp": XMP.format(n)},
    "both, other turns": lambda n: {"exif": exif_of(n), "xmp": XMP.format(n % 8 + 1)},
    "neither": lambda n: {},
}


@pytest.mark.parametrize("metadata", METADATA)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_other_formats_stand_upright_as_in_pillow(kind: str, metadata: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    for orientation in range(10):
        given = METADATA[metadata](orientation)
        xmp = given.pop("xmp", None)
        if xmp and kind == "PNG":
            given["pnginfo"] = PngImagePlugin.PngInfo()
            given["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp)
        elif xmp:
            given |= {"tiffinfo": {700: xmp.encode()}} if kind == "TIFF" else {"xmp": xmp.encode()}
        if kind == "TIFF" and metadata.startswith("both"):
            given = {"tiffinfo": {700: xmp.encode(), 0x0112: orientation}}
        data = encoded(IMAGE, kind, **given)
        found = decode(data).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(found, by_pillow(data))
        turned = metadata != "neither" and orientation in (5, 6, 7, 8) and kind != "TIFF"
        if turned and not metadata.startswith("both"):
            assert found.shape == (90, 60, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("stray", STRAY)
def test_stray_bytes_before_a_marker_are_passed_over(stray: str, progressive: bool) -> None:
    plain = encoded(IMAGE, progressive=progressive)
    for marker in (b"\xff\xdb", b"\xff\xc2" if progressive else b"\xff\xc0", b"\xff\xda"):
        at = plain.index(marker)
        data = plain[:at] + STRAY[stray] + plain[at:]
        np.testing.assert_array_equal(decode(data).permute(1, 2, 0).numpy(), by_pillow(data))


def test_the_decoders_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features may not depend on which of them is installed."""
    files = [
        encoded(picture(seed, size).convert(mode), subsampling=subsampling, progressive=progressive)
        for seed, (size, mode, subsampling, progressive) in enumerate(
            product([(64, 48), (31, 17), (8, 9)], ["RGB", "L"], [0, 1, 2], [False, True])
        )
    ]
    first = [decode(data) for data in files]
    monkeypatch.setattr("alike.extract.images.jpeg._strict_decoder", lambda: None)
    second = [decode(data) for data in files]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    for pixels, data in zip(first, files, strict=True):
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), by_pillow(data))


def test_data_that_libjpeg_fills_in_is_damaged() -> None:
    pytest.importorskip("simplejpeg")
    for progressive, share in product([False, True], [0.3, 0.6, 0.9]):
        whole = encoded(picture(3, (300, 200)), progressive=progressive)
        cut = whole[: int(len(whole) * share)]
        with pytest.raises(BadImage, match=r"damaged: .*premature end of data segment"):
            decode(cut + b"\xff\xd9")
        with pytest.raises(BadImage, match="truncated"):
            decode(cut)
    header = whole[: whole.index(b"\xff\xda") - 40]
    with pytest.raises(BadImage, match="damaged"):
        decode(header + b"\xff\xd9")
    stray = whole[:20] + b"\x01\x02" + whole[20 : len(whole) // 2] + b"\xff\xd9"
    with pytest.raises(BadImage, match="damaged"):
        decode(stray)


@pytest.mark.quick
def test_padding_and_what_follows_the_end_is_no_damage() -> None:
    whole = encoded(IMAGE)
    for data in (
        whole[:-2] + bytes(8) + whole[-2:],
        whole[:-2] + bytes(8) + whole[-2:] + b"a film\xff\xd9",
        whole + bytes(100),
        whole + whole,
    ):
        np.testing.assert_array_equal(decode(data).permute(1, 2, 0).numpy(), by_pillow(whole))


@pytest.mark.parametrize(
    ("message", "state"),
    [
        ("Premature end of JPEG file", "truncated"),
        ("Corrupt JPEG data: premature end of data segment", "damaged"),
        ("Corrupt JPEG data: bad Huffman code", "damaged"),
        ("Corrupt JPEG data: found marker 0xd9 instead of RST4", "damaged"),
        ("Corrupt JPEG data: 7 extraneous bytes before marker 0xd9", "damaged"),
        ("Corrupt JPEG data: 7 extraneous bytes before marker 0xda", "damaged"),
        ("Corrupt JPEG data: 3 extraneous bytes before marker 0xd9", None),
        ("Unknown Adobe color transform code 3", None),
    ],
)
def test_what_a_warning_means(message: str, state: str | None) -> None:
    data = b"\x01" + bytes(3) + b"\xff\xd9"
    if state is None:
        check_warning(message, data)
        return
    with pytest.raises(BadImage) as caught:
        check_warning(message, data)
    assert caught.value.state == state


def test_a_large_profile_or_text_of_a_png_loses_nothing() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * (3 * 2**20), zip=True)
    for data in (
        encoded(IMAGE, "PNG", icc_profile=bytes(3 * 2**20)),
        encoded(IMAGE, "PNG", pnginfo=text),
    ):
        np.testing.assert_array_equal(decode(data).permute(1, 2, 0).numpy(), np.array(IMAGE))


def test_formats_that_are_not_listed_never_reach_their_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from PIL import EpsImagePlugin

    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    for kind in ("EPS", "PDF", "ICNS", "TGA", "PCX"):
        assert kind not in FORMATS
        data = encoded(picture(1, (128, 128)), kind)
        with pytest.raises(BadImage, match="unreadable: no image of a format that is read"):
            decode(data)


def test_what_a_listing_left_out_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "SUFFIXES", frozenset((".jpg",)))
    assert left_out_note(["notes.txt", "README", "labels.csv"]) is None
    assert left_out_note(["a.svg", "scan", "b/scan2", "b/LICENSE"]) == (
        "1 file with another suffix is left out: .svg 1; 2 files without a suffix are left out"
    )
    assert left_out_note(["a.HEIC", "b.HEIC", "c.svg", "notes.txt"]) == (
        "3 files with other suffixes are left out: .HEIC 2, .svg 1; "
        "pip install 'alike[heic]' reads HEIC"
    )


@pytest.mark.quick
def test_a_pointer_in_the_place_of_an_image_is_named() -> None:
    with pytest.raises(BadImage, match=r"unreadable: a Git LFS pointer, .*git lfs pull"):
        decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n")


def test_heic_without_its_reader_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "HEIF", False)
    monkeypatch.setattr(decoding, "FORMATS", {"JPEG": ("jpg",)})
    with pytest.raises(BadImage, match=r"HEIC; pip install 'alike\[heic\]'"):
        decode(b"\x00\x00\x00\x18ftypheic" + bytes(40))


@pytest.mark.skipif(not formats.HEIF, reason="pillow-heif is not installed")
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_heic_stands_upright(orientation: int) -> None:
    decoding._pillow()
    data = encoded(IMAGE, "HEIF", quality=100, exif=exif_of(orientation))
    np.testing.assert_array_equal(decode(data).permute(1, 2, 0).numpy(), by_pillow(data))
    turned = by_pillow(encoded(IMAGE, "PNG", exif=exif_of(orientation)))
    assert np.abs(decode(data).permute(1, 2, 0).numpy().astype(int) - turned).mean() < 4


def test_preview_says_which_orientations_are_not_known(tmp_path: Path) -> None:
    plain = encoded(IMAGE)
    # Pillow refuses the marker TEM, which libjpeg skips; and an EXIF without a header of TIFF.
    refused = plain[:2] + b"\xff\x01" + exif_segment(6) + plain[2:]
    broken = segment(0xE1, b"Exif\x00\x00" + b"X" * 16)
    damaged = plain[:2] + broken + plain[2:]
    # With a resolution Pillow has no need of EXIF when it opens the file, and raises later.
    raising = encoded(IMAGE, dpi=(72, 72))
    raising = raising[:2] + broken + raising[2:]
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(refused))
    files = {"refused": refused, "damaged": damaged, "raising": raising, "none": plain}
    files |= {f"by {n}": plain[:2] + exif_segment(n) + plain[2:] for n in (1, 6, 9)}
    (tmp_path / "a").mkdir()
    for name, data in files.items():
        (tmp_path / "a" / f"{name}.jpg").write_bytes(data)
    found = preview(open_source(str(tmp_path)))
    assert (found.bad, found.formats, found.turned) == ([], {"JPEG": 7}, 1)
    assert any(note.startswith("4 images looked at have damaged") for note in found.notes)
    for data in (refused, damaged, raising):
        assert torch.equal(decode(data), decode(plain))
