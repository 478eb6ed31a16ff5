import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from images import naive_taps, small_file
from torch import nn
from torchvision.models.regnet import BlockParams

from alike.extract.errors import AlikeError, BadInput
from alike.extract.identity import key_fault, settings_hash
from alike.extract.networks.extraction import Extraction
from alike.extract.networks.network import Network, check_made_by, load_network
from alike.extract.networks.taps import Tap, TappedNetwork, _wanted_side, find_taps, forward_taps
from alike.extract.networks.transform import Transform

NETWORKS = torchvision.models.list_models(module=torchvision.models)
NO_LINEAR = {"squeezenet1_0", "squeezenet1_1"}
TRANSFORMERS = [name for name in NETWORKS if name.startswith("vit")]
THREE_LINEARS = ("alexnet", "vgg")
RUN = ("squeezenet1_1", "densenet121", "shufflenet_v2_x0_5")


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks on the device meta: no weights, no arithmetic; all shapes."""
    widths = BlockParams.from_init_params.__func__

    def on_cpu(cls: type, *args: object, **kwargs: object) -> BlockParams:
        with torch.device("cpu"):
            return widths(cls, *args, **kwargs)

    # RegNet computes its widths with tensors and reads them.
    monkeypatch.setattr(BlockParams, "from_init_params", classmethod(on_cpu))
    with torch.device("meta"):
        yield


def build(name: str) -> nn.Module:
    aux = {"aux_logits": False, "init_weights": False}
    inception = name in ("googlenet", "inception_v3")
    return torchvision.models.get_model(name, weights=None, **(aux if inception else {}))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("no_memory")
def test_every_torchvision_network_has_its_taps(name: str) -> None:
    module = build(name)
    side = 299 if name == "inception_v3" else 224
    taps = find_taps(module, torch.zeros(1, 3, side, side))
    assert {"last_conv", "fc", "logits"} <= set(taps)
    assert taps["logits"].shape == (1000,)
    channels, height, width = taps["last_conv"].shape
    assert height == width
    assert 6 <= height <= 16
    assert channels >= 256
    if name in NO_LINEAR:
        assert taps["last_conv"].shape == (512, 13, 13)
        assert taps["fc"].shape == (512,)
        assert "convolutional classifier" in taps["fc"].note
        return
    weight = module.get_parameter(taps["fc"].weight)
    assert weight.shape == (1000, *taps["fc"].shape)
    last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    assert weight is last.weight
    if name.startswith(THREE_LINEARS):
        assert taps["fc6"].shape == taps["fc7"].shape == (4096,)
    if name.startswith("vit"):
        assert taps["last_conv"].prefix == 1
        assert "as a grid" in taps["last_conv"].note


@pytest.mark.parametrize("name", NETWORKS if os.environ.get("ALIKE_FULL") else RUN)
def test_taps_of_a_real_pass_fit_together(name: str) -> None:
    """The classifier applied to the captured `fc` is the network's own output."""
    torch.manual_seed(0)
    sizes = {"inception_v3": 80, "maxvit_t": 224, **dict.fromkeys(TRANSFORMERS, 224)}
    side = sizes.get(name, 64)
    module = build(name).eval()
    batch = torch.rand(2, 3, side, side)
    taps = find_taps(module, batch[:1])
    with torch.no_grad():
        expected = module(batch)
        captured = TappedNetwork(module, list(taps.values()))(batch)
    for tap in taps.values():
        assert captured[tap.name].shape == (2, *tap.shape)
    torch.testing.assert_close(captured["logits"], expected)
    if taps["fc"].weight:
        weight = module.get_parameter(taps["fc"].weight).detach()
        bias = module.get_parameter(taps["fc"].bias).detach() if taps["fc"].bias else 0
        logits = captured["fc"] @ weight.T + bias
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_taps_equal_a_naive_computation(tmp_path: Path) -> None:
    network = load_network(small_file(tmp_path), seed=1)
    batch = torch.randn(3, 3, 10, 12)
    names = ["conv", "bn", "last_conv", "fc", "logits"]
    with torch.no_grad():
        expected = naive_taps(network.module, batch)
        found = forward_taps(network.module, batch, names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name])
    # bn feeds an in-place ReLU: what was captured must not be what came after.
    assert (found["bn"] < 0).any()


