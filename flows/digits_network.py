"""A small convolutional network for the demo: global average pooling and a linear head.

It is loaded as a user's own network is: `flows/digits_network.py:small_network`.
"""

from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """Three 3x3 convolutions on 16x16 images; last map (N, 64, 4, 4)."""

    def __init__(self, classes: int) -> None:
        """Make the layers for `classes` classes."""
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, 32), nn.MaxPool2d(2), *_block(32, 64), nn.MaxPool2d(2), *_block(64, 64)
        )
        self.fc = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, 16, 16)."""
        logits: Tensor = self.fc(self.features(images).mean((2, 3)))
        return logits


def _block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()


def small_network(classes: int = 10) -> SmallNetwork:
    """The factory."""
    return SmallNetwork(classes)
