"""Preprocessing that looks wrong is a warning, stored with the features."""

from pathlib import Path

import pytest
import torch
from extracting import run
from images import encoded, picture

from alike.extract import selfcheck
from alike.extract.networks.network import load_network
from alike.extract.store.store import Store

COLOURS = """
import torch
from torch import nn

TRANSFORM = {"resize": [8, 8]}
CLASS_NAMES = ("red", "blue")


class Colours(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.order = order
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.linear = nn.Linear(3, 2, bias=False)
        self.conv.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.linear.weight.data = torch.tensor([[1.0, 0, -1], [-1, 0, 1]])

    def forward(self, x):
        return self.linear(self.conv(x[:, self.order]).mean((2, 3)))


def right():
    return Colours([0, 1, 2])


def swapped():
    return Colours([2, 1, 0])
"""


@pytest.mark.quick
def test_top1_and_a_warning_where_channels_are_swapped(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that knows red from blue, with a preprocessing that swaps mean and std."""
    (tmp_path / "colours.py").write_text(COLOURS)
    folder = tmp_path / "set"
    for label, colour in (("red", (220, 30, 60)), ("blue", (60, 30, 220))):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            shade = tuple(value + number for value in colour)
            image = picture(0).point(lambda _: 0)
            image.paste(shade, (0, 0, *image.size))
            (folder / label / f"{number}.png").write_bytes(encoded(image, "PNG"))
    torch.save(load_network(f"{tmp_path}/colours.py:right").module.state_dict(), tmp_path / "w.pth")
    right = load_network(f"{tmp_path}/colours.py:right", str(tmp_path / "w.pth"))
    report = run(folder, right, store)
    assert report.top1 == 1.0
    # The images are flat on purpose, so none can have a twin.
    (note,) = report.notes
    assert note.startswith("40 of 40 images are smaller than 24 pixels or flat")
    wrong = load_network(f"{tmp_path}/colours.py:swapped", str(tmp_path / "w.pth"))
    report = run(folder, wrong, store)
    assert report.top1 == 0
    assert "16 with channels in the order blue, green, red" in report.notes[-2]
    # Remembered: neither an unchanged set nor a few new images pay for it again.
    (folder / "red" / "new.png").write_bytes(encoded(picture(5), "PNG"))
    monkeypatch.setattr(selfcheck, "preprocessing_warning", None)
    for computed in (1, 0):
        again = run(folder, wrong, store)
        assert (again.n_computed, again.notes[:-1]) == (computed, report.notes[:-1])