def test_pass_stops_after_the_last_wanted_tap(tmp_path: Path) -> None:
    network = load_network(small_file(tmp_path))
    ran = []
    network.module.linear.register_forward_hook(lambda *_: ran.append("linear"))
    forward_taps(network.module, torch.zeros(1, 3, 8, 8), ["last_conv"])
    ran.clear()
    forward_taps(network.module, torch.zeros(2, 3, 8, 8), ["last_conv", "gap"])
    assert ran == []
    forward_taps(network.module, torch.zeros(2, 3, 8, 8), ["logits"])
    assert ran == ["linear"]


def test_gradients_pass_and_training_mode_gives_the_same_places(tmp_path: Path) -> None:
    network = load_network(small_file(tmp_path))
    batch = torch.rand(4, 3, 8, 8, requires_grad=True)
    network.module.train()
    taps = forward_taps(network.module, batch, ["last_conv", "fc", "logits"])
    assert network.module.training
    torch.testing.assert_close(taps["last_conv"].mean((2, 3)), taps["fc"])
    taps["last_conv"].sum().backward()
    assert batch.grad is not None


def test_gap_is_the_mean_and_pixels_are_the_input_made_small(tmp_path: Path) -> None:
    network = load_network(small_file(tmp_path))
    batch = torch.randn(2, 3, 64, 40)
    with torch.no_grad():
        taps = forward_taps(network.module, batch, ["gap", "pixels", "last_conv"])
    torch.testing.assert_close(taps["gap"], taps["last_conv"].flatten(2).mean(2))
    assert taps["pixels"].shape == (2, 3, 32, 32)
    assert taps["pixels"].dtype == torch.float16
    first = batch[:, :, :2, :2].mean((2, 3))
    torch.testing.assert_close(taps["pixels"][:, :, 0, 0].float(), first, atol=1e-3, rtol=1e-3)


class Shared(nn.Module):
    """A network that runs one module twice and flattens its map without pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(3 * 16, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.relu(self.conv(self.relu(x)))
        return {"logits": self.fc(x.flatten(1))}


def test_shared_module_needs_a_number_and_a_flattened_map_says_so() -> None:
    module = Shared()
    example = torch.randn(1, 3, 4, 4)
    with pytest.raises(BadInput, match=r"relu runs 2 times: name one of them, relu#0"):
        find_taps(module, example, ["relu"])
    with pytest.raises(BadInput, match="runs 2 times, counted from 0"):
        find_taps(module, example, ["relu#2"])
    with pytest.raises(BadInput, match="no tap or module that runs; modules are relu, conv, fc"):
        find_taps(module, example, ["layer9"])
    taps = find_taps(module, example, ["relu#0"])
    assert taps["last_conv"].note.startswith("no global pooling")
    captured = TappedNetwork(module, list(taps.values()))(example)
    torch.testing.assert_close(captured["relu#0"], example.clamp(min=0))
    torch.testing.assert_close(captured["last_conv"].flatten(1), captured["fc"])
    assert captured["logits"].shape == (1, 5)


class Tokens(nn.Module):
    """Channels-last tokens with two prefix tokens, on an image twice as wide as high."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix = nn.Parameter(torch.randn(1, 2, 4))
        self.embed = nn.Conv2d(3, 4, 2, 2)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1)
        return self.head(tokens[:, 0] + 0)


def test_tokens_become_a_grid_of_the_images_proportions() -> None:
    module, batch = Tokens(), torch.randn(2, 3, 8, 16)
    taps = find_taps(module, batch[:1])
    assert taps["last_conv"].shape == (4, 4, 8)
    assert taps["last_conv"].prefix == 2
    captured = TappedNetwork(module, [taps["last_conv"]])(batch)
    torch.testing.assert_close(captured["last_conv"], module.embed(batch))


