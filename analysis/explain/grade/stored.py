"""Grades of the explainers of a store's network, on its images: a table in the store."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from alike.analysis.explain.file_names import GRADE
from alike.analysis.explain.grade.grade import Grading, grade
from alike.analysis.explain.inputs import network_for
from alike.analysis.explain.lrp import pixel_limits
from alike.analysis.explain.pair import stored_frames
from alike.extract.errors import BadInput
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    frames = stored_frames(features, [int(row) for row in table["row"]])
    inputs = network.transform.normalise(
        torch.stack([torch.from_numpy(frame.transpose(2, 0, 1).copy()) for frame in frames])
    )
    device = next(network.module.parameters(), torch.empty(0)).device
    result = grade(
        network.module,
        inputs.to(device),
        methods,
        grading=grading,
        limits=pixel_limits(inputs, network.transform.mean, network.transform.std),
        progress=progress,
        tell=tell,
    )
    settings: dict[str, Any] = {**vars(grading), "split": split, "n_images": len(table)}
    if features.where:
        settings["where"] = features.where
    features.store.write_table(GRADE.format(key=features.key), result, settings)
    return result
