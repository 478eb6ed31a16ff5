"""Heat maps over images, as arrays and PNG files, without a plotting library.

Positive relevance goes from yellow to red, negative from cyan to blue, and zero leaves the picture
as it is (in grey, so that colours are the map's alone). A map is scaled by its own largest
magnitude unless a common `top` is given.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from extract.errors import BadInput

if TYPE_CHECKING:
    from analysis.explain import Explanation

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

# Colour of weak and of strong relevance, for and against.
FOR, AGAINST = ((255, 214, 60), (190, 10, 38)), ((90, 215, 255), (20, 50, 180))
SIDE, GAP, LINE = 224, 8, 15
INK, PAPER = (40, 40, 40), (255, 255, 255)


@dataclass(frozen=True)
class Tile:
    """One picture of a panel.

    Attributes:
        picture: (H, W, 3) uint8.
        lines: short lines of text below it.
    """

    picture: Pixels
    lines: tuple[str, ...] = ()


def overlay(
    image: Pixels, heat: Floats, *, top: float | None = None, side: int | None = None
) -> Pixels:
    """Lay a map over its image.

    Args:
        image: (H, W, 3) uint8, what the network saw.
        heat: (h, w) relevance of any sign; enlarged to the image with bilinear interpolation.
        top: the magnitude drawn in full colour; the map's own 99.5 % quantile where None.
        side: length in pixels of the shorter side of the result; the image's own where None.

    Returns:
        (H', W', 3) uint8.
    """
    picture = Image.fromarray(image)
    if side is not None:
        scale = side / min(picture.size)
        wide, high = (max(1, round(length * scale)) for length in picture.size)
        picture = picture.resize((wide, high), Image.Resampling.BICUBIC)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None] * 0.75 + 40
    strength = _enlarged(heat, picture.size)
    full = full_colour(heat) if top is None else top
    share = np.clip(strength / full, -1, 1)[..., None] if full > 0 else strength[..., None] * 0
    size = np.abs(share)
    positive, negative = (
        np.asarray(weak, np.float32) * (1 - size) + np.asarray(strong, np.float32) * size
        for weak, strong in (FOR, AGAINST)
    )
    opacity = 0.8 * size**0.7
    mixed = grey * (1 - opacity) + np.where(share >= 0, positive, negative) * opacity
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)


def full_colour(heat: Floats) -> float:
    """The magnitude drawn in full colour: the 99.5 % quantile, or the largest if that is 0."""
    size = np.abs(np.asarray(heat, np.float64))
    return float(np.quantile(size, 0.995)) or float(size.max(initial=0))


def panel(rows: Sequence[Sequence[Tile]], *, side: int = SIDE, title: str = "") -> Pixels:
    """Set tiles in rows, text below each, on white paper.

    Args:
        rows: of tiles; rows may differ in length.
        side: width and height of the box that each picture is fitted into.
        title: above all.

    Returns:
        (H, W, 3) uint8.
    """
    if not rows or not any(rows):
        raise BadInput("a panel of no tiles: give at least one")
    head = LINE * 2 if title else GAP
    heights = [side + GAP + LINE * max(len(tile.lines) for tile in row) for row in rows]
    width = max(len(row) for row in rows) * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, head + sum(heights) + GAP * len(rows)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    pen.text((GAP, GAP), title, fill=INK, font=font)
    down = head
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = GAP + column * (side + GAP)
            sheet.paste(_fitted(tile.picture, side), (left, down))
            for number, line in enumerate(tile.lines):
                place = (left, down + side + 2 + number * LINE)
                pen.text(place, _cut(line, side, font), fill=INK, font=font)
        down += height + GAP
    return np.asarray(sheet)


def explanation_panel(
    explanations: Sequence[Sequence["Explanation"]], *, side: int = SIDE, title: str = ""
) -> Pixels:
    """Show images and their maps: one row an image, first the image, then one tile a method.

    Args:
        explanations: for each image its explanations, one a method.
        side: of each picture.
        title: above all.

    Returns:
        (H, W, 3) uint8; `png` makes a file of it, so that a report can embed it.
    """
    rows = []
    for found in explanations:
        first = found[0]
        said = (first.target_name, f"p = {first.probability:.2f}, score {first.score:.2f}")
        tiles = [Tile(first.image, said)]
        tiles += [
            Tile(overlay(one.image, one.relevance, side=side), (one.method,)) for one in found
        ]
        rows.append(tiles)
    return panel(rows, side=side, title=title)


def png(picture: Pixels) -> bytes:
    """Return a picture (H, W, 3) uint8 as the bytes of a PNG file."""
    held = io.BytesIO()
    Image.fromarray(picture).save(held, format="PNG")
    return held.getvalue()


def _enlarged(heat: Floats, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    grid = Image.fromarray(np.ascontiguousarray(heat, np.float32))
    return np.asarray(grid.resize(size, Image.Resampling.BILINEAR), np.float32)


def _fitted(picture: Pixels, side: int) -> Image.Image:
    image = Image.fromarray(picture)
    scale = side / max(image.size)
    wide, high = (max(1, round(length * scale)) for length in image.size)
    # Small images stay sharp: their pixels are what the network saw.
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize((wide, high), how)


def _cut(line: str, width: int, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    while len(line) > 1 and font.getlength(line) > width:
        line = line[:-2] + "…"
    return line