class Last(nn.Module):
    """Channels last to the end, as timm's Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).permute(0, 2, 3, 1).mean((1, 2)))


def test_channels_last_map_is_stored_channels_first() -> None:
    module, batch = Last(), torch.randn(2, 3, 6, 4)
    tap = find_taps(module, batch[:1])["last_conv"]
    assert (tap.layout, tap.shape) == ("nhwc", (5, 6, 4))
    captured = TappedNetwork(module, [tap])(batch)
    torch.testing.assert_close(captured["last_conv"], module.conv(batch))


LAST = {
    "mean": lambda rows: rows.mean((1, 2)),
    "negative axes": lambda rows: rows.mean((-3, -2)),
    "axes kept": lambda rows: rows.mean(keepdim=True, dim=[1, 2]).flatten(1),
    "sum": lambda rows: rows.sum((1, 2)),
    "two steps": lambda rows: rows.mean(1).mean(1),
    "two steps, columns first": lambda rows: rows.mean(2).mean(1),
    "channels first, two steps": lambda rows: rows.permute(0, 3, 1, 2).mean(2).mean(2),
}


@pytest.mark.parametrize("how", LAST)
@pytest.mark.parametrize("side", [5, 6])
def test_channels_are_known_by_the_axes_that_are_pooled(how: str, side: int) -> None:
    """Five channels of five rows: shapes do not tell which is which."""

    class Pooled(Last):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(LAST[how](self.conv(x).permute(0, 2, 3, 1)))

    module, batch = Pooled(), torch.randn(2, 3, side, side)
    captured = forward_taps(module, batch, ["last_conv", "fc"])
    torch.testing.assert_close(captured["last_conv"], module.conv(batch))
    torch.testing.assert_close(module.head(captured["fc"]), module(batch))
    headless = Pooled()
    headless.head = nn.Identity()
    vector = forward_taps(headless, batch, ["fc"])["fc"]
    torch.testing.assert_close(vector, headless(batch).flatten(1))


def test_tap_that_is_never_reached_is_an_error_not_a_hole(tmp_path: Path) -> None:
    module = load_network(small_file(tmp_path)).module
    tap = Tap("ghost", "linear", 7, "input", "vector", (6,))
    with pytest.raises(AlikeError, match="never reached ghost"):
        TappedNetwork(module, [tap])(torch.zeros(1, 3, 8, 8))


@pytest.mark.quick
def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(BadInput, match="not a classifier"):
        find_taps(nn.Sequential(nn.Flatten(0)), torch.zeros(1, 3, 4, 4))


def test_network_of_another_input_size_is_one_clear_line() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(BadInput, match=r"fails on an image of 9x9 \(RuntimeError.*--resize"):
        find_taps(module, torch.zeros(1, 3, 9, 9))


def test_advice_is_the_size_that_the_network_names() -> None:
    module = torchvision.models.VisionTransformer(32, 8, 1, 2, 8, 8).eval()
    wanted = r"image of 64x64.*, --resize 32x32$"
    with pytest.raises(BadInput, match=wanted):
        find_taps(module, torch.zeros(1, 3, 64, 64))
    assert _wanted_side("Input height (64) doesn't match model (48).") == "48"
    assert _wanted_side("Input size (64x64) doesn't match model (48x48)") == "48"


def test_network_without_a_head_gives_what_it_pools() -> None:
    module = torchvision.models.shufflenet_v2_x0_5(weights=None).eval()
    module.fc = nn.Identity()
    batch = torch.randn(2, 3, 64, 64)
    taps = find_taps(module, batch[:1])
    assert taps["fc"].note.startswith("no Linear after the pooling")
    with torch.no_grad():
        captured = TappedNetwork(module, list(taps.values()))(batch)
    torch.testing.assert_close(captured["fc"], captured["logits"])
    torch.testing.assert_close(captured["fc"], captured["last_conv"].mean((2, 3)))


class ConvolvedHead(nn.Module):
    """Pooled, then classified by a 1x1 convolution, as BiT's ResNets are."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).relu().mean((2, 3), keepdim=True)).flatten(1)


@pytest.mark.quick
def test_convolution_after_the_pooling_is_a_linear() -> None:
    module = ConvolvedHead()
    batch = torch.rand(3, 3, 12, 12)
    with torch.no_grad():
        taps = forward_taps(module, batch, ["last_conv", "fc", "logits"])
    assert taps["last_conv"].shape == (3, 8, 10, 10)
    assert torch.allclose(taps["fc"], taps["last_conv"].mean((2, 3)))
    network = Network("n", "none", "", Transform(resize=(12, 12)), None, module)
    weight, bias = network.classifier()
    assert torch.allclose(taps["fc"] @ weight.T + bias, taps["logits"], atol=1e-6)
    # Of a grouped one no row of a matrix stands for a class.
    assert (
        Network("n", "none", "", Transform(resize=(12, 12)), None, ConvolvedHead(2)).classifier()
        is None
    )


