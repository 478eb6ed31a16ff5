"""Grades of the explainers of a store's network, on its images: a table in the store."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from alike.analysis.explain.file_names import DIGEST, GRADE, PAIR_GRADE
from alike.analysis.explain.grade.grade import Grading, grade
from alike.analysis.explain.grade.pairs import PAIR_METHODS, USUAL_GRADING, grade_pairs, pairs_of
from alike.analysis.explain.inputs import network_for, worker_network
from alike.analysis.explain.likeness_pixels import USUAL, embedding_of
from alike.analysis.explain.lrp import pixel_limits
from alike.analysis.explain.pair import stored_frames
from alike.extract.embedding import MapBlocks
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
    map_methods: MapBlocks | None = None,
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
        map_methods: grades methods one by one, such as on workers, which load the network that
            made the features; None: all at once, here.
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
    work = _ImageGrades(features, network, table["row"].tolist(), grading)
    result = _graded(work, methods, map_methods, progress, tell)
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
    map_methods: MapBlocks | None = None,
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
        map_methods: as for `grade_of`.
        progress: told after every method.
        tell: gets a line for each method that is left out, with the reason.

    Returns:
        The table of `grade_pairs` for each kind of pair (column `pairs`).

    Raises:
        BadInput: no two pairs, an unknown measure, or no explainer fits.
    """
    features.store.require_writable()
    network = network_for(features, network)
    grading = grading or USUAL_GRADING
    table = features.table(split)
    kinds = pairs_of(table, n_pairs)
    if not kinds:
        raise BadInput("grades of likeness need two pairs of images with labels in this split")
    rows = table["row"].to_numpy()
    pairs = {
        kind: [(int(rows[one]), int(rows[other])) for one, other in of_kind]
        for kind, of_kind in kinds.items()
    }
    work = _PairGrades(features, network, pairs, measure, grading)
    result = _graded(work, methods, map_methods, progress, tell)
    _keep(features, PAIR_GRADE, result, {**vars(grading), "split": split, "measure": measure})
    return result


@dataclass(frozen=True)
class _ImageGrades:
    """Grades of methods on stored images; it travels to a worker by the place of the store."""

    features: "Features"
    network: "Network"
    rows: list[int]
    grading: Grading

    def of(
        self, methods: "Sequence[str]", progress: Progress, tell: "Callable[[str], object]"
    ) -> pd.DataFrame:
        inputs, limits = _inputs(self.features, self.network, self.rows)
        return grade(
            self.network.module,
            inputs,
            methods,
            grading=self.grading,
            limits=limits,
            progress=progress,
            tell=tell,
        )

    def __call__(self, method: str) -> "Answer":
        return _of_one(self, method)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without weights and open files."""
        place = self.features.store.place, self.features.key
        return _reopened, (_ImageGrades, *place, self.rows, self.grading)


@dataclass(frozen=True)
class _PairGrades:
    """The same of likeness, on pairs of stored images by their kind."""

    features: "Features"
    network: "Network"
    pairs: dict[str, list[tuple[int, int]]]
    measure: str
    grading: Grading

    def of(
        self, methods: "Sequence[str]", progress: Progress, tell: "Callable[[str], object]"
    ) -> pd.DataFrame:
        features, network, parts = self.features, self.network, []
        embedding = embedding_of(features, self.measure)
        for kind, pairs in self.pairs.items():
            images, limits = _inputs(features, network, [one for one, _ in pairs])
            partners, _ = _inputs(features, network, [other for _, other in pairs])
            part = grade_pairs(
                network.module, images, partners, methods, embedding,
                grading=self.grading, limits=limits, progress=progress, tell=tell,
            )  # fmt: skip
            part.insert(0, "pairs", kind)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def __call__(self, method: str) -> "Answer":
        return _of_one(self, method)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without weights and open files."""
        place = self.features.store.place, self.features.key
        return _reopened, (_PairGrades, *place, self.pairs, self.measure, self.grading)


Answer = tuple[pd.DataFrame | None, list[str]]
"""The table of one method and the controls, or None and why it does not fit."""


def _reopened(kind: type, place: str, key: str, *settings: Any) -> Any:
    from alike.extract.store import Store

    features = Store.open(place).features(key)
    return kind(features, worker_network(features), *settings)


def _of_one(work: "_ImageGrades | _PairGrades", method: str) -> Answer:
    left_out: list[str] = []
    try:
        return work.of([method], silent, left_out.append), left_out
    except BadInput:
        if not left_out:
            raise
        return None, left_out


def _graded(
    work: "_ImageGrades | _PairGrades",
    methods: "Sequence[str]",
    map_methods: MapBlocks | None,
    progress: Progress,
    tell: "Callable[[str], object]",
) -> pd.DataFrame:
    """The table of all methods; one by one they have the same controls, which count once.

    Raises:
        BadInput: none fits the network.
    """
    if map_methods is None:
        return work.of(methods, progress, tell)
    tables = []
    for done, (table, left_out) in enumerate(map_methods(work, list(methods)), start=1):
        for line in left_out:
            tell(line)
        if table is not None:
            tables.append(table)
        progress("grade", done, len(methods))
    if not tables:
        raise BadInput(f"none of {', '.join(methods)} fits this network")
    kinds = tables[0]["pairs"].unique() if "pairs" in tables[0] else [None]
    parts = []
    for kind in kinds:
        of_kind = [one if kind is None else one[one["pairs"] == kind] for one in tables]
        # The method itself is the first row, the controls follow.
        parts += [one.iloc[:1] for one in of_kind]
        parts.append(of_kind[0].iloc[1:])
    return pd.concat(parts, ignore_index=True)


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
