"""Small networks for 32x32 images, and how benchmarks train them.

The factories are named as a user names his own: `benchmarks/small_networks.py:vgg`.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the shared ResNets, so that one set of frames serves all."""


def _conv(inputs: int, outputs: int, side: int = 3, stride: int = 1, groups: int = 1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _pooled(*layers: nn.Module, channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def vgg(classes: int = 10) -> nn.Sequential:
    """Plain 3x3 convolutions between max poolings (Simonyan and Zisserman 2015)."""
    return _pooled(
        _conv(3, 24), nn.MaxPool2d(2), _conv(24, 48), _conv(48, 48), nn.MaxPool2d(2),
        _conv(48, 96), channels=96, classes=classes,
    )  # fmt: skip


def mobilenet(classes: int = 10) -> nn.Sequential:
    """Depthwise and pointwise convolutions in turn (Howard et al. 2017)."""

    def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            _conv(inputs, inputs, stride=stride, groups=inputs), _conv(inputs, outputs, 1)
        )

    return _pooled(
        _conv(3, 24, stride=2), separable(24, 48, 1), separable(48, 96, 2), separable(96, 96, 1),
        separable(96, 128, 1), channels=128, classes=classes,
    )  # fmt: skip


def nin(classes: int = 10) -> nn.Sequential:
    """Networks in networks: the last map has one channel a class (Lin, Chen and Yan 2014)."""
    body = nn.Sequential(
        _conv(3, 32, 5, 2), _conv(32, 32, 1), _conv(32, 64, 3), _conv(64, 64, 1),
        nn.MaxPool2d(2), _conv(64, 96), _conv(96, 96, 1),
    )  # fmt: skip
    return nn.Sequential(body, nn.Conv2d(96, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def plain(classes: int = 10) -> nn.Sequential:
    """Five convolutions, small enough to be trained by the dozen."""
    return _pooled(
        _conv(3, 16), _conv(16, 32, stride=2), _conv(32, 32), _conv(32, 64, stride=2),
        _conv(64, 64), channels=64, classes=classes,
    )  # fmt: skip


def normalised(pixels: np.ndarray) -> Tensor:
    """Network input (N, 3, H, W) of pixels (N, H, W, 3) uint8."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def shifted_and_flipped(inputs: Tensor, draw: torch.Generator) -> Tensor:
    """The usual augmentation of CIFAR: padded by four, cropped at random, half of them mirrored."""
    n, _, height, width = inputs.shape
    padded = nn.functional.pad(inputs, (4, 4, 4, 4))
    down, right = (torch.randint(9, (n,), generator=draw) for _ in range(2))
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    mirrored = torch.rand(n, generator=draw) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    at = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[at, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


Augment = Callable[[Tensor, torch.Generator], Tensor]


def training(
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    epochs: int,
    *,
    seed: int,
    augment: Augment | None = None,
    batch: int = 100,
    rate: float = 0.1,
) -> Iterator[int]:
    """Train in place by SGD with one cycle of the learning rate; give the number of each epoch.

    Args:
        module: a network.
        inputs: (N, 3, H, W), normalised.
        labels: (N,) int64.
        epochs: passes over the images.
        seed: of order and augmentation.
        augment: of each batch.
        batch: images of a step.
        rate: the highest learning rate.
    """
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(
        module.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = epochs * (len(inputs) // batch)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    module.to(memory_format=torch.channels_last)
    for epoch in range(1, epochs + 1):
        module.train()
        order = torch.randperm(len(inputs), generator=draw)
        for at in order[: len(order) // batch * batch].split(batch):
            x = inputs[at] if augment is None else augment(inputs[at], draw)
            loss = nn.functional.cross_entropy(module(x), labels[at])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
        module.eval()
        yield epoch