def test_convolved_head_has_a_key_of_its_own_and_refuses_older_features() -> None:
    """Before, its last_conv and fc were other arrays: no group may hold both."""
    small = Transform(resize=(12, 12))
    network = Network("n", "none", "ab" * 32, small, None, ConvolvedHead())
    made = network.extraction(("last_conv", "fc"), "float32")
    stored = made.to_dict()
    assert stored["head"] == "convolution"
    assert Extraction.from_dict(stored) == made
    assert key_fault(made.key, stored) == ""
    check_made_by(made, network)
    older = Extraction.from_dict({name: stored[name] for name in stored if name != "head"})
    assert older.key != made.key
    with pytest.raises(BadInput, match=r"a 1x1 convolution after the pooling .* extract again"):
        check_made_by(older, network)


class Pooled(nn.Module):
    """A map of 8 channels and 3 prototypes, pooled and compared in some way."""

    def __init__(self, head: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.weight, self.head = nn.Conv2d(3, 8, 3), torch.randn(3, 8), head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).relu(), self.weight)


FLATTENED = {
    "flatten": lambda x, w: nn.functional.linear(x.flatten(2).mean(-1), w),
    "view": lambda x, w: nn.functional.linear(x.view(len(x), 8, -1).mean(2), w),
    "pool1d": lambda x, w: nn.functional.linear(
        nn.functional.adaptive_avg_pool1d(x.flatten(2), 1).flatten(1), w
    ),
    "relu between": lambda x, w: nn.functional.linear(x.reshape(len(x), 8, -1).relu().mean(2), w),
    "no Linear": lambda x, w: x.flatten(2).mean(-1)[:, :3] * 2,
}
COMPARED = {
    "cosine": lambda x, w: nn.functional.cosine_similarity(x.mean((2, 3))[:, None], w[None], dim=2),
    "differences": lambda x, w: -(x.mean((2, 3))[:, None] - w).square().sum(-1),
}


@pytest.mark.parametrize("size", [(10, 10), (4, 6)])
@pytest.mark.parametrize("name", [*FLATTENED, *COMPARED])
def test_what_is_flattened_or_compared_is_no_token(name: str, size: tuple[int, int]) -> None:
    """Before, channels or prototypes were taken for tokens. Of 4x6 there are 8 positions, too."""
    module = Pooled((FLATTENED | COMPARED)[name]).eval()
    batch = torch.rand(2, 3, *size)
    with torch.no_grad():
        taps = forward_taps(module, batch, ["last_conv", "gap", "fc", "logits"])
        expected = module.conv(batch).relu()
    torch.testing.assert_close(taps["last_conv"], expected)
    for vector in ("gap", "fc"):
        torch.testing.assert_close(taps[vector], expected.mean((2, 3)))
    torch.testing.assert_close(taps["logits"], module(batch))
    network = Network("n", "none", "ab" * 32, Transform(resize=size), None, module)
    made = network.extraction(("last_conv", "fc"), "float32")
    assert made.head == ("flattened" if name in FLATTENED else "compared")
    older = Extraction.from_dict({**made.to_dict(), "head": ""})
    assert older.key != made.key
    with pytest.raises(BadInput, match=r"was taken for (tokens|the pooling): .*extract again"):
        check_made_by(older, network)


def test_other_heads_keep_their_key() -> None:
    """A Linear, grouped convolutions, and a convolution before the pooling (SqueezeNet)."""
    squeeze = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    linear = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)
    )
    for module in (squeeze, linear, ConvolvedHead(2)):
        network = Network("n", "none", "ab" * 32, Transform(resize=(12, 12)), None, module)
        made = network.extraction(("fc",), "float32")
        assert "head" not in made.to_dict()
        assert made.key == f"n-abababab-{settings_hash(made.transform, 'float32')}"


def test_a_network_of_one_channel_is_told_of_channels_not_of_a_size() -> None:
    grey = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with pytest.raises(BadInput, match="takes images of 1 channels") as refused:
        find_taps(grey, torch.zeros(1, 3, 32, 32))
    assert "--resize" not in str(refused.value)
