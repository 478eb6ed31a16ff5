"""Small image folders and networks that the tests of extraction make."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from PIL import Image
from torch import nn

from alike.extract.images import KeptColumns, PastListing
from alike.extract.images.listing import SCHEMA


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """A smooth random image of (width, height)."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **settings: object) -> bytes:
    """The image as a file's bytes."""
    written = io.BytesIO()
    image.save(written, kind, **settings)
    return written.getvalue()


def class_folders(root: Path, counts: dict[str, int], size: tuple[int, int] = (40, 32)) -> Path:
    """JPEG files in a folder for each class; every image differs."""
    for label, count in counts.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        first = int(hashlib.sha256(label.encode()).hexdigest()[:6], 16)
        for number in range(count):
            data = encoded(picture(first + number, size))
            (root / label / f"{number:04d}.jpg").write_bytes(data)
    return root


SMALL = """
import torch
from torch import nn

TRANSFORM = {"resize": [16, 16]}
CLASS_NAMES = ("cat", "dog", "owl")


class Small(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(6, classes)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        return self.linear(x.mean((2, 3)))


def small(classes=3):
    return Small(classes)


def broken(classes=3):
    raise ValueError("no such size")


def negative():
    return Small(-3)
"""


def small_file(folder: Path) -> str:
    """A user's own network file; returns what to give as the network's name."""
    path = folder / "small.py"
    path.write_text(SMALL)
    return f"{path}:small"


def unsettled(module: nn.Module) -> nn.Module:
    """BatchNorms with statistics as after training, not those of a fresh network."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.1)
    return module.eval()


def naive_taps(module: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Taps of the small network, computed by its layers' own functions."""
    x = nn.functional.batch_norm(
        nn.functional.conv2d(batch, module.conv.weight, module.conv.bias, padding=1),
        module.bn.running_mean,
        module.bn.running_var,
        module.bn.weight,
        module.bn.bias,
    )
    maps = x.clamp(min=0)
    pooled = maps.flatten(2).mean(2)
    return {
        "conv": nn.functional.conv2d(batch, module.conv.weight, module.conv.bias, padding=1),
        "bn": x,
        "last_conv": maps,
        "fc": pooled,
        "logits": pooled @ module.linear.weight.T + module.linear.bias,
    }


def past_of(listing: pd.DataFrame, turn: int = 1) -> PastListing:
    """What a store would remember of a listing."""
    whole = pa.Table.from_pandas(listing.assign(group=None), SCHEMA, preserve_index=False)
    return PastListing(pa.Table.from_batches(KeptColumns(whole).to_batches()), turn)
