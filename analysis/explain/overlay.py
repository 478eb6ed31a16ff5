"""Heat maps over images, as arrays and PNG files, without a plotting library.

Orange speaks for, blue against (colours that the colour-blind tell apart), and zero leaves the
picture as it is, in pale grey, so that colours are the map's alone. Under every map stands its
scale. A map is scaled by its own magnitudes unless a common `top` is given.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from alike.analysis.explain.stored_grades import NOTE as GRADE_NOTE
from alike.analysis.explain.stored_grades import StoredGrades
from alike.extract.panels import SIDE, ColourBar, PanelImage, Pixels, panel

if TYPE_CHECKING:
    from alike.analysis.explain.explain import Explanation

Floats = npt.NDArray[np.floating]

# Colour of weak and of strong relevance, for and against.
FOR = ((255, 196, 92), (196, 40, 0))
AGAINST = ((120, 190, 255), (8, 56, 150))
SMOOTHED = 112
LONGER = 4
PICTURED = 64
"""Rows of a picture, at most: of thousands it would not fit into memory."""
NOTE = (
    "Orange speaks for the class, blue against it. Each map has its own scale: full colour is its "
    "99.5 % quantile of magnitude. Maps of pixels are smoothed by a 112th of their side."
)


def overlay(
    image: Pixels, heat: Floats, *, top: float | None = None, side: int | None = None
) -> Pixels:
    """Lay a map over its image.

    Args:
        image: (H, W, 3) uint8, what the network saw.
        heat: (h, w) relevance of any sign; enlarged to the image with bilinear interpolation.
        top: the magnitude drawn in full colour; the map's own 99.5 % quantile where None.
        side: length in pixels of the shorter side of the result, or of a `LONGER`-th of the longer
            side of a very long image; the image's own where None.

    Returns:
        (H', W', 3) uint8.
    """
    picture = Image.fromarray(image)
    if side is not None:
        # One row of 5,000 pixels would be enlarged to more than fits into memory.
        scale = min(side / min(picture.size), LONGER * side / max(picture.size))
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


def heat_image(
    image: Pixels, heat: Floats, lines: Sequence[str], *, top: float | None = None, side: int = SIDE
) -> PanelImage:
    """A map over its image, with its scale, for a panel; arguments as `overlay`."""
    full = full_colour(heat) if top is None else top
    if not np.any(heat):
        lines = (*lines, "zero everywhere: no explanation")
    signed = bool((drawn(heat) < -0.01 * full).any())
    return PanelImage(overlay(image, heat, top=full, side=side), tuple(lines), _bar(full, signed))


def _bar(top: float, signed: bool) -> ColourBar:
    """The colours from `-top`, or from 0 for a map without negative values, to `top`."""
    share = np.linspace(-1.0 if signed else 0.0, 1, SIDE, dtype=np.float32)[None]
    end = f"{top:.2g}"
    middle = ((0.5, "0"),) if signed else ()
    labels = ((0.0, f"-{end}" if signed else "0"), *middle, (1.0, end))
    return ColourBar(_coloured(np.full((1, 1, 1), 215.0), share), labels)


def explanation_panel(
    explanations: Sequence[Sequence["Explanation"]],
    names: Sequence[str] = (),
    *,
    side: int = SIDE,
    title: str = "",
    grades: StoredGrades | None = None,
) -> Pixels:
    """Show images and their maps: one row an image, first the image, then one map a method.

    Args:
        explanations: for each image its explanations, one a method.
        names: of the images.
        side: of each picture.
        title: above all.
        grades: written under the maps; None: none are.

    Returns:
        (H, W, 3) uint8; `png` makes a file of it, so that a report can embed it.
    """
    from alike.analysis.explain.explain import EXPLAINERS

    rows = []
    for number, of_image in enumerate(explanations):
        first = of_image[0]
        lines = (
            *names[number : number + 1],
            f"explained: {first.target_name}",
            f"p = {first.probability:.2f}, score {first.score:.2f}",
        )
        maps = []
        for one in of_image:
            under = [one.method, EXPLAINERS[one.method].about]
            under += [grades.line(one.method)] if grades else []
            maps.append(heat_image(one.image, one.relevance, under, side=side))
        rows.append([PanelImage(first.image, lines), *maps])
    note = f"{NOTE} {GRADE_NOTE}" if grades else NOTE
    return panel(rows, side=side, title=title, note=note)


def pictured_note(count: int, what: str) -> list[str]:
    """Say how many rows a picture leaves out, if it does.

    Example:
        >>> pictured_note(64, "images"), pictured_note(1000, "images")
        ([], ['the picture shows the first 64 of 1,000 images'])
    """
    return [f"the picture shows the first {PICTURED} of {count:,} {what}"][: count > PICTURED]


def _enlarged(heat: Floats, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    grid = Image.fromarray(np.ascontiguousarray(heat, np.float32))
    large = np.asarray(grid.resize(size, Image.Resampling.BILINEAR), np.float32)
    cell = size[0] / heat.shape[1]
    # A fifth of a cell rounds the creases of bilinear interpolation, which look like evidence.
    return large if cell < 4 else np.asarray(gaussian_filter(large, cell / 5, mode="nearest"))
