"""Given images explained by several methods, as one table, one picture and one set of arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from alike.analysis.explain.explain import Explanation, explain_batch, explainer
from alike.analysis.explain.gradients import DoesNotFit
from alike.analysis.explain.inputs import framed, network_for
from alike.analysis.explain.overlay import explanation_panel
from alike.analysis.explain.pair import Alike, alike_panel, centre_of, compare_images
from alike.analysis.explain.tokens import class_token_share
from alike.extract.errors import BadInput
from alike.extract.frames import ImageLike, read_images
from alike.extract.panels import Pixels

if TYPE_CHECKING:
    from alike.extract.networks import Network
    from alike.extract.store import Features

LIKENESS = "likeness"
METHODS = ("cam", "gradcam", "lrp", "sa", LIKENESS)


@dataclass(frozen=True)
class Explained:
    """What several methods say of given images. A map that is zero everywhere has no peak.

    Attributes:
        names: of the images, as given.
        explanations: for each image its explanations, one a method that fits.
        alike: of the first two images, where `likeness` was asked and there are two.
        notes: which methods do not fit the network, and which maps are zero everywhere.
    """

    names: tuple[str, ...]
    explanations: tuple[tuple[Explanation, ...], ...]
    alike: Alike | None
    notes: tuple[str, ...]

    @property
    def table(self) -> pd.DataFrame:
        """image, method, target, score, probability, sum, conserved, peak (y, x in [0, 1])."""
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
        return pd.DataFrame(rows)

    @property
    def pictures(self) -> dict[str, Pixels]:
        """Panels by name: `explanations`, and `likeness` of two images."""
        panels = {}
        if any(self.explanations):
            names = [Path(name).name for name in self.names]
            panels["explanations"] = explanation_panel(self.explanations, names)
        if self.alike is not None:
            panels[LIKENESS] = alike_panel(
                [self.alike], [(Path(self.names[0]).name, Path(self.names[1]).name)]
            )
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
        return arrays


def explain_images(
    images: Sequence[ImageLike | int],
    features: "Features",
    *,
    methods: Sequence[str] = METHODS,
    target: int | str | None = None,
    network: "Network | None" = None,
) -> Explained:
    """Explain images by the network of a store.

    Args:
        images: image files, URLs of fsspec filesystems, or numbers of stored rows.
        features: whose network is used; the mean of its `gap` centres the likeness.
        methods: names of `EXPLAINERS`, and `likeness` for the first two images.
        target: class index or name for all; None explains what is predicted for each.
        network: of the store, if it is loaded already.

    Raises:
        BadInput: no image, one that is not there, an unknown method or class.
    """
    if not images:
        raise BadInput("no image to explain: give the path of an image, or the number of a row")
    for method in methods:
        if method != LIKENESS:
            explainer(method)
    network = network_for(features, network)
    sources = read_images(images, features.store)
    names = tuple(
        str(image) if isinstance(image, int) else source.name
        for image, source in zip(images, sources, strict=True)
    )
    notes: list[str] = []
    by_method = []
    for method in methods:
        if method == LIKENESS:
            continue
        try:
            by_method.append(list(explain_batch(sources, network, method, target)))
        except DoesNotFit as error:
            notes.append(str(error))
        else:
            notes += _empty_notes(by_method[-1], names)
    explanations = tuple(zip(*by_method, strict=True)) if by_method else ((),) * len(sources)
    comparison = None
    if LIKENESS in methods and len(sources) > 1:
        comparison = compare_images(sources[0], sources[1], network, centre=centre_of(features))
        share = class_token_share(network, [framed(one, network) for one in sources[:2]])
        notes += [] if share is None else [str(share)]
    elif tuple(methods) == (LIKENESS,):
        raise BadInput("likeness compares two images: give a second one, or a class: --like LABEL")
    return Explained(names, explanations, comparison, tuple(notes))


def _empty_notes(explanations: Sequence[Explanation], names: Sequence[str]) -> list[str]:
    """The images for which one method gives a map that is zero everywhere."""
    empty = [name for one, name in zip(explanations, names, strict=True) if one.empty]
    if not empty:
        return []
    return [
        f"{explanations[0].method} is zero everywhere, which is no explanation: {', '.join(empty)}"
    ]


def _peak(relevance: npt.NDArray[np.float32]) -> dict[str, float]:
    if not relevance.any():
        return {"peak_y": float("nan"), "peak_x": float("nan")}
    down, right = np.unravel_index(int(relevance.argmax()), relevance.shape)
    height, width = relevance.shape
    return {"peak_y": (float(down) + 0.5) / height, "peak_x": (float(right) + 0.5) / width}
