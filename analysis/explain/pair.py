"""Where two images are alike and where they differ: the numbers of `likeness` meet the images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from alike.analysis.explain.inputs import Source, framed
from alike.analysis.explain.likeness_maps import Likeness, difference, directed, likeness
from alike.analysis.explain.likeness_pixels import USUAL, PixelLikeness
from alike.analysis.explain.overlay import full_colour, heat_image
from alike.analysis.explain.stored_grades import NOT_GRADED, StoredGrades
from alike.analysis.explain.stored_grades import NOTE as GRADE_NOTE
from alike.extract.command import taps_again
from alike.extract.errors import BadInput
from alike.extract.frames import StoredImages, transform_of
from alike.extract.panels import SIDE, PanelImage, Pixels, panel

if TYPE_CHECKING:
    from alike.extract.networks import Network
    from alike.extract.store import Features

Floats = npt.NDArray[np.floating]
EMPTY = 235
"""Grey of the place of an image that is gone."""
NOTE = (
    "Each position shows its share of the cosine of the pooled maps. In the columns of likeness, "
    "orange makes the two images more similar and blue less similar. In the column of difference, "
    "orange makes them less similar. The two images of a pair share the scale of a column."
)
PIXEL_NOTE = (
    "Orange makes the two images more similar, blue less similar. Under each map: its sum, of the "
    "similarity; biases take the rest. Maps are smoothed by a 112th of their side."
)


@dataclass(frozen=True)
class Alike:
    """Two images, and where they are alike.

    Attributes:
        images: of both, (H, W, 3) uint8, what the network saw.
        likeness: shares of the cosine of the pooled maps, by position.
        difference: shares of 1 - cosine.
        centred: likeness less what all images share, where a centre was given.
    """

    images: tuple[Pixels, Pixels]
    likeness: Likeness
    difference: Likeness
    centred: Likeness | None


def compare_images(
    image_a: Source, image_b: Source, network: "Network", *, centre: Floats | None = None
) -> Alike:
    """Say where two images are alike for a network.

    Args:
        image_a: a path, URL, encoded bytes, or a uint8 tensor (3, H, W).
        image_b: the other one.
        network: from `load_network`.
        centre: (C,) mean pooled feature of a data set, for `centred`.

    Raises:
        BadInput: the network pools no feature map, an image is not there, or the pooled map of one
            is zero.
    """
    frames = [framed(source, network) for source in (image_a, image_b)]
    first, second = (frame.permute(1, 2, 0).numpy() for frame in frames)
    return _alike((first, second), [last_map(network, frame) for frame in frames], centre)


def _alike(images: tuple[Pixels, Pixels], maps: Sequence[Floats], centre: Floats | None) -> Alike:
    first, second = maps
    if centre is not None and not all(
        directed((one.astype(np.float64).mean((1, 2)) - centre)[None])[0] for one in maps
    ):
        # An image that is the mean of the set has nothing that not all share.
        centre = None
    centred = None if centre is None else likeness(first, second, centre=centre)
    return Alike(images, likeness(first, second), difference(first, second), centred)


def alike_panel(
    pairs: Sequence[Alike],
    names: Sequence[tuple[str, str]],
    *,
    title: str = "",
    grades: StoredGrades | None = None,
) -> Pixels:
    """Show pairs of images: two rows a pair, and beside each image where it is like the other.

    Args:
        pairs: what `compare_images` or `stored_pair` gave.
        names: of the images of each pair.
        title: above all.
        grades: written under the maps; None: none are.

    Returns:
        (H, W, 3) uint8; the maps of one column of a pair share a scale.
    """
    rows = []
    for pair, both in zip(pairs, names, strict=True):
        for side in (0, 1):
            images = [PanelImage(pair.images[side], (both[side],))]
            images += [
                _side(pair, shares, side, grades)
                for shares in (pair.likeness, pair.centred)
                if shares
            ]
            rows.append([*images, _side(pair, pair.difference, side, grades)])
    return panel(rows, title=title, note=f"{NOTE} {GRADE_NOTE}" if grades else NOTE)


def pixel_panel(
    images: Sequence[Pixels],
    maps: Sequence[PixelLikeness],
    names: Sequence[str],
    *,
    title: str = "",
    grades: StoredGrades | None = None,
) -> Pixels:
    """Show two images, and beside each the pixels that make it like the other, one map a method.

    Args:
        images: both, (H, W, 3) uint8.
        maps: what `pixel_likeness` gave.
        names: of the images.
        title: above all.
        grades: written under the maps; None: none are.

    Returns:
        (H, W, 3) uint8; the two maps of one method share a scale.
    """
    rows = []
    for side, image in enumerate(images):
        row = [PanelImage(image, (names[side],))]
        for one in maps:
            heat = (one.on_a, one.on_b)[side]
            lines = [one.method, f"{heat.sum(dtype=np.float64):.3f} of {one.value:.3f}"]
            lines += [grades.pair_line(one.method, one.measure)] if grades else []
            top = full_colour(one.on_a, one.on_b)
            row.append(heat_image(image, heat, lines, top=top))
        rows.append(row)
    return panel(rows, title=title, note=f"{PIXEL_NOTE} {GRADE_NOTE}" if grades else PIXEL_NOTE)


def position_panel(
    images: Sequence[Pixels], one: PixelLikeness, names: Sequence[str], *, count: int = 4
) -> Pixels:
    """Show the positions of image b that are most like image a, and what on a each is like.

    Args:
        images: both, (H, W, 3) uint8.
        one: what `pixel_likeness` gave with `pairs`.
        names: of the images.
        count: positions shown.

    Returns:
        (H, W, 3) uint8: first row b with one position marked, second row a.
    """
    if one.pairs is None:
        raise BadInput("no pairs of positions here: ask pixel_likeness for them by pairs=True")
    shares = one.pairs.sum(axis=(2, 3), dtype=np.float64)
    places = [divmod(int(at), shares.shape[1]) for at in np.argsort(-shares, axis=None)[:count]]
    top = full_colour(*(one.pairs[place] for place in places))
    marks, found = [PanelImage(images[1], (names[1],))], [PanelImage(images[0], (names[0],))]
    for down, right in places:
        mark = np.zeros(shares.shape, np.float32)
        mark[down, right] = shares[down, right]
        share = f"{shares[down, right]:.3f} of {one.value:.3f}"
        lines = (f"position {down}, {right}", share, NOT_GRADED)
        marks.append(heat_image(images[1], mark, lines))
        found.append(
            heat_image(images[0], one.pairs[down, right], ("is like", NOT_GRADED), top=top)
        )
    return panel([marks, found], title=f"{one.method}, by positions", note=PIXEL_NOTE)


def _side(pair: Alike, shares: Likeness, side: int, grades: StoredGrades | None) -> PanelImage:
    heat = (shares.on_a, shares.on_b)[side]
    what = "likeness less what all share" if shares is pair.centred else shares.what
    whole = f" of {shares.value:.3f}" if shares.what == "difference" else ""
    top = full_colour(shares.on_a, shares.on_b)
    lines = [what, f"sums to {heat.sum():.3f}{whole}"]
    if grades:
        graded = shares is pair.likeness
        lines.append(grades.pair_line("likeness", USUAL) if graded else NOT_GRADED)
    return heat_image(pair.images[side], heat, lines, top=top)


def last_map(network: "Network", frame: torch.Tensor) -> Floats:
    """Return the feature map (C, h, w) float32 of one frame, uint8 (3, H, W)."""
    from alike.extract.networks import forward_taps

    device = next(network.module.parameters(), torch.empty(0)).device
    batch = network.transform.normalise(frame[None]).to(device)
    with torch.no_grad():
        maps = forward_taps(network.module, batch, ["last_conv"])["last_conv"]
    return np.asarray(maps[0].float().cpu().numpy())


def stored_pair(
    features: "Features",
    row_a: int,
    row_b: int,
    *,
    centre: Floats | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Alike:
    """Say where two stored images are alike, from their stored maps; no network is run.

    Args:
        features: of a store with `last_conv`.
        row_a: of one image.
        row_b: of the other.
        centre: (C,) mean pooled feature of a data set, for `centred`.
        tell: gets a line for an image that is gone or has changed: its picture is empty.
    """
    maps = [features.read("last_conv", np.array([row]))[0] for row in (row_a, row_b)]
    first, second = shown_frames(features, [row_a, row_b], tell)
    return _alike((first, second), maps, centre)


def stored_frames(features: "Features", rows: Sequence[int]) -> list[Pixels]:
    """Return what the network saw of stored images, (H, W, 3) uint8, read from their source.

    Raises:
        BadInput: an image is gone, or has changed since its features were computed.
    """
    frames = StoredImages.of(features.store).frames(rows, transform_of(features))
    return [frame.permute(1, 2, 0).numpy() for frame in frames]


def shown_frames(
    features: "Features", rows: Sequence[int], tell: Callable[[str], object]
) -> list[Pixels]:
    """`stored_frames` for a picture: one image that is gone or has changed leaves its place empty.

    Args:
        features: of a store that knows its source.
        rows: of images.
        tell: gets a line for each image that is gone or has changed.

    Raises:
        BadInput: the source of all images is gone.
    """
    images, transform, frames = StoredImages.of(features.store), transform_of(features), []
    for row in rows:
        try:
            frames.append(images.read(row).frame(transform).permute(1, 2, 0).numpy())
        except BadInput as error:
            tell(f"picture of row {row}: {error}")
            frames.append(np.full((SIDE, SIDE, 3), EMPTY, np.uint8))
    return frames


def centre_of(features: "Features") -> Floats:
    """Return the mean pooled feature (C,) of all stored images, float64."""
    total, count = np.zeros(()), 0
    for _, pooled in features.blocks("gap"):
        total, count = total + pooled.astype(np.float64).sum(axis=0), count + len(pooled)
    if not count:
        raise BadInput(f"{features.key} has no image: run `{taps_again(features)}` first")
    return np.asarray(total / count)
