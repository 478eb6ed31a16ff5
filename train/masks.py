"""Where in a feature map the class of an image is: CAM and Grad-CAM masks, without gradient."""

import torch
from torch import Tensor

EMPTY = 1e-6


def cam_mask(maps: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """Class activation map of the true class as a weighting of positions.

    m_p = ReLU(w_y · a_p) / sum_p ReLU(w_y · a_p) (Zhou et al. 2016). The true class is used in
    training only: in an evaluation it would leak the label.

    Args:
        maps: (B, C, H, W).
        weights: (K, C) of a linear classifier after global average pooling.
        labels: (B,) int64.

    Returns:
        (B, H, W), non-negative, each summing to 1, detached; uniform if the map is empty.
    """
    with torch.no_grad():
        return shares(torch.einsum("bchw,bc->bhw", maps, weights[labels].to(maps.dtype)))


def grad_cam_mask(maps: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Grad-CAM of the true class as a weighting of positions, for any head.

    alpha_k = mean_p d logit_y / d A_kp; m_p = ReLU(sum_k alpha_k A_kp), made to sum to 1
    (Selvaraju et al. 2017). With a pooled linear head it equals `cam_mask`.

    Args:
        maps: (B, C, H, W), part of the graph of `logits`.
        logits: (B, K).
        labels: (B,) int64.

    Returns:
        (B, H, W) as in `cam_mask`; the graph is kept, no second-order graph is built.
    """
    scores = logits.gather(1, labels[:, None]).sum()
    (gradient,) = torch.autograd.grad(scores, maps, retain_graph=True)
    with torch.no_grad():
        alpha = gradient.float().mean((2, 3))
        return shares(torch.einsum("bchw,bc->bhw", maps.float(), alpha))


def shares(activation: Tensor) -> Tensor:
    """ReLU of maps (B, H, W), each divided by its sum; uniform if the sum is about zero."""
    positive = activation.relu()
    total = positive.sum((1, 2), keepdim=True)
    even = torch.full_like(positive, 1.0 / positive[0].numel())
    return torch.where(total > EMPTY, positive / total.clamp_min(EMPTY), even).detach()
