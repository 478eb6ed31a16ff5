"""Grades of the explainers of a store's network, on its images: a table in the store."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from alike.analysis.explain.file_names import DIGEST, GRADE, PAIR_GRADE
from alike.analysis.explain.grade.grade import Grading, grade
from alike.analysis.explain.grade.pairs import PAIR_METHODS, USUAL_GRADING, grade_pairs, pairs_of
from alike.analysis.explain.inputs import network_for
from alike.analysis.explain.likeness_pixels import USUAL, embedding_of
from alike.analysis.explain.lrp import pixel_limits
from alike.analysis.explain.pair import stored_frames
from alike.extract.errors import BadInput
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from alike.extract.networks import Network
    from alike.extract.store import Features

METHODS = ("cam", "gradcam", "sa", "grad_x_input", "lrp")


def grade_of(
    features: "Features",
    network: "Network | None" = None,
    *,
    methods: "Sequence[str]" = METHODS,
    n_images: int = 32,
    split: str | None = "held_out",
    grading: Grading | None = None,
    progress: Progress = silent,
    tell: "Callable[[str], object]" = lambda _: None,
) -> pd.DataFrame:
    """Grade the explainers of a store's network on its images; see `grade`.

    The table goes to `tables/<key>/grade.parquet`.

    Args:
        features: whose images, and whose network where none is given.
        network: from `load_network`.
        methods: names of `EXPLAINERS`; those that do not fit the network are left out.
        n_images: spread evenly over the classes.
        split: `train`, `held_out` or None for both.
        grading: how.
        progress: told after every method.
        tell: gets a line for each method that is left out, with the reason.

    Raises:
        BadInput: fewer than two images, or no explainer fits.
    """
    features.store.require_writable()
    network = network_for(features, network)
    grading = grading or Grading()
    table = features.table(split)
    if len(table) < 2:
        raise BadInput(f"{len(table)} images in this split: a grade needs two or more")
    place = table.groupby(table["label"].fillna("")).cumcount()
    table = table.iloc[np.lexsort((table["image_id"], place))[:n_images]]
    inputs, limits = _inputs(features, network, table["row"])
    result = grade(
        network.module,
        inputs,
        methods,
        grading=grading,
        limits=limits,
        progress=progress,
        tell=tell,
    )
    settings = {**vars(grading), "split": split, "n_images": len(table)}
    _keep(features, GRADE, result, settings)
    return result


def pair_grade_of(
    features: "Features",
    network: "Network | None" = None,
    *,
    methods: "Sequence[str]" = PAIR_METHODS,
    measure: str = USUAL,
    n_pairs: int = 32,
    split: str | None = "held_out",
    grading: Grading | None = None,
    progress: Progress = silent,
    tell: "Callable[[str], object]" = lambda _: None,
) -> pd.DataFrame:
    """Grade the explainers of likeness of a store's network on pairs of its images.

    The table goes to `tables/<key>/pair_grade.parquet`.

    Args:
        features: whose images, and whose network where none is given.
        network: from `load_network`.
        methods: `likeness` and names of `PAIR_EXPLAINERS`; what does not fit is left out.
        measure: whose similarity is explained and followed.
        n_pairs: of one class, and of different classes; no image is in two pairs of a kind.
        split: `train`, `held_out` or None for both.
        grading: how.
        progress: told after every method.
        tell: gets a line for each method that is left out, with the reason.

    Returns:
        The table of `grade_pairs` for each kind of pair (column `pairs`).

    Raises:
        BadInput: no two pairs, an unknown measure, or no explainer fits.
    """
    features.store.require_writable()
    network = network_for(features, network)
    grading, embedding = grading or USUAL_GRADING, embedding_of(features, measure)
    table = features.table(split)
    kinds = pairs_of(table, n_pairs)
    if not kinds:
        raise BadInput("grades of likeness need two pairs of images with labels in this split")
    rows, parts = table["row"].to_numpy(), []
    for kind, pairs in kinds.items():
        images, limits = _inputs(features, network, rows[[one for one, _ in pairs]])
        partners, _ = _inputs(features, network, rows[[other for _, other in pairs]])
        part = grade_pairs(
            network.module, images, partners, methods, embedding,
            grading=grading, limits=limits, progress=progress, tell=tell,
        )  # fmt: skip
        part.insert(0, "pairs", kind)
        parts.append(part)
    result = pd.concat(parts, ignore_index=True)
    _keep(features, PAIR_GRADE, result, {**vars(grading), "split": split, "measure": measure})
    return result


def _inputs(
    features: "Features", network: "Network", rows: "Iterable[int]"
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Network input (N, 3, H, W) of stored rows, and the input for black and for white."""
    frames = stored_frames(features, [int(row) for row in rows])
    inputs = network.transform.normalise(
        torch.stack([torch.from_numpy(frame.transpose(2, 0, 1).copy()) for frame in frames])
    )
    device = next(network.module.parameters(), torch.empty(0)).device
    limits = pixel_limits(inputs, network.transform.mean, network.transform.std)
    return inputs.to(device), limits


def _keep(features: "Features", name: str, table: pd.DataFrame, settings: dict[str, Any]) -> None:
    where = {"where": features.where} if features.where else {}
    made_of = {**settings, **where, DIGEST: features.digest}
    features.store.write_table(name.format(key=features.key), table, made_of)
