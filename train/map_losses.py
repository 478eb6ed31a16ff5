"""Consistency losses on whole feature maps and on the parts that a class activation map marks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from train.similarity import same_class, supcon, unit

POSITIVE_MARGIN = 0.1
NEGATIVE_MARGIN = 1.0
BACKGROUND = 1e-3


@dataclass(frozen=True)
class StepView:
    """What a consistency loss sees of one training step.

    Attributes:
        maps: (B, C, H, W) float32 or float64, the feature map before the pooling, with gradient.
        labels: (B,) int64.
        mask: gives (B, H, W), where the class is: non-negative, summing to 1, detached. A function,
            since only some losses pay for it.
    """

    maps: Tensor
    labels: Tensor
    mask: Callable[[], Tensor]


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
    and B² P² floats for P = H·W positions.
    """
    batch, channels = view.maps.shape[:2]
    columns = view.maps.flatten(2).transpose(1, 2)
    columns = unit(columns.reshape(-1, channels))
    cosines = (columns @ columns.T).view(batch, -1, batch, columns.shape[0] // batch)
    matched = torch.einsum("ipj,ip->ij", cosines.amax(3), view.mask().flatten(1))
    return supcon((matched + matched.T) / 2.0, view.labels)
