"""Given images explained by several methods, as one table, one picture and one set of arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from alike.analysis.explain.explain import Explanation, explain_batch, explainer
from alike.analysis.explain.gradients import DoesNotFit
from alike.analysis.explain.inputs import framed, index_or_name, names_no_class, network_for
from alike.analysis.explain.likeness_pixels import (
    PAIR_EXPLAINERS,
    USUAL,
    PixelLikeness,
    embedding_of,
    pair_explainer,
    pixel_likeness,
)
from alike.analysis.explain.overlay import PICTURED, explanation_panel, pictured_note
from alike.analysis.explain.pair import (
    Alike,
    alike_panel,
    centre_of,
    compare_images,
    pixel_panel,
    position_panel,
)
from alike.analysis.explain.stored_grades import StoredGrades
from alike.analysis.explain.tokens import class_token_share
from alike.extract.errors import BadInput
from alike.extract.frames import ImageLike, read_images
from alike.extract.panels import Pixels

if TYPE_CHECKING:
    from alike.extract.networks import Network
    from alike.extract.store import Features

LIKENESS = "likeness"
METHODS = ("cam", "gradcam", "lrp", "sa", LIKENESS)
OF_TWO = (LIKENESS, "likeness_lrp")
"""Methods for two images, if none is asked for."""


@dataclass(frozen=True)
class Explained:
    """What several methods say of given images. A map that is zero everywhere has no peak.

    Attributes:
        names: of the images, as given.
        explanations: for each image its explanations, one a method that fits.
        alike: of the first two images, where `likeness` was asked and there are two.
        notes: which methods do not fit the network, and which maps are zero everywhere.
        pixels: of the first two images, one a method of `PAIR_EXPLAINERS` that fits.
        frames: (H, W, 3) uint8, what the network saw of the first two, where `pixels` is of them.
        grades: of the methods, as the store has them; written under the maps.
        target_note: says if the class was taken by a name that is also the index of another class,
            or is none, because the network has no classifier.
    """

    names: tuple[str, ...]
    explanations: tuple[tuple[Explanation, ...], ...]
    alike: Alike | None
    notes: tuple[str, ...]
    pixels: tuple[PixelLikeness, ...] = ()
    frames: tuple[Pixels, ...] = ()
    grades: StoredGrades | None = None
    target_note: str = ""

    @property
    def table(self) -> pd.DataFrame:
        """image, method, target, score, probability, sum, conserved, peak (y, x in [0, 1]).

        Of likeness in pixels the target is the other image and the score is the similarity; it has
        no probability.
        """
        rows = [
            {
                "image": name,
                "method": one.method,
                "target": one.target_name,
                "score": one.score,
                "probability": one.probability,
                "sum": float(one.relevance.sum(dtype=np.float64)),
                "conserved": one.conserved,
                **_peak(one.relevance),
            }
            for name, every in zip(self.names, self.explanations, strict=True)
            for one in every
        ]
        for pair in self.pixels:
            for side, heat in enumerate((pair.on_a, pair.on_b)):
                rows.append(
                    {
                        "image": self.names[side],
                        "method": pair.method,
                        "target": self.names[1 - side],
                        "score": pair.value,
                        "probability": float("nan"),
                        "sum": float(heat.sum(dtype=np.float64)),
                        "conserved": pair.conserved[side],
                        **_peak(heat),
                    }
                )
        return pd.DataFrame(rows)

    @property
    def pictures(self) -> dict[str, Pixels]:
        """Panels by name: `explanations`; of two images `likeness`, `pixels` and `positions`."""
        panels = {}
        short = [Path(name).name for name in self.names]
        if any(self.explanations):
            panels["explanations"] = explanation_panel(
                self.explanations[:PICTURED], short, grades=self.grades
            )
        if self.alike is not None:
            panels[LIKENESS] = alike_panel([self.alike], [(short[0], short[1])], grades=self.grades)
        if self.pixels:
            title = f"What makes them alike by {self.pixels[0].measure}"
            panels["pixels"] = pixel_panel(
                self.frames, self.pixels, short, title=title, grades=self.grades
            )
            if self.pixels[0].pairs is not None:
                panels["positions"] = position_panel(self.frames, self.pixels[0], short)
        return panels

    @property
    def arrays(self) -> dict[str, npt.NDArray[np.floating]]:
        """The maps, named `<number of the image>/<method>`."""
        arrays: dict[str, npt.NDArray[np.floating]] = {
            f"{number}/{one.method}": one.relevance
            for number, every in enumerate(self.explanations)
            for one in every
        }
        if self.alike is not None:
            for what in (self.alike.likeness, self.alike.difference):
                arrays |= {f"0/{what.what}": what.on_a, f"1/{what.what}": what.on_b}
        for one in self.pixels:
            arrays |= {f"0/{one.method}": one.on_a, f"1/{one.method}": one.on_b}
            if one.pairs is not None:
                arrays[f"pairs/{one.method}"] = one.pairs
        return arrays


def explain_images(
    images: Sequence[ImageLike | int],
    features: "Features",
    *,
    methods: Sequence[str] = METHODS,
    target: int | str | None = None,
    measure: str = USUAL,
    pairs: bool = False,
    network: "Network | None" = None,
) -> Explained:
    """Explain images by the network of a store.

    Args:
        images: image files, URLs of fsspec filesystems, or numbers of stored rows.
        features: whose network is used; the mean of its `gap` centres the likeness.
        methods: names of `EXPLAINERS`; for the first two images `likeness` and names of
            `PAIR_EXPLAINERS`.
        target: class index or name for all; None explains what is predicted for each.
        measure: whose similarity `PAIR_EXPLAINERS` explain.
        pairs: also say what on the first image is like each position of the second.
        network: of the store, if it is loaded already.

    Raises:
        BadInput: no image, one that is not there, an unknown method or class.
    """
    if not images:
        raise BadInput("no image to explain: give the path of an image, or the number of a row")
    of_one = [method for method in methods if method not in (LIKENESS, *PAIR_EXPLAINERS)]
    of_two = [pair_explainer(method).name for method in methods if method in PAIR_EXPLAINERS]
    for method in of_one:
        explainer(method)
    likeness = bool(of_two) or LIKENESS in methods
    if pairs and not (of_two and len(images) > 1):
        raise BadInput(
            f"pairs of places are of two images, by one of {', '.join(PAIR_EXPLAINERS)}: give both "
            "images, and one of these methods"
        )
    if len(images) < 2 and likeness and not of_one:
        raise BadInput("likeness compares two images: give a second one, or a class: --like LABEL")
    if len(images) > 2 and likeness and not of_one:
        raise BadInput(
            f"likeness compares two images, {len(images)} were given: ask for one pair after "
            "another, or for a class: --like LABEL"
        )
    network = network_for(features, network)
    sources = read_images(images, features.store)
    names = tuple(
        str(image) if isinstance(image, int) else source.name
        for image, source in zip(images, sources, strict=True)
    )
    notes: list[str] = []
    if len(images) > 2 and likeness:
        notes.append(f"likeness compares {names[0]} with {names[1]}: it is of two images")
    by_method = []
    for method in of_one:
        try:
            by_method.append(list(explain_batch(sources, network, method, target)))
        except DoesNotFit as error:
            notes.append(str(error))
        else:
            notes += _empty_notes(method, [one.relevance for one in by_method[-1]], names)
    explanations = tuple(zip(*by_method, strict=True)) if by_method else ((),) * len(sources)
    notes += pictured_note(len(sources) if by_method else 0, "images")
    both = len(sources) > 1 and likeness
    comparison, frames = None, [framed(one, network) for one in sources[:2] if both]
    if LIKENESS in methods and both:
        try:
            comparison = compare_images(sources[0], sources[1], network, centre=centre_of(features))
        except BadInput as error:
            notes.append(f"likeness of {names[0]} (a) and {names[1]} (b): {error}")
        else:
            share = class_token_share(network, frames)
            notes += [] if share is None else [str(share)]
    pixels = _pixels(features, network, frames, of_two, measure, pairs, notes)
    for one in pixels:
        notes += _empty_notes(one.method, (one.on_a, one.on_b), names)
    shown = tuple(frame.permute(1, 2, 0).numpy() for frame in frames)
    grades = StoredGrades.of(features)
    which = index_or_name(network, target)
    if by_method and names_no_class(features):
        which = "the network has no classifier: what is explained is a number of its pooled vector"
    lines = tuple(dict.fromkeys(notes))
    return Explained(names, explanations, comparison, lines, pixels, shown, grades, which)


def _pixels(
    features: "Features",
    network: "Network",
    frames: Sequence[Tensor],
    methods: Sequence[str],
    measure: str,
    pairs: bool,
    notes: list[str],
) -> tuple[PixelLikeness, ...]:
    """Likeness in pixels by each method that fits; `notes` gets the reasons of the others."""
    if len(frames) < 2 or not methods:
        return ()
    found = []
    try:
        embedding = embedding_of(features, measure)
    except DoesNotFit as error:
        notes.append(str(error))
        return ()
    for method in methods:
        try:
            found.append(pixel_likeness(frames, network, method, embedding, pairs=pairs))
        except DoesNotFit as error:
            notes.append(f"{method}: {error}")
    return tuple(found)


def _empty_notes(
    method: str, maps: Sequence[npt.NDArray[np.float32]], names: Sequence[str]
) -> list[str]:
    """A line for a method whose map of some images is zero everywhere, with their names."""
    empty = [name for one, name in zip(maps, names, strict=False) if not one.any()]
    if not empty:
        return []
    return [f"{method} is zero everywhere, which is no explanation: {', '.join(empty)}"]


def _peak(relevance: npt.NDArray[np.float32]) -> dict[str, float]:
    if not relevance.any():
        return {"peak_y": float("nan"), "peak_x": float("nan")}
    down, right = np.unravel_index(int(relevance.argmax()), relevance.shape)
    height, width = relevance.shape
    return {"peak_y": (float(down) + 0.5) / height, "peak_x": (float(right) + 0.5) / width}
