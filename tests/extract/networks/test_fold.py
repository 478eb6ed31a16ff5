from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from images import small_file, unsettled
from torch import nn

from alike.extract.networks.capture import TappedNetwork
from alike.extract.networks.fold import folded
from alike.extract.networks.network import load_network
from alike.extract.networks.taps import find_taps


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [("shufflenet_v2_x0_5", 0), ("resnet18", 0), ("squeezenet1_1", 0)],
)
def test_folding_leaves_every_tap_as_it_was(name: str, left: int) -> None:
    module = unsettled(torchvision.models.get_model(name, weights=None))
    before = norms(module)
    batch = torch.randn(2, 3, 64, 64)
    taps = list(find_taps(module, batch[:1]).values())
    fewer, found = folded(module, taps, (64, 64))
    assert norms(module) == before
    assert norms(fewer) == left
    with torch.no_grad():
        plain = TappedNetwork(module, taps)(batch)
        fast = TappedNetwork(fewer, found)(batch)
    for tap in taps:
        scale = float(plain[tap.name].abs().max())
        torch.testing.assert_close(fast[tap.name], plain[tap.name], atol=1e-5 * scale, rtol=0)


def test_tapped_convolutions_are_not_folded(tmp_path: Path) -> None:
    module = load_network(small_file(tmp_path)).module
    example = torch.zeros(1, 3, 8, 8)
    taps = find_taps(module, example, ["conv", "bn"])
    assert norms(folded(module, [taps["last_conv"]], (8, 8))[0]) == 0
    assert norms(folded(module, [taps["conv"]], (8, 8))[0]) == 1
    assert norms(folded(module, [taps["bn"]], (8, 8))[0]) == 0
    assert norms(folded(module, [replace(taps["bn"], side="input")], (8, 8))[0]) == 1


def test_tapped_batch_norms_are_found_again() -> None:
    """Folded ones as their convolutions, the others by fewer calls before them."""
    module = unsettled(torchvision.models.resnet18(num_classes=5))
    # Not ours to fold: the first, and one in the middle.
    for path in ("bn1", "layer2.0.bn2"):
        module.set_submodule(path, Odd.Own(module.get_submodule(path).num_features).eval())
    batch = torch.randn(2, 3, 64, 64)
    paths = ["layer1.0.bn2", "layer2.0.bn1", "layer2.0.downsample.1", "layer4.1.bn2"]
    taps = [tap for name, tap in find_taps(module, batch[:1], paths).items() if name in paths]
    fewer, found = folded(module, taps, (64, 64))
    assert norms(fewer) == 2
    with torch.no_grad():
        plain = TappedNetwork(module, taps)(batch)
        fast = TappedNetwork(fewer, found)(batch)
    for path in paths:
        scale = float(plain[path].abs().max())
        torch.testing.assert_close(fast[path], plain[path], atol=1e-5 * scale, rtol=0)


class Odd(nn.Module):
    """Pairs that must stay: a result used twice, a layer run twice, a BatchNorm of another kind."""

    class Own(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    def __init__(self) -> None:
        super().__init__()
        self.used, self.run, self.other = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(3), nn.BatchNorm2d(3), self.Own(3)
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.used(x)
        x = self.bn1(y) + y
        x = self.bn2(self.run(x)) + self.run(x)
        return self.linear(self.bn3(self.other(x)).mean((2, 3)))


def test_what_cannot_be_folded_stays() -> None:
    module = unsettled(Odd())
    fewer, _ = folded(module, [], (4, 4))
    batch = torch.randn(3, 3, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(fewer(batch), module(batch))
    assert norms(fewer) == 3


class Secret(nn.Module):
    """Reads its BatchNorm's weight beside running it, as no folding can know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x)) * self.conv.weight.sum()
        return self.linear(x.mean((2, 3)))


@pytest.mark.quick
def test_network_that_folding_would_change_is_left_alone() -> None:
    module = unsettled(Secret())
    fewer, _ = folded(module, [], (4, 4))
    batch = torch.randn(3, 3, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(fewer(batch), module(batch))
