"""Averages of the weights along a training: a flatter place than its last step."""

from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["none", "ema", "swa"]
MEMORY = 0.1
"""Share of the steps that an exponential average remembers."""


class WeightAverage(nn.Module):
    """Running average of the parameters of a network; part of the checkpoint of its run.

    `swa`: the mean over every step of the second half (Izmailov et al. 2018, "Averaging weights
    leads to wider optima and better generalization"; at every step as in Cha et al. 2021, "SWAD").
    `ema`: an exponential average over the last tenth of the steps; before there are as many, the
    mean of all.

    Args:
        net: its parameters now have the first place in the average.
        kind: ``ema`` or ``swa``.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> average = WeightAverage(net, "swa")
        >>> for step in (1, 2, 3, 4):
        ...     nn.init.constant_(net.weight, step) and None
        ...     average.see(net, step, total=4)
        >>> average.write_to(net)
        >>> net.weight.item()
        3.5
    """

    count: Tensor

    def __init__(self, net: nn.Module, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.values = nn.ParameterList(
            nn.Parameter(value.detach().clone(), requires_grad=False) for value in net.parameters()
        )
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def see(self, net: nn.Module, step: int, total: int) -> None:
        """Take in the parameters after a step.

        Args:
            net: the network.
            step: how many steps are done.
            total: steps of the run.
        """
        if self.kind == "swa" and 2 * step <= total:
            return
        self.count += 1
        share = 1.0 / float(self.count)
        if self.kind == "ema":
            share = max(share, 1.0 / max(1.0, MEMORY * total))
        for mine, value in zip(self.values, net.parameters(), strict=True):
            mine.lerp_(value, share)

    @torch.no_grad()
    def write_to(self, net: nn.Module) -> None:
        """Give the network the averaged parameters; its buffers stay."""
        for mine, value in zip(self.values, net.parameters(), strict=True):
            value.copy_(mine)
