"""Heat maps over images, as arrays and PNG files, without a plotting library.

Orange speaks for, blue against (colours that the colour-blind tell apart), and zero leaves the
picture as it is, in pale grey, so that colours are the map's alone. Under every map stands its
scale. A map is scaled by its own magnitudes unless a common `top` is given.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from alike.extract.errors import BadInput

if TYPE_CHECKING:
    from alike.analysis.explain.explain import Explanation

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

# Colour of weak and of strong relevance, for and against.
FOR = ((255, 196, 92), (196, 40, 0))
AGAINST = ((120, 190, 255), (8, 56, 150))
SIDE, GAP, LINE, FONT, BAR = 288, 14, 19, 15, 9
INK, FAINT, PAPER = (30, 30, 30), (110, 110, 110), (255, 255, 255)
SMOOTHED = 112
NOTE = (
    "Orange speaks for, blue against. Each map has its own scale: full colour is its 99.5 % "
    "quantile of magnitude. Maps of pixels are smoothed by a 112th of their side."
)


@dataclass(frozen=True)
class Scale:
    """What the colours of a map mean.

    Attributes:
        top: the magnitude in full colour.
        signed: whether the map has values below zero, so that the scale shows blue as well.
    """

    top: float
    signed: bool


@dataclass(frozen=True)
class Tile:
    """One picture of a panel.

    Attributes:
        picture: (H, W, 3) uint8.
        lines: short lines of text below it; the first is its heading.
        scale: of its colours, drawn below it; None where it is no map.
    """

    picture: Pixels
    lines: tuple[str, ...] = ()
    scale: Scale | None = None


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
    grey = np.asarray(picture.convert("L"), np.float32)[..., None] * 0.62 + 84
    full = full_colour(heat) if top is None else top
    strength = _enlarged(drawn(heat), picture.size)
    return _coloured(grey, np.clip(strength / full, -1, 1) if full > 0 else strength * 0)


def _coloured(grey: Floats, share: Floats) -> Pixels:
    """Colour `share` (H, W), -1 to 1, over `grey` (H, W, 1)."""
    size = np.abs(share)[..., None]
    positive, negative = (
        np.asarray(weak, np.float32) * (1 - size) + np.asarray(strong, np.float32) * size
        for weak, strong in (FOR, AGAINST)
    )
    opacity = 0.85 * size**0.8
    mixed = grey * (1 - opacity) + np.where(share[..., None] >= 0, positive, negative) * opacity
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)


def drawn(heat: Floats) -> npt.NDArray[np.float32]:
    """The map as it is drawn: one of pixels smoothed by a 112th of its side, for single pixels are
    too small to see; one of positions, or of a small image, as it is.
    """  # noqa: D205
    sigma = max(heat.shape) / SMOOTHED
    values = np.asarray(heat, np.float32)
    return values if sigma < 1 else np.asarray(gaussian_filter(values, sigma, mode="nearest"))


def full_colour(*heats: Floats) -> float:
    """The magnitude drawn in full colour: the 99.5 % quantile, or the largest if that is 0.

    Of several maps that share a scale it is the largest of theirs.
    """
    sizes = [np.abs(drawn(heat).astype(np.float64)) for heat in heats]
    return max(float(np.quantile(size, 0.995)) or float(size.max(initial=0)) for size in sizes)


def heat_tile(
    image: Pixels, heat: Floats, lines: Sequence[str], *, top: float | None = None, side: int = SIDE
) -> Tile:
    """A tile of a map over its image, with its scale; arguments as `overlay`."""
    full = full_colour(heat) if top is None else top
    signed = bool((drawn(heat) < -0.01 * full).any())
    return Tile(overlay(image, heat, top=full, side=side), tuple(lines), Scale(full, signed))


def panel(
    rows: Sequence[Sequence[Tile]], *, side: int = SIDE, title: str = "", note: str = ""
) -> Pixels:
    """Set tiles in rows, their scale and text below each, on white paper.

    Args:
        rows: of tiles; rows may differ in length.
        side: width and height of the box that each picture is fitted into.
        title: above all.
        note: below all, broken into lines; what the colours mean.

    Returns:
        (H, W, 3) uint8.
    """
    if not rows or not any(rows):
        raise BadInput("a panel of no tiles: give at least one")
    font = ImageFont.load_default(FONT)
    width = max(len(row) for row in rows) * (side + GAP) + GAP
    foot = _broken(note, width - 2 * GAP, font)
    head = GAP + LINE + GAP // 2 if title else GAP
    heights = [side + 4 + max(map(_text_height, row), default=0) for row in rows]
    high = head + sum(heights) + GAP * len(rows) + (LINE * len(foot) + GAP // 2 if foot else 0)
    sheet = Image.new("RGB", (width, high), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), _cut(title, width - 2 * GAP, font), fill=INK, font=font)
    down = head
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = GAP + column * (side + GAP)
            sheet.paste(_fitted(tile.picture, side), (left, down))
            _write(sheet, pen, tile, (left, down + side + 4), side)
        down += height + GAP
    for number, line in enumerate(foot):
        pen.text((GAP, down + number * LINE), line, fill=FAINT, font=font)
    return np.asarray(sheet)


def _text_height(tile: Tile) -> int:
    return LINE * len(tile.lines) + (BAR + LINE if tile.scale else 0)


def _write(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, place: tuple[int, int], side: int
) -> None:
    """The scale of a tile and its lines of text."""
    (left, down), font = place, ImageFont.load_default(FONT)
    if tile.scale:
        low = -1.0 if tile.scale.signed else 0.0
        share = np.repeat(np.linspace(low, 1, side, dtype=np.float32)[None], BAR, axis=0)
        sheet.paste(Image.fromarray(_coloured(np.full((1, 1, 1), 215.0), share)), (left, down))
        top = f"{tile.scale.top:.2g}"
        ends = [(0.0, "la", f"-{top}" if tile.scale.signed else "0"), (1.0, "ra", top)]
        for at, anchor, said in [*ends, *([(0.5, "ma", "0")] if tile.scale.signed else [])]:
            where = (left + at * side, down + BAR + 1)
            pen.text(where, said, fill=FAINT, font=font, anchor=anchor)
        down += BAR + LINE
    for number, line in enumerate(tile.lines):
        ink = INK if number == 0 else FAINT
        pen.text((left, down + number * LINE), _cut(line, side, font), fill=ink, font=font)


def explanation_panel(
    explanations: Sequence[Sequence["Explanation"]],
    names: Sequence[str] = (),
    *,
    side: int = SIDE,
    title: str = "",
) -> Pixels:
    """Show images and their maps: one row an image, first the image, then one tile a method.

    Args:
        explanations: for each image its explanations, one a method.
        names: of the images.
        side: of each picture.
        title: above all.

    Returns:
        (H, W, 3) uint8; `png` makes a file of it, so that a report can embed it.
    """
    from alike.analysis.explain.explain import EXPLAINERS

    rows = []
    for number, found in enumerate(explanations):
        first = found[0]
        said = (
            *names[number : number + 1],
            f"explained: {first.target_name}",
            f"p = {first.probability:.2f}, score {first.score:.2f}",
        )
        tiles = [Tile(first.image, said)]
        tiles += [
            heat_tile(
                one.image, one.relevance, (one.method, EXPLAINERS[one.method].about), side=side
            )
            for one in found
        ]
        rows.append(tiles)
    return panel(rows, side=side, title=title, note=NOTE)


def png(picture: Pixels) -> bytes:
    """Return a picture (H, W, 3) uint8 as the bytes of a PNG file."""
    held = io.BytesIO()
    Image.fromarray(picture).save(held, format="PNG")
    return held.getvalue()


def _enlarged(heat: Floats, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    grid = Image.fromarray(np.ascontiguousarray(heat, np.float32))
    large = np.asarray(grid.resize(size, Image.Resampling.BILINEAR), np.float32)
    cell = size[0] / heat.shape[1]
    # A fifth of a cell rounds the creases of bilinear interpolation, which look like evidence.
    return large if cell < 4 else np.asarray(gaussian_filter(large, cell / 5, mode="nearest"))


def _fitted(picture: Pixels, side: int) -> Image.Image:
    image = Image.fromarray(picture)
    scale = side / max(image.size)
    wide, high = (max(1, round(length * scale)) for length in image.size)
    # Small images stay sharp: their pixels are what the network saw.
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    return image.resize((wide, high), how)


def _broken(
    text: str, width: int, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont"
) -> list[str]:
    """Text in lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _cut(line: str, width: int, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    while len(line) > 1 and font.getlength(line) > width:
        line = line[:-2] + "…"
    return line
