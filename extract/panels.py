"""Pictures in rows with text below each, as one picture: panels, contact sheets."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from alike.extract.errors import BadInput

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SIDE, GAP, LINE, FONT, BAR, FRAME = 288, 14, 19, 15, 9, 3
INK, FAINT, PAPER = (30, 30, 30), (110, 110, 110), (255, 255, 255)


@dataclass(frozen=True)
class ColourBar:
    """The scale of a picture's colours, drawn below it.

    Attributes:
        strip: (1, W, 3) uint8, the colours from the left end to the right.
        labels: (place from 0 left to 1 right, text).
    """

    strip: Pixels
    labels: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class PanelImage:
    """One picture of a panel.

    Attributes:
        pixels: (H, W, 3) uint8.
        lines: short lines of text below it; the first is its heading.
        bar: the scale of its colours, or None.
        frame: colour of a frame around it, or None.
    """

    pixels: Pixels
    lines: tuple[str, ...] = ()
    bar: ColourBar | None = None
    frame: Colour | None = None


def panel(
    rows: Sequence[Sequence[PanelImage]],
    *,
    side: int = SIDE,
    title: str = "",
    note: str = "",
    cut: Literal["start", "end"] = "end",
) -> Pixels:
    """Set pictures in rows on white paper, each with its scale and text below it.

    Args:
        rows: of pictures; rows may differ in length.
        side: width and height in pixels of the box that each picture is fitted into.
        title: one line above all.
        note: text below all, broken into lines.
        cut: which part of a line goes if it is too wide. The end of a path says more than its
            start.

    Returns:
        (H, W, 3) uint8.

    Raises:
        BadInput: there is no picture.

    Example:
        >>> grey = PanelImage(np.full((4, 6, 3), 128, np.uint8), ("grey",))
        >>> panel([[grey, grey]], side=50).shape
        (101, 142, 3)
    """
    if not rows or not any(rows):
        raise BadInput("a panel of no pictures: give at least one")
    font = ImageFont.load_default(FONT)
    width = max(len(row) for row in rows) * (side + GAP) + GAP
    foot = _broken(note, width - 2 * GAP, font)
    head = GAP + LINE + GAP // 2 if title else GAP
    heights = [side + 4 + max(map(_text_height, row), default=0) for row in rows]
    high = head + sum(heights) + GAP * len(rows) + (LINE * len(foot) + GAP // 2 if foot else 0)
    paper = Image.new("RGB", (width, high), PAPER)
    pen = ImageDraw.Draw(paper)
    pen.text((GAP, GAP), shortened(title, width - 2 * GAP, font, cut), fill=INK, font=font)
    down = head
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            left = GAP + column * (side + GAP)
            paper.paste(fitted(image.pixels, side), (left, down))
            if image.frame is not None:
                box = (left - FRAME, down - FRAME, left + side + FRAME - 1, down + side + FRAME - 1)
                pen.rectangle(box, outline=image.frame, width=FRAME)
            _write(paper, pen, image, (left, down + side + 4), side, cut)
        down += height + GAP
    for number, line in enumerate(foot):
        pen.text((GAP, down + number * LINE), line, fill=FAINT, font=font)
    return np.asarray(paper)


def png(picture: Pixels, texts: Mapping[str, str] | None = None) -> bytes:
    """Return a picture (H, W, 3) uint8 as the bytes of a PNG file, with texts under their names."""
    file, held = io.BytesIO(), PngInfo()
    for name, said in (texts or {}).items():
        held.add_text(name, said)
    Image.fromarray(picture).save(file, format="PNG", pnginfo=held)
    return file.getvalue()


def fitted(pixels: Pixels, side: int) -> Image.Image:
    """A picture enlarged or reduced to a longer side of `side` pixels, proportions kept.

    A small picture keeps hard pixel edges, because its pixels are what the network saw.
    """
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    wide, high = (max(1, round(length * scale)) for length in image.size)
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    return image.resize((wide, high), how)


def shortened(line: str, width: int, font: Font, cut: Literal["start", "end"] = "end") -> str:
    """A line of at most `width` pixels; an ellipsis stands for its start or its end."""
    text, length = line, len(line)
    while length > 1 and font.getlength(text) > width:
        length -= 1
        text = f"…{line[-length:]}" if cut == "start" else f"{line[:length]}…"
    return text


def _text_height(image: PanelImage) -> int:
    return LINE * len(image.lines) + (BAR + LINE if image.bar else 0)


def _write(
    paper: Image.Image,
    pen: ImageDraw.ImageDraw,
    image: PanelImage,
    place: tuple[int, int],
    side: int,
    cut: Literal["start", "end"],
) -> None:
    """The scale of a picture and its lines of text."""
    (left, down), font = place, ImageFont.load_default(FONT)
    if image.bar:
        strip = Image.fromarray(image.bar.strip).resize((side, BAR), Image.Resampling.BILINEAR)
        paper.paste(strip, (left, down))
        for at, text in image.bar.labels:
            anchor = {0.0: "la", 1.0: "ra"}.get(at, "ma")
            pen.text((left + at * side, down + BAR + 1), text, fill=FAINT, font=font, anchor=anchor)
        down += BAR + LINE
    for number, line in enumerate(image.lines):
        ink = INK if number == 0 else FAINT
        text = shortened(line, side, font, cut)
        pen.text((left, down + number * LINE), text, fill=ink, font=font)


def _broken(text: str, width: int, font: Font) -> list[str]:
    """Text in lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
