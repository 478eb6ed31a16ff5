"""The optimiser of a run and how its rate changes."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from alike.train.schedule import rate
from alike.train.settings import TrainSettings
from alike.train.start import Start


def make_optimiser(
    net: nn.Module, start: Start, settings: TrainSettings, total_steps: int
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW, or SGD with Nesterov momentum; no weight decay of biases and norms.

    While a replaced head of a trained network warms up, the rate of the body is 0.

    Args:
        net: only parameters that require a gradient are given to the optimiser.
        start: where the head is, and whether it is new.
        settings: rates, decay, warm-up.
        total_steps: of the run.
    """
    frozen = frozen_steps(start, settings, total_steps)
    rise = int(settings.lr_warmup * total_steps)
    groups, rates = [], []
    for of_head in (False, True):
        for decays in (False, True):
            parameters = [
                value
                for name, value in net.named_parameters()
                if value.requires_grad
                and name.startswith(start.head.path + ".") is of_head
                and (value.ndim > 1) is decays
            ]
            if parameters:
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": parameters, "weight_decay": decay})
                rates.append(_rate(total_steps, rise, 0 if of_head else frozen))
    peak = settings.peak_rate(start.trained)
    optimiser: torch.optim.Optimizer
    if settings.optimiser == "adamw":
        optimiser = torch.optim.AdamW(groups, lr=peak)
    else:
        optimiser = torch.optim.SGD(groups, lr=peak, momentum=0.9, nesterov=True)
    return optimiser, LambdaLR(optimiser, rates)


def frozen_steps(start: Start, settings: TrainSettings, total_steps: int) -> int:
    """Steps at the beginning in which only a replaced head of a trained network learns."""
    waiting = settings.head_warmup if start.fresh_head and start.trained else 0.0
    return int(waiting * total_steps)


def _rate(total: int, rise: int, frozen: int) -> Callable[[int], float]:
    return lambda step: rate(step, total, rise, frozen)
