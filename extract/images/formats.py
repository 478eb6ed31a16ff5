"""The image formats that are read: an allow-list, in this one place.

Pillow knows some 40 formats, of which one starts another program (EPS: Ghostscript) and several
have no fixed range of values. A file is read if its content is of a format listed here, whatever
its name says. A folder lists a file if its suffix is listed here.
"""

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec

HEIF = find_spec("pillow_heif") is not None
"""Whether HEIC can be read here: `pillow-heif` is installed."""

FORMATS: Mapping[str, tuple[str, ...]] = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png",),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "PPM": ("ppm", "pgm"),
    "TIFF": ("tif", "tiff"),
    "AVIF": ("avif",),
    **({"HEIF": ("heic", "heif", "hif")} if HEIF else {}),
}
"""Pillow's name of a format to the suffixes of its files. Arrays (.npy) are read without Pillow."""

SUFFIXES = frozenset(f".{name}" for names in (*FORMATS.values(), ("npy",)) for name in names)
HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
HEIC_ADVICE = "pip install 'alike[heic]' reads HEIC"
_TEXTS = "txt json csv tsv xml yaml yml md html parquet ini py log cls label toml pdf db"
NOT_IMAGES = frozenset(f".{name}" for name in _TEXTS.split())
"""Suffixes that nobody takes for images: files beside the images of a set."""
_TEXT_NAME = re.compile(r"[A-Z_]+|[Mm]akefile|Dockerfile|\..*")
"""Files without a suffix that are texts by custom (README, LICENSE), or hidden."""


def suffix_of(name: str) -> str:
    """The suffix of a file's name, in lower case; "" if there is none.

    Example:
        >>> suffix_of("IMG_0001.HEIC"), suffix_of("README")
        ('.heic', '')
    """
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def left_out_note(names: Iterable[str]) -> str | None:
    """One line that counts the files that a listing left out, by suffix as written.

    Args:
        names: of the files.

    Returns:
        The line; None if no file was left out, apart from texts and tables.

    Example:
        >>> left_out_note(["a.svg", "b.svg", "notes.txt"])
        '2 files with other suffixes are left out: .svg 2'
        >>> left_out_note(["scan", "README"])
        '1 file without a suffix is left out'
    """
    counts: dict[str, int] = {}
    bare = 0
    for name in names:
        suffix = suffix_of(name)
        bare += not suffix and not _TEXT_NAME.fullmatch(name.rpartition("/")[2])
        if suffix and suffix not in NOT_IMAGES:
            written = f".{name.rpartition('.')[2]}"
            counts[written] = counts.get(written, 0) + 1
    parts = [_with_suffixes(counts)] if counts else []
    if bare:
        files = "1 file without a suffix is" if bare == 1 else f"{bare} files without a suffix are"
        parts.append(f"{files} left out")
    return "; ".join(parts) or None


def _with_suffixes(counts: Mapping[str, int]) -> str:
    """The line on files of other suffixes, given suffix to their number."""
    listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    total = sum(counts.values())
    heic = any(name.lower() in HEIC_SUFFIXES for name in counts)
    files = (
        "1 file with another suffix is" if total == 1 else f"{total} files with other suffixes are"
    )
    return f"{files} left out: {listed}" + (f"; {HEIC_ADVICE}" if heic else "")
