"""A contact sheet: each query and its neighbours as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.frames import read_image
from alike.extract.replacing import aside

TILE = 128
GAP = 6
CAPTION = 28
LEFT = 10
WRAP = 10
"""Neighbours in one line; more go on below, under an empty place."""

SAME, OTHER, PLAIN = (26, 127, 55), (207, 34, 46), (87, 96, 106)
"""Frame of a neighbour of the query's class, of another, and of one if a class is not known."""


@dataclass(frozen=True)
class Cell:
    """One picture of the sheet.

    Attributes:
        data: encoded image.
        caption: up to two short lines.
        label: class, or None.
    """

    data: bytes
    caption: tuple[str, str]
    label: str | None


def contact_sheet(
    lines: Sequence[tuple[Cell, Sequence[Cell]]], path: Path, *, tile: int = TILE
) -> Path:
    """Write a PNG with one line a query: the query, then its neighbours, nearest first.

    Args:
        lines: (query, neighbours); a neighbour is framed green if it has the query's class, red if
            it has another, grey if either is not known.
        path: of the PNG.
        tile: side of a picture in pixels; pictures keep their proportions.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=11)
    strips = [
        (query, cells[low : low + WRAP], low)
        for query, cells in lines
        for low in range(0, max(len(cells), 1), WRAP)
    ]
    columns = 1 + max((len(cells) for _, cells, _ in strips), default=0)
    step = (tile + 2 * GAP, tile + 2 * GAP + CAPTION)
    size = (columns * step[0] + 2 * LEFT, len(strips) * step[1] + 2 * GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for line, (query, cells, low) in enumerate(strips):
        for column, cell in enumerate((query, *cells)):
            if low and not column:
                continue
            # The query stands a little apart from its neighbours.
            at = (column * step[0] + GAP + (LEFT if column else 0), line * step[1] + GAP)
            picture = _picture(cell.data, tile)
            place = (at[0] + (tile - picture.width) // 2, at[1] + (tile - picture.height) // 2)
            sheet.paste(picture, place)
            if column:
                box = (at[0] - 3, at[1] - 3, at[0] + tile + 2, at[1] + tile + 2)
                draw.rectangle(box, outline=_colour(query.label, cell.label), width=3)
            for number, text in enumerate(cell.caption):
                place = (at[0], at[1] + tile + 4 + 13 * number)
                draw.text(place, _fit(draw, text, tile, font), fill="black", font=font)
    with aside(path) as part:
        sheet.save(part, format="PNG")
    return path


def _colour(query: str | None, other: str | None) -> tuple[int, int, int]:
    if query is None or other is None:
        return PLAIN
    return SAME if query == other else OTHER


def _fit(draw: Any, text: str, width: int, font: Any) -> str:
    """The text; one that is too wide loses its beginning, since the end of a path tells more."""
    if draw.textlength(text, font=font) <= width:
        return text
    while len(text) > 1 and draw.textlength("…" + text, font=font) > width:
        text = text[1:]
    return "…" + text


def _picture(data: bytes, tile: int) -> Any:
    from PIL import Image

    try:
        array = read_image(data).pixels().permute(1, 2, 0).contiguous().numpy()
    except BadInput:
        # The sheet shows that an image cannot be read any more, and does not fail as a whole.
        return Image.new("RGB", (tile, tile), (235, 235, 235))
    picture = Image.fromarray(array)
    scale = tile / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    # Small pictures keep their pixels, large ones are smoothed.
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    return picture.resize(size, how)
