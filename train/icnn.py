"""Interpretable CNN (Zhang, Wu, Zhu 2018): each filter should fire at one place or not at all.

The loss of a filter is minus the mutual information between its maps X and n² + 1 templates, here
by autograd on the exact expression instead of the paper's hand-made gradient.
"""

import functools
import math

import torch
from torch import Tensor

from alike.train.map_losses import StepView

BETA = 4.0
PEAK = 5.0


@functools.cache
def templates(height: int, width: int) -> Tensor:
    """Templates (H·W + 1, H·W) float64: one peak a position, and at the end the negative one.

    T_mu(ij) = tau · max(1 - beta · |ij - mu|_1 / n, -1), T_-(ij) = -tau, tau = 0.5 / n², beta = 4;
    n² = H·W and n its root.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack((rows.flatten(), columns.flatten()), 1).double()
    distance = (places[:, None] - places[None, :]).abs().sum(2)
    count = height * width
    peaks = (1.0 - BETA * distance / math.sqrt(count)).clamp_min(-1.0)
    return torch.cat((peaks, -torch.ones(1, count, dtype=torch.float64))) * (0.5 / count)


def exact_information_loss(maps: Tensor) -> Tensor:
    """Minus the mutual information of each filter's maps with the templates.

    -MI = -sum_T p(T) sum_x p(x|T) log[p(x|T)/p(x)], p(x|T) = exp(x·T)/Z_T over the images,
    p(T_mu) = alpha/n², p(T_-) = 1 - alpha, alpha = n²/(1 + n²).

    Args:
        maps: (N, C, H, W).

    Returns:
        (C,), in [-log(n² + 1), 0]; 0 when all maps of the filter are equal.
    """
    height, width = maps.shape[2:]
    shapes = templates(height, width).to(maps)
    count = height * width
    # p(T_-) = 1 - alpha = 1/(1 + n²) = alpha/n²: with this alpha all templates are equally likely.
    log_prior = -math.log(count + 1)
    fit = torch.einsum("ncs,ts->nct", maps.flatten(2), shapes)
    log_share = fit.log_softmax(0)
    log_image = torch.logsumexp(log_share + log_prior, dim=2, keepdim=True)
    information = (log_share.exp() * (log_share - log_image)).sum((0, 2)) / (count + 1)
    return -information


def icnn_loss(view: StepView) -> Tensor:
    """Mean of `exact_information_loss` over filters, each scaled so that its peaks matter.

    With tau = 0.5/n² activations of size 1 give about -5e-5, nothing to learn from: a filter is
    scaled, without gradient, so that the mean over images of its highest activation fits its
    template by `PEAK` nats. Filters that are silent in the batch stay as they are.
    """
    maps = view.maps
    count = maps.shape[2] * maps.shape[3]
    peak = maps.detach().amax((2, 3)).mean(0)
    scale = torch.where(peak > 1e-6, 2.0 * count * PEAK / peak.clamp_min(1e-6), 1.0)
    return exact_information_loss(maps * scale[None, :, None, None]).mean()
