"""A grade for explainers: does what a map ranks first matter to the network?

Every explainer is graded on the same images beside two controls that know nothing of the class:
the energy of the last map, and random orders. Each number is a mean over images with a 95 %
interval; differences to the controls are paired. A map that the network's own scores do not follow
is no explanation of them, however it looks.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alike.analysis.explain.explain import explainer, relevances
from alike.analysis.explain.grade.curves import (
    Floats,
    Score,
    area,
    batches,
    blurred,
    in_cells,
    occlusion,
    rank_agreement,
    ranks_of,
    stepped,
)
from alike.analysis.explain.grade.intervals import mean_interval
from alike.analysis.explain.gradients import DoesNotFit, score
from alike.analysis.explain.inputs import evaluating, ready_module
from alike.extract.errors import BadInput
from alike.extract.networks import forward_taps
from alike.extract.progress import Progress, silent

ENERGY, RANDOM = "energy", "random"
SIDE = 8
"""Cells along a side, at most; fewer if the last map has fewer."""
NUMBERS = (
    "deletion", "insertion", "deletion_to_energy", "deletion_to_random", "insertion_to_energy",
    "insertion_to_random", "agreement", "randomised",
)  # fmt: skip
TO_ANOTHER = "deletion_to_another"
Numbers = dict[str, dict[str, Floats]]
"""Name of an explainer or control to name of a number to its value (N,) of each image."""


@dataclass(frozen=True)
class Grading:
    """How explainers are graded; part of what the numbers mean.

    Attributes:
        steps: of deletion and insertion, parts of the cells.
        draws: random orders of each image.
        batch_size: images in one pass.
        seed: of the orders and of the random weights.
    """

    steps: int = 8
    draws: int = 20
    batch_size: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Areas:
    """Mean scores (N,) of images while cells are blurred, and while they are put back."""

    deletion: Floats
    insertion: Floats


def grade(
    module: nn.Module,
    images: Tensor,
    methods: Sequence[str],
    *,
    grading: Grading | None = None,
    limits: tuple[Tensor, Tensor] | None = None,
    progress: Progress = silent,
    tell: Callable[[str], object] = lambda _: None,
) -> pd.DataFrame:
    """Grade explainers of the predicted class by its probability.

    Args:
        module: a classification network with a last map.
        images: network input (N, 3, H, W), on the module's device.
        methods: names of `EXPLAINERS`; those that do not fit the network are left out.
        grading: how.
        limits: the network's input for black and for white, see `relevance`.
        progress: told after every method.
        tell: gets a line for each method that is left out, with the reason.

    Returns:
        One row an explainer, then `energy` and `random`: deletion (mean probability while cells
        are blurred, in the order of the map: small is good), insertion (large is good), both less
        those of each control (`..._to_energy`, `..._to_random`), agreement (Spearman's correlation
        with the fall of the probability if one cell alone is blurred), randomised (with the map of
        the same network whose last weights are permuted: near 0 is good), each with low and high;
        n_images, n_counted, cells. An image whose map is the same everywhere ranks no cell: it
        is in no mean, and n_counted is the number of the others. NaN where a number has no meaning,
        and for the ends of an interval that does not hold (`mean_interval`).

    Raises:
        BadInput: fewer than two images, an unknown method, or none of them fits.
    """
    numbers, grid = grades_of_images(
        module, images, methods, grading=grading, limits=limits, progress=progress, tell=tell
    )
    return table_of(numbers, len(images), grid)


def grades_of_images(
    module: nn.Module,
    images: Tensor,
    methods: Sequence[str],
    *,
    grading: Grading | None = None,
    limits: tuple[Tensor, Tensor] | None = None,
    progress: Progress = silent,
    tell: Callable[[str], object] = lambda _: None,
) -> tuple[Numbers, tuple[int, int]]:
    """The numbers of each image of which `grade` gives the means, and the grid of the cells.

    Args and errors as `grade`.
    """
    if len(images) < 2:
        raise BadInput(f"{len(images)} images: give two or more")
    grading = grading or Grading()
    size = (int(images.shape[-2]), int(images.shape[-1]))
    module = ready_module(module, size)
    with evaluating(module), torch.no_grad():
        parts = batches(images, grading.batch_size)
        target = torch.cat([score(module, part).argmax(1) for part in parts])
        last = torch.cat([
            forward_taps(module, part, ["last_conv"])["last_conv"].norm(dim=1) for part in parts
        ])  # fmt: skip
    grid = (min(SIDE, int(last.shape[1])), min(SIDE, int(last.shape[2])))
    cells: dict[str, Floats] = {}
    permuted: dict[str, Floats] = {}
    other = with_permuted_weights(module, grading.seed, images[:1])
    for done, method in enumerate(methods, start=1):
        explainer(method)
        try:
            cells[method] = cells_of(module, images, target, method, grid, grading, limits)
        except DoesNotFit as error:
            tell(f"{method}: {error}")
            continue
        permuted[method] = cells_of(other, images, target, method, grid, grading, limits)
        progress("maps", done, len(methods), method)
    if not cells:
        raise BadInput(f"none of {', '.join(methods)} fits this network")
    cells[ENERGY] = in_cells(last, grid)

    def probability(inputs: Tensor) -> Tensor:
        parts = [
            score(module, part).softmax(1).gather(1, classes[:, None])[:, 0]
            for part, classes in zip(
                batches(inputs, grading.batch_size),
                batches(target, grading.batch_size),
                strict=True,
            )
        ]
        return torch.cat(parts)

    with evaluating(module), torch.no_grad():
        return numbers_of(probability, images, cells, permuted, grid, grading, progress), grid


def numbers_of(
    of: Score,
    images: Tensor,
    cells: dict[str, Floats],
    permuted: dict[str, Floats],
    grid: tuple[int, int],
    grading: Grading,
    progress: Progress = silent,
    *,
    another: dict[str, Floats] | None = None,
) -> Numbers:
    """Grade the maps of each image, whatever they were made by.

    Args:
        of: score that the maps explain.
        images: (N, 3, H, W).
        cells: name to relevance (N, K) of the cells; `energy` is the control.
        permuted: name to the same of a network with permuted weights.
        grid: of the cells.
        grading: how.
        progress: told after every name.
        another: name to the same for another score of the images, as a further control. Images
            share these scores in twos, the first and second, the third and fourth and so on.
    """
    fill = blurred(images)
    whole, blank = (of(inputs).double().cpu().numpy() for inputs in (images, fill))
    falls = occlusion(of, images, fill, grid, whole)
    draw = np.random.default_rng(grading.seed)

    def deletion(values: Floats) -> Floats:
        """Area of the order by values (N, K) of the cells; NaN where these are all the same."""
        way = stepped(of, images, fill, ranks_of(values), grid, grading.steps, (whole, blank))
        return np.where(np.ptp(values, axis=1) > 0, area(way), np.nan)

    def insertion(values: Floats) -> Floats:
        way = stepped(of, fill, images, ranks_of(values), grid, grading.steps, (blank, whole))
        return np.where(np.ptp(values, axis=1) > 0, area(way), np.nan)

    ways: dict[str, Areas] = {}
    for done, (name, values) in enumerate(cells.items(), start=1):
        ways[name] = Areas(deletion(values), insertion(values))
        progress("grade", done, len(cells) + 1, name)
    orders = (draw.random(falls.shape) for _ in range(grading.draws))
    # Deletion in one order is insertion in the reverse of it, which is as random: one way is both.
    chance = np.mean([deletion(order) for order in orders], axis=0)
    ways[RANDOM] = Areas(chance, chance)
    elsewhere = {name: deletion(values) for name, values in (another or {}).items()}
    none = np.full(len(images), np.nan)
    return {
        name: {
            "deletion": way.deletion,
            "insertion": way.insertion,
            **{
                f"{what}_to_{control}": none
                if name == control
                else getattr(way, what) - getattr(ways[control], what)
                for what in ("deletion", "insertion")
                for control in (ENERGY, RANDOM)
            },
            TO_ANOTHER: way.deletion - elsewhere.get(name, none),
            "agreement": rank_agreement(cells[name], falls) if name in cells else none,
            "randomised": rank_agreement(cells[name], permuted[name]) if name in permuted else none,
        }
        for name, way in ways.items()
    }


def table_of(
    numbers: Numbers, n_images: int, grid: tuple[int, int], names: Sequence[str] = NUMBERS
) -> pd.DataFrame:
    """Means and intervals of graded images, one row an explainer or control."""
    columns = (part for name in names for part in (name, f"{name}_low", f"{name}_high"))
    rows = []
    for explainer_name, values in numbers.items():
        spans = [part for name in names for part in mean_interval(_independent(name, values[name]))]
        counted = int(np.isfinite(values["deletion"]).sum())
        rows.append((explainer_name, *spans, n_images, counted, grid[0] * grid[1]))
    return pd.DataFrame(rows, columns=["explainer", *columns, "n_images", "n_counted", "cells"])


def _independent(name: str, values: Floats) -> Floats:
    """Values (N,) of images; of a number that images share in twos, the means (N // 2,) of both."""
    if name != TO_ANOTHER:
        return values
    return np.asarray(values[: len(values) // 2 * 2].reshape(-1, 2).mean(axis=1))


def with_permuted_weights(
    module: nn.Module,
    seed: int,
    example: Tensor,
    asked: Callable[[nn.Module], Tensor] | None = None,
) -> nn.Module:
    """A copy whose last quarter of weights, the classifier's among them, are permuted.

    Their distribution stays, what was learned in them goes (Adebayo et al. 2018). The last ones are
    those that a pass reads last, in whatever order the network names them.

    Args:
        module: the network.
        seed: of the permutations.
        example: (1, 3, H, W) network input, of the pass.
        asked: what is explained, as the network gives it with gradient. If it reads none of these
            weights, as pooled maps do not read the classifier, the last that it reads is permuted:
            a map would stay what it was, whatever it follows. None: it reads the classifier.
    """
    other = copy.deepcopy(module)
    weights = _in_order_of_pass(other, example)
    last = weights[-max(1, len(weights) // 4) :]
    if asked is not None:
        read = _weights_read(other, weights, asked)
        last = last if any(value is one for value in last for one in read) else read[-1:]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in last:
            order = torch.randperm(value.numel(), generator=generator).to(value.device)
            value.copy_(value.flatten()[order].reshape(value.shape))
    return other


class _ParametersRead(TorchFunctionMode):
    """Notes when each parameter is last given to a torch function."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[int, int] = {}
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.calls += 1
        self._note((*args, *(kwargs or {}).values()))
        return func(*args, **(kwargs or {}))

    def _note(self, values: Sequence[Any]) -> None:
        for value in values:
            if isinstance(value, nn.Parameter):
                self.last[id(value)] = self.calls
            elif isinstance(value, list | tuple):
                self._note(value)


def _in_order_of_pass(module: nn.Module, example: Tensor) -> list[nn.Parameter]:
    """The weights as a pass reads them, those that it does not read first."""
    weights = [value for value in module.parameters() if value.ndim > 1]
    with evaluating(module), torch.no_grad(), _ParametersRead() as read:
        module(example)
    return sorted(weights, key=lambda value: read.last.get(id(value), 0))


def _weights_read(
    module: nn.Module, weights: Sequence[nn.Parameter], asked: Callable[[nn.Module], Tensor]
) -> list[nn.Parameter]:
    """Those weights that an output depends on, in their order; all if it has no gradient."""
    trained = [value.requires_grad for value in weights]
    for value in weights:
        value.requires_grad_(True)
    with evaluating(module), torch.enable_grad():
        output = asked(module).sum()
        if not output.requires_grad:
            return list(weights)
        slopes = torch.autograd.grad(output, list(weights), allow_unused=True)
    for value, before in zip(weights, trained, strict=True):
        value.requires_grad_(before)
    return [value for value, slope in zip(weights, slopes, strict=True) if slope is not None]


def cells_of(
    module: nn.Module,
    images: Tensor,
    target: Tensor,
    method: str,
    grid: tuple[int, int],
    grading: Grading,
    limits: tuple[Tensor, Tensor] | None,
) -> Floats:
    """Relevance (N, K) of the cells by an explainer of classes."""
    parts = zip(
        batches(images, grading.batch_size), batches(target, grading.batch_size), strict=True
    )
    maps = [
        relevances(module, part, [method], classes, limits=limits)[method].cpu()
        for part, classes in parts
    ]
    return in_cells(torch.cat(maps), grid)
