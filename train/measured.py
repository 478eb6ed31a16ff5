"""The vectors of a measure with gradient, so that a loss can train what is measured afterwards.

A measure of `MEASURES` is a pool and a chain of steps in NumPy. This module has the torch version
of each, keyed by the NumPy function: a new measure of known parts can be trained at once. A test
holds the two equal for every row.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from alike.extract.errors import BadInput
from alike.extract.measures import MEASURES, Measure, steps
from alike.train.map_losses import StepView
from alike.train.similarity import unit
from alike.train.vector_losses import Vectors

Taps = Mapping[str, Tensor]
ROOT_FLOOR = 1e-12
"""Below it the root of a second-order entry has no gradient: it would be endless at 0."""


def vectors_of(name: str) -> Vectors:
    """The vectors (B, D) of a measure in a training step.

    Args:
        name: a key of `MEASURES`.

    Raises:
        BadInput: an unknown measure, or one that cannot be trained, with the reason.
    """
    if name not in MEASURES:
        raise BadInput(f"measure {name!r} is not known; choose one of {', '.join(trainable())}")
    measure = MEASURES[name]
    reason = _hindrance(measure)
    if reason:
        names = ", ".join(trainable())
        raise BadInput(f"measure {name} cannot be trained: {reason}; choose one of {names}")
    pool = _pool(measure)
    chain = [_STEPS[step.apply] for step in measure.chain]

    def vectors(view: StepView) -> Tensor:
        x = pool(view.taps(measure.taps), view)
        for step in chain:
            x = step(x)
        return x

    return vectors


def trainable() -> list[str]:
    """Names of the measures that have vectors with gradient."""
    return [name for name, measure in MEASURES.items() if not _hindrance(measure)]


def _hindrance(measure: Measure) -> str:
    if measure.taps == ("pixels",):
        return "it does not look at the network"
    if measure.form == "euclidean":
        return "its distance has no bound, and training would shrink or blow up the features"
    if any(step.fit for step in measure.chain):
        return "it is fitted on features that training changes"
    if any(step.apply not in _STEPS for step in measure.chain):
        return "one of its steps (ranks) has no gradient"
    return ""


def _pool(measure: Measure) -> Callable[[Taps, StepView], Tensor]:
    if isinstance(measure.pool, steps.Take):
        tap = measure.pool.tap
        return lambda taps, view: taps[tap].flatten(1)
    return _POOLS[measure.pool]


def _max(taps: Taps, view: StepView) -> Tensor:
    return taps["last_conv"].amax((2, 3))


def _gem(taps: Taps, view: StepView) -> Tensor:
    floored = taps["last_conv"].clamp_min(steps.GEM_FLOOR)
    return floored.pow(steps.GEM_POWER).mean((2, 3)).pow(1.0 / steps.GEM_POWER)


def _bilinear(taps: Taps, view: StepView) -> Tensor:
    columns = taps["last_conv"].flatten(2)
    basis = steps.bilinear_basis(columns.shape[1])
    if basis is not None:
        columns = torch.einsum("ck,ncp->nkp", torch.from_numpy(basis).to(columns), columns)
    second = columns @ columns.transpose(1, 2) / columns.shape[2]
    upper, lower = np.triu_indices(second.shape[1])
    weights = np.where(upper == lower, 1.0, np.sqrt(2.0))
    picked = second[:, upper, lower]
    root = picked.sign() * picked.abs().clamp_min(ROOT_FLOOR).sqrt()
    return root * torch.from_numpy(weights).to(root)


def _cam(taps: Taps, view: StepView) -> Tensor:
    maps = taps["last_conv"]
    cam = torch.einsum("nc,nchw->nhw", _predicted(taps, view), maps)
    return _weighed(maps, cam.relu())


def _energy(taps: Taps, view: StepView) -> Tensor:
    maps = taps["last_conv"]
    return _weighed(maps, maps.sum(1).relu())


def _gap_predicted(taps: Taps, view: StepView) -> Tensor:
    return taps["gap"] * _predicted(taps, view).relu()


def _softmax(taps: Taps, view: StepView) -> Tensor:
    return taps["logits"].softmax(1)


def _predicted(taps: Taps, view: StepView) -> Tensor:
    return view.classifier()[taps["logits"].argmax(1)]


def _weighed(maps: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum((1, 2), keepdim=True)
    even = torch.full_like(weights, 1.0 / weights[0].numel())
    share = torch.where(total > steps.CAM_FLOOR, weights / total.clamp_min(steps.CAM_FLOOR), even)
    return torch.einsum("nchw,nhw->nc", maps, share)


_POOLS: dict[Callable[..., object], Callable[[Taps, StepView], Tensor]] = {
    steps.max_pool: _max,
    steps.gem_pool: _gem,
    steps.bilinear_pool: _bilinear,
    steps.cam_pool: _cam,
    steps.energy_pool: _energy,
    steps.gap_predicted: _gap_predicted,
    steps.softmax: _softmax,
}

_STEPS: dict[Callable[..., object], Callable[[Tensor], Tensor]] = {
    steps.normalise: unit,
    steps.centre_each: lambda x: x - x.mean(1, keepdim=True),
}
