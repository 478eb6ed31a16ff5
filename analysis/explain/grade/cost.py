"""What grading takes, counted and timed on a few images before it begins."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from alike.analysis.explain.gradients import DoesNotFit

FEW = 4
"""Images whose maps are timed."""


@dataclass(frozen=True)
class GradeCost:
    """What grading takes.

    Attributes:
        explainers: number of those that fit the network.
        asked: number of those that were asked for.
        images: number of images, or of pairs.
        passes: forward passes of one image, in all; those of maps are not counted.
        seconds: an estimate for all, maps among them, by one process here.
    """

    explainers: int
    asked: int
    images: int
    passes: int
    seconds: float


def forward_passes(cells: int, steps: int, draws: int, explainers: int, another: bool) -> int:
    """Forward passes of each image or pair, those of its maps not counted.

    They are the image itself, its last map, both ends of the ways, one a cell of occlusion, and
    the ways of deletion and insertion; of a pair the other image too, by both networks.

    Args:
        cells: of an image.
        steps: of deletion and insertion; both ends of a way are the same for all.
        draws: random orders.
        explainers: number of maps that are followed, beside energy.
        another: whether the map for another image is followed too.
    """
    ways = 2 * (explainers + 1) + draws + (explainers if another else 0)
    return (5 if another else 4) + cells + ways * (steps - 1)


def timed_cost(
    methods: Sequence[str],
    batch: Tensor,
    count: int,
    forward: Callable[[Tensor], object],
    maps: Callable[[str, Tensor], object],
    *,
    maps_each: int,
    passes: Callable[[int], int],
) -> GradeCost:
    """Time one batch of forward passes, and the maps of a few images by every explainer.

    Args:
        methods: names of explainers.
        batch: network input (N, 3, H, W) of one pass.
        count: number of images, or of pairs.
        forward: score of a batch.
        maps: maps of a batch by an explainer.
        maps_each: maps that are made of each image by each explainer.
        passes: number of explainers to forward passes of one image.
    """
    forward(batch)
    of_pass = _seconds(partial(forward, batch)) / len(batch)
    few, of_maps = batch[:FEW], []
    for method in methods:
        try:
            of_maps.append(_seconds(partial(maps, method, few)) / len(few))
        except DoesNotFit:
            continue
    fit = len(of_maps)
    total = count * passes(fit) if fit else 0
    seconds = total * of_pass + count * maps_each * sum(of_maps)
    return GradeCost(fit, len(methods), count, total, seconds)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
