"""Consistency losses on whole feature maps and on the parts that a class activation map marks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alike.extract.errors import BadInput
from alike.extract.measures.gradients import unit
from alike.train.similarity import same_class, supcon

POSITIVE_MARGIN = 0.1
NEGATIVE_MARGIN = 1.0
BACKGROUND = 1e-3
PRODUCTS = 2**20


def _no_classifier() -> Tensor:
    raise BadInput("the network does not end in one linear layer: choose gap_supcon")


@dataclass(frozen=True)
class StepView:
    """What a consistency loss sees of one training step.

    Attributes:
        maps: (B, C, H, W) float32 or float64, the feature map before the pooling, with gradient.
        labels: (B,) int64.
        mask: gives (B, H, W), where the class is: non-negative, summing to 1, detached. A function,
            since only some losses pay for it.
        captured: `logits` (B, K), and `fc` (B, D) if the loss asks for it, with gradient.
        classifier: gives the weights (K, C) of the last layer, detached.
    """

    maps: Tensor
    labels: Tensor
    mask: Callable[[], Tensor]
    captured: Mapping[str, Tensor] = field(default_factory=dict)
    classifier: Callable[[], Tensor] = field(default=_no_classifier)

    def taps(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Taps by the names that the store gives them."""
        own = {"last_conv": lambda: self.maps, "gap": lambda: self.maps.mean((2, 3))}
        return {name: own[name]() if name in own else self.captured[name] for name in names}


def map_pair(
    view: StepView,
    positive_margin: float = POSITIVE_MARGIN,
    negative_margin: float = NEGATIVE_MARGIN,
) -> Tensor:
    """Pull maps of one class together and push those of two apart, each map of unit norm.

    With u = vec(A)/|vec(A)| and d² = 2 - 2 u·u': mean over same of [d² - m_p]+ plus mean over
    different of [m_n - d²]+ . d² is in [0, 2] for maps after a ReLU.
    """
    features = unit(view.maps.flatten(1))
    return _pair_hinge(
        2.0 - 2.0 * features @ features.T, view.labels, (positive_margin, negative_margin)
    )


def map_pair_raw(view: StepView) -> Tensor:
    """The pair loss on maps as they are: the pull grows with the activations. A warning."""
    flat = view.maps.flatten(1)
    squares = flat.square().sum(1)
    distance = (squares[:, None] + squares[None, :] - 2.0 * flat @ flat.T).clamp_min(0.0)
    return _pair_hinge(distance, view.labels, (0.0, NEGATIVE_MARGIN))


def _pair_hinge(squared: Tensor, labels: Tensor, margins: tuple[float, float]) -> Tensor:
    same, different = same_class(labels)
    pull = (squared - margins[0]).relu().masked_fill(~same, 0.0).sum() / same.sum().clamp_min(1)
    push = (margins[1] - squared).relu().masked_fill(~different, 0.0).sum()
    return pull + push / different.sum().clamp_min(1)


def cam_supcon(view: StepView) -> Tensor:
    """Supervised contrast of z = normalise(sum_p m_p a_p), m the mask of the true class."""
    pooled = unit(torch.einsum("bchw,bhw->bc", view.maps, view.mask()))
    return supcon(pooled @ pooled.T, view.labels)


def cam_supcon_background(view: StepView, share: float = BACKGROUND) -> Tensor:
    """`cam_supcon` + rho · mean_p (1 - m_p / max m) |a_p|² / C: quiet outside the class."""
    mask = view.mask()
    pooled = unit(torch.einsum("bchw,bhw->bc", view.maps, mask))
    outside = 1.0 - mask / mask.amax((1, 2), keepdim=True).clamp_min(1e-12)
    energy = view.maps.square().mean(1)
    return supcon(pooled @ pooled.T, view.labels) + share * (outside * energy).mean()


def cam_chamfer(view: StepView) -> Tensor:
    """Supervised contrast of the two-sided, mask-weighted best match of positions.

    s_ij = (T_ij + T_ji)/2, T_ij = sum_p m_ip max_q cos(a_ip, a_jq). Costs B² P² C multiplications
    for P = H·W positions; see `BestMatches` for the memory.
    """
    batch, channels = view.maps.shape[:2]
    columns = unit(view.maps.flatten(2).transpose(1, 2).reshape(-1, channels))
    best: Tensor = BestMatches.apply(columns, batch)
    matched = torch.einsum("ipj,ip->ij", best, view.mask().flatten(1))
    return supcon((matched + matched.T) / 2.0, view.labels)


class BestMatches(torch.autograd.Function):
    """max_q a_ip · a_jq for every position p of image i and every image j, with its gradient.

    The B² P² products are made a few images at a time and forgotten; only the B² P places of the
    maxima are kept. Autograd on `amax` keeps them all and walks through them several times.
    """

    @staticmethod
    def forward(ctx: Any, columns: Tensor, batch: int) -> Tensor:
        """Values (B, P, B) for columns (B·P, C); of equal maxima the gradient follows one."""
        values, places = [], []
        for part in _parts(columns):
            products = (part @ columns.T).view(len(part), batch, -1)
            value, place = products.max(2)
            values.append(value)
            places.append(place)
        ctx.save_for_backward(columns, torch.cat(places))
        return torch.cat(values).view(batch, -1, batch)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Each maximum pulls its two columns towards each other."""
        columns, places = ctx.saved_tensors
        batch = places.shape[1]
        pulls = gradient.reshape(len(columns), batch)
        result = torch.zeros_like(columns)
        first = 0
        for part in _parts(columns):
            rows = slice(first, first + len(part))
            sparse = columns.new_zeros(len(part), batch, len(columns) // batch)
            sparse.scatter_(2, places[rows, :, None], pulls[rows, :, None])
            dense = sparse.view(len(part), -1)
            result[rows] += dense @ columns
            result += dense.T @ part
            first += len(part)
        return result, None


def _parts(columns: Tensor) -> list[Tensor]:
    """Columns (B·P, C) in parts, the products of which with all fit into a cache."""
    rows = max(1, PRODUCTS // len(columns))
    return [columns[first : first + rows] for first in range(0, len(columns), rows)]
