"""Grades of the explainers of a store's network, on its images: a table in the store."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from alike.analysis.explain.explain import EXPLAINERS, relevances
from alike.analysis.explain.file_names import DIGEST, GRADE, PAIR_GRADE
from alike.analysis.explain.grade.cost import GradeCost, forward_passes, timed_cost
from alike.analysis.explain.grade.grade import SIDE, Grading, grade
from alike.analysis.explain.grade.pairs import KINDS, PAIR_METHODS, grade_pairs, maps_to, pairs_of
from alike.analysis.explain.gradients import DoesNotFit
from alike.analysis.explain.inputs import (
    evaluating,
    network_for,
    ready_module,
    turns_in_classes,
    worker_network,
)
from alike.analysis.explain.likeness_pixels import USUAL, embedding_of
from alike.analysis.explain.lrp import pixel_limits
from alike.analysis.explain.pair import stored_frames
from alike.extract.embedding import MapBlocks
from alike.extract.errors import BadInput
from alike.extract.networks import forward_taps
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from alike.extract.networks import Network
    from alike.extract.store import Features

METHODS = tuple(EXPLAINERS)


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
    work = _images_of(features, network, n_images, split, grading)
    result = _graded(work, methods, map_methods, progress, tell)
    settings = {**vars(work.grading), "split": split, "n_images": len(work.rows)}
    _keep(features, GRADE, result, settings)
    return result


def grade_costs(
    features: "Features",
    methods: "Sequence[str]" = METHODS,
    pair_methods: "Sequence[str]" = PAIR_METHODS,
    network: "Network | None" = None,
    *,
    measure: str = USUAL,
    n_images: int = 32,
    split: str | None = "held_out",
) -> dict[str, GradeCost]:
    """What `grade_of` and `pair_grade_of` take, from maps of a few images.

    Args:
        features: whose images and network.
        methods: of `grade_of`.
        pair_methods: of `pair_grade_of`.
        network: the one that made the features; None: it is loaded.
        measure: of `pair_grade_of`.
        n_images: number of images, and of pairs of each kind.
        split: `train`, `held_out` or None for both.

    Returns:
        `grade` and `pair_grade` to costs; what nothing can be graded for is left out.

    Raises:
        BadInput: an unknown explainer or measure.
    """
    network, table = network_for(features, network), features.table(split)
    costs = {}
    if methods and len(table) > 1:
        images = _images_of(features, network, n_images, split, None)
        costs["grade"] = images.cost(methods)
    if pair_methods and pairs_of(table, n_images):
        pairs = _pairs_of(features, network, measure, n_images, split, None)
        # A measure that the network lacks: no pair is graded.
        with suppress(DoesNotFit):
            costs["pair_grade"] = pairs.cost(pair_methods)
    return costs


def _images_of(
    features: "Features",
    network: "Network | None",
    n_images: int,
    split: str | None,
    grading: Grading | None,
) -> "_ImageGrades":
    table = features.table(split)
    if len(table) < 2:
        raise BadInput(f"{len(table)} images in this split: a grade needs two or more")
    place = turns_in_classes(table)
    table = table.iloc[np.lexsort((table["image_id"], place))[:n_images]]
    rows = table["row"].tolist()
    return _ImageGrades(features, network_for(features, network), rows, grading or Grading())


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
    work = _pairs_of(features, network, measure, n_pairs, split, grading)
    for kind in KINDS:
        if kind not in work.pairs:
            tell(f"{kind}: fewer than two pairs of images with labels in this split")
    result = _graded(work, methods, map_methods, progress, tell)
    _keep(features, PAIR_GRADE, result, {**vars(work.grading), "split": split, "measure": measure})
    return result


def _pairs_of(
    features: "Features",
    network: "Network | None",
    measure: str,
    n_pairs: int,
    split: str | None,
    grading: Grading | None,
) -> "_PairGrades":
    table = features.table(split)
    kinds = pairs_of(table, n_pairs)
    if not kinds:
        raise BadInput("grades of likeness need two pairs of images with labels in this split")
    rows = table["row"].to_numpy()
    pairs = {
        kind: [(int(rows[one]), int(rows[other])) for one, other in of_kind]
        for kind, of_kind in kinds.items()
    }
    network = network_for(features, network)
    return _PairGrades(features, network, pairs, measure, grading or Grading())


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

    def cost(self, methods: "Sequence[str]") -> GradeCost:
        inputs, limits = _inputs(self.features, self.network, self.rows)
        module = ready_module(self.network.module, (inputs.shape[-2], inputs.shape[-1]))

        def maps(method: str, batch: Tensor) -> Tensor:
            target = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
            return relevances(module, batch, [method], target, limits=limits)[method].cpu()

        return _timed(methods, inputs, len(inputs), module, self.grading, maps, maps_each=2)

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
        features, network, parts, said = self.features, self.network, [], set[str]()
        embedding = embedding_of(features, self.measure)

        def once(line: str) -> None:
            """What does not fit the network fits no kind of pair."""
            if line not in said:
                said.add(line)
                tell(line)

        for kind, pairs in self.pairs.items():
            images, limits = _inputs(features, network, [one for one, _ in pairs])
            partners, _ = _inputs(features, network, [other for _, other in pairs])
            part = grade_pairs(
                network.module, images, partners, methods, embedding,
                grading=self.grading, limits=limits, progress=progress, tell=once,
            )  # fmt: skip
            part.insert(0, "pairs", kind)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def cost(self, methods: "Sequence[str]") -> GradeCost:
        embedding = embedding_of(self.features, self.measure)
        pairs = [pair for of_kind in self.pairs.values() for pair in of_kind]
        rows = [one for one, _ in pairs[: self.grading.batch_size]]
        inputs, limits = _inputs(self.features, self.network, rows)
        size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
        module = embedding.ready(self.network.module, size)

        def maps(method: str, batch: Tensor) -> Tensor:
            others = embedding.vectors(module, batch)
            size = self.grading.batch_size
            return maps_to(module, batch, others, method, embedding, size, limits)

        return _timed(methods, inputs, len(pairs), module, self.grading, maps, maps_each=3)

    def __call__(self, method: str) -> "Answer":
        return _of_one(self, method)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without weights and open files."""
        place = self.features.store.place, self.features.key
        return _reopened, (_PairGrades, *place, self.pairs, self.measure, self.grading)


def _timed(
    methods: "Sequence[str]",
    inputs: Tensor,
    count: int,
    module: nn.Module,
    grading: Grading,
    maps: "Callable[[str, Tensor], Tensor]",
    *,
    maps_each: int,
) -> GradeCost:
    """Cost for a number of images; a grade of pairs has three maps of each, of images two."""

    def last_map(batch: Tensor) -> Tensor:
        with evaluating(module), torch.no_grad():
            return forward_taps(module, batch, ["last_conv"])["last_conv"].cpu()

    down, right = (min(SIDE, side) for side in last_map(inputs[:1]).shape[-2:])

    def passes(explainers: int) -> int:
        another = maps_each == 3
        return forward_passes(down * right, grading.steps, grading.draws, explainers, another)

    return timed_cost(
        methods, inputs[: grading.batch_size], count, last_map, maps,
        maps_each=maps_each, passes=passes,
    )  # fmt: skip


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
