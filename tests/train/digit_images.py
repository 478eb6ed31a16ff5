"""Real digits of scikit-learn as image bytes, and a small network for them; shared by the tests."""

import io
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

NETWORK = """
from torch import nn

TRANSFORM = {"resize": [16, 16], "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3}


def small(classes=10, dropout=0.0):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(32, classes),
    )
"""


def write_network(folder: Path) -> str:
    """The name to give to `load_network`."""
    path = folder / "small.py"
    path.write_text(NETWORK)
    return f"{path}:small"


class Digits:
    """Images as `retrain` takes them: a list of (path, label), and a function that reads."""

    def __init__(self, first=0, count=200):
        digits = load_digits()
        self.pixels = (digits.images * 255 / 16).astype(np.uint8)
        rows = range(first, first + count)
        self.images = [(f"{row}.npy", str(digits.target[row])) for row in rows]

    def read(self, path):
        grey = self.pixels[int(path.removesuffix(".npy"))]
        file = io.BytesIO()
        np.save(file, np.repeat(grey[:, :, None], 3, axis=2))
        return file.getvalue()
