"""Running statistics of BatchNorm after training on batches of few classes."""

import numpy as np
import torch
from torch import nn

from alike.train.step import ConsistencyStep

MAX_BATCHES = 50


def settle_statistics(net: nn.Module, step: ConsistencyStep) -> list[str]:
    """Measure the running statistics again on random batches, if those of training were not.

    Batches of P of the classes have other means than the set; what a network would meet in use is
    the set. Averaged weights were never trained with, so nothing was measured for them. Nothing is
    done if the weights are those of the last step and every batch held every class, or there is no
    BatchNorm.

    Args:
        net: the trained network; its mode is put back.
        step: gives images, batches and transform.

    Returns:
        What was done, in words.
    """
    layers = [
        layer for layer in net.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    layers = [layer for layer in layers if layer.track_running_stats]
    averaged = step.average is not None
    if not layers or step.batches is None or (step.batches.all_classes and not averaged):
        return []
    momenta = [layer.momentum for layer in layers]
    training = net.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    size = step.batches.batch_size
    rows = np.random.default_rng(step.settings.seed).permutation(len(step.frames))
    batches = [rows[first : first + size] for first in range(0, len(rows), size)]
    # A short last batch would count as much as the others.
    batches = [batch for batch in batches if len(batch) == size][:MAX_BATCHES]
    device = next(net.parameters()).device
    net.train()
    with torch.no_grad():
        for batch in batches:
            frames = step.frames.stack([int(row) for row in batch]).to(device)
            net(step.frames.transform.normalise(frames))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    net.train(training)
    reason = "the weights are averages" if averaged else "those of training held some classes only"
    return [
        f"statistics of {len(layers)} BatchNorm layers measured again on {len(batches)} random "
        f"batches, since {reason}"
    ]
