"""Names of the files that hold drawn explanations; loads neither plotly nor torch."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from alike.extract.secrets import shown_place

TABLE = "tables/{key}/continuity.parquet"
GRADE = "tables/{key}/grade.parquet"
PAIR_GRADE = "tables/{key}/pair_grade.parquet"
BACKGROUND = "tables/{key}/background.parquet"
PICTURE = "explanations/{key}/continuity.png"
CONFUSED = "explanations/{key}/confused.png"
EXAMPLES = "explanations/{key}/examples.png"
DIGEST = "digest"
"""Name of the setting of a table, and of the text in a PNG file, that says of which features it
is."""
EXPLAINER = "explainer"
"""Name of the text in a PNG file of examples that says by which explainer it was drawn."""
LONGEST = 150
"""Bytes of a name; file systems take 255, and an ending comes after it."""


def picture_stem(images: Sequence[str | int]) -> str:
    """Begins the names of the pictures of given images, and of no others.

    Args:
        images: files, URLs, or numbers of stored rows.

    Example:
        >>> picture_stem([0]), picture_stem([0, 9])
        ('0', '0-9')
        >>> picture_stem([0, 9]) == picture_stem([0, 9, 20])
        False
        >>> picture_stem(["/a/cat.jpg"]), picture_stem(["/b/cat.jpg"])
        ('cat-d2af1359', 'cat-c70091cd')
        >>> picture_stem(["https://host/cat.jpg?token=secret"])
        'cat-0f66f4fe'
    """
    stem = "-".join(_short(image) for image in images[:2])
    if len(images) < 3 and all(isinstance(image, int) for image in images):
        return stem
    # Files of many folders have one name, and "0" may be one; more than two images are not named.
    whole = [
        image if isinstance(image, int) or "://" in image else str(Path(image).absolute())
        for image in images
    ]
    return f"{stem}-{_digest(repr(whole))}"


def file_name(name: str) -> str:
    """A name as that of a file: letters, digits and dashes; other names have other ones.

    Example:
        >>> file_name("class-cat"), file_name("class-a/b")
        ('class-cat', 'class-a_b-93c0145a')
    """
    plain = _plain(name, LONGEST)
    # Labels that differ in other letters alone have pictures of their own.
    return plain if plain == name else f"{plain}-{_digest(name)}"


def _plain(name: str, longest: int) -> str:
    letters = (letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return "".join(letters).encode(errors="replace")[:longest].decode(errors="ignore")


def _short(image: str | int) -> str:
    if isinstance(image, int):
        return str(image)
    # A URL without its query, whose values may be secrets.
    place = shown_place(image).split("?")[0] if "://" in image else image
    return _plain(Path(place).stem, LONGEST // 3)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
