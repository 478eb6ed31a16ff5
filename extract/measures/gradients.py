"""The vectors of a measure with gradient: what a loss trains and what an explanation follows.

A measure of `MEASURES` is a pool and a chain of steps in NumPy. This module has the torch version
of each, keyed by the NumPy function, so that a new measure of known parts has a gradient at once.
A test holds the two equal for every row.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from alike.extract.errors import BadInput
from alike.extract.measures import steps
from alike.extract.measures.measures import Measure

Taps = Mapping[str, Tensor]
Classifier = Callable[[], Tensor]
"""Gives the weights (K, C) of the last layer."""
ROOT_FLOOR = 1e-12
"""Below it the root of a second-order entry has no gradient: it would be endless at 0."""


def unit(vectors: Tensor, floor: float = 1e-6) -> Tensor:
    """Divide each row of `vectors` (N, D) by its Euclidean norm; a row below `floor` becomes zero.

    A dead feature gets no gradient at all: the usual x / max(|x|, eps) would send it one of 1/eps.
    """
    norms = vectors.norm(dim=1, keepdim=True)
    return torch.where(norms > floor, vectors / norms.clamp_min(floor), vectors.new_zeros(()))


def has_gradient(measure: Measure) -> bool:
    """Whether every step of a measure has a gradient; ranks have none."""
    return all(step.apply in _STEPS or step.apply in _FITTED for step in measure.chain)


def vectors_with_gradient(measure: Measure, taps: Taps, classifier: Classifier) -> Tensor:
    """`Measure.embed` on tensors.

    Args:
        measure: fitted, if it needs to be.
        taps: the arrays that it reads, by name, (N, ...) each, with gradient.
        classifier: asked by measures that read the classifier's weights.

    Returns:
        (N, D), with gradient.

    Raises:
        BadInput: it has no gradient, or is not fitted yet.
    """
    return unit_if_cosine(measure, vectors_before_unit(measure, taps, classifier))


def vectors_before_unit(measure: Measure, taps: Taps, classifier: Classifier) -> Tensor:
    """As `vectors_with_gradient`, without the last step if that divides by the norm."""
    if not has_gradient(measure):
        raise BadInput(f"measure {measure.name} has no gradient: one of its steps is of ranks")
    if measure.needs_fit:
        raise BadInput(f"measure {measure.name} is not fitted: get it by ready_measure()")
    x = _pooled(measure, taps, classifier)
    for step in measure.chain:
        if step.apply in _FITTED:
            arrays = {name: torch.from_numpy(value).to(x) for name, value in measure.fitted.items()}
            x = _FITTED[step.apply](x, arrays)
        elif step.apply is not steps.normalise:
            x = _STEPS[step.apply](x)
    return x


def unit_if_cosine(measure: Measure, vectors: Tensor) -> Tensor:
    """The last step of a measure: vectors (N, D) of unit length if it compares angles."""
    return unit(vectors) if measure.form == "cosine" else vectors


def _pooled(measure: Measure, taps: Taps, classifier: Classifier) -> Tensor:
    pool, taps = measure.read(taps)
    if isinstance(pool, steps.Take):
        return taps[pool.tap].flatten(1)
    return _POOLS[pool](taps, classifier)


def _max(taps: Taps, classifier: Classifier) -> Tensor:
    return taps["last_conv"].amax((2, 3))


def _gem(taps: Taps, classifier: Classifier) -> Tensor:
    floored = taps["last_conv"].clamp_min(steps.GEM_FLOOR)
    return floored.pow(steps.GEM_POWER).mean((2, 3)).pow(1.0 / steps.GEM_POWER)


def _bilinear(taps: Taps, classifier: Classifier) -> Tensor:
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


def _cam(taps: Taps, classifier: Classifier) -> Tensor:
    maps = taps["last_conv"]
    cam = torch.einsum("nc,nchw->nhw", _predicted(taps, classifier), maps)
    return _weighed(maps, cam.relu())


def _energy(taps: Taps, classifier: Classifier) -> Tensor:
    maps = taps["last_conv"]
    return _weighed(maps, maps.sum(1).relu())


def _gap_predicted(taps: Taps, classifier: Classifier) -> Tensor:
    return taps["gap"] * _predicted(taps, classifier).relu()


def _softmax(taps: Taps, classifier: Classifier) -> Tensor:
    return taps["logits"].softmax(1)


def _predicted(taps: Taps, classifier: Classifier) -> Tensor:
    return classifier()[taps["logits"].argmax(1)]


def _weighed(maps: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum((1, 2), keepdim=True)
    even = torch.full_like(weights, 1.0 / weights[0].numel())
    share = torch.where(total > steps.CAM_FLOOR, weights / total.clamp_min(steps.CAM_FLOOR), even)
    return torch.einsum("nchw,nhw->nc", maps, share)


_POOLS: dict[Callable[..., object], Callable[[Taps, Classifier], Tensor]] = {
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

_FITTED: dict[Callable[..., object], Callable[[Tensor, Taps], Tensor]] = {
    steps.centre: lambda x, arrays: x - arrays["mean"],
    steps.project: lambda x, arrays: (x - arrays["mean"]) @ arrays["components"],
}
