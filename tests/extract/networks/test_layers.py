"""The layers of a network: what passes through them, and what is stored of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from extracting import expected, run
from images import unsettled
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.forward import Forward
from alike.extract.networks.network import Network
from alike.extract.networks.taps import forward_taps, layer_taps
from alike.extract.networks.transform import Transform
from alike.extract.store.store import Store

RESNET = ("maxpool", "layer1.0", "layer1", "layer2.0", "layer2", "layer3.0", "layer3", "layer4.0",
          "layer4")  # fmt: skip
ENCODER = ("encoder.dropout", *(f"encoder.layers.encoder_layer_{n}" for n in range(11)),
           "encoder.layers", "encoder")  # fmt: skip
VGG = (*tuple(f"features.{n}" for n in (2, 5, 7, 10, 12, 15, 17)), "features")
MOBILE = (*tuple(f"features.{n}" for n in range(18)), "features")
DENSE = ("features.pool0", *(f"features.{kind}{n}" for n in (1, 2, 3)
         for kind in ("denseblock", "transition")), "features.denseblock4", "features")  # fmt: skip
LAYERS = {
    "resnet18": RESNET, "vit_b_32": ENCODER, "vgg11": VGG, "mobilenet_v2": MOBILE,
    "densenet121": DENSE,
}  # fmt: skip


def network_of(module: nn.Module, side: int = 64) -> Network:
    return Network("n", "none", "ab" * 32, Transform(resize=(side, side)), None, module.eval())


def passed(module: nn.Module, path: str, given: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Logits of one batch if a module gives what it gave for another."""
    seen: list[torch.Tensor] = []
    part = module.get_submodule(path)
    handle = part.register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    module(other)
    handle.remove()
    handle = part.register_forward_hook(lambda _m, _i, _o: seen[0])
    logits = module(given)
    handle.remove()
    return logits


@pytest.mark.quick
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_published_networks(name: str) -> None:
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None)
    assert layer_taps(module, (224, 224)) == tuple(f"gap@{path}" for path in LAYERS[name])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
@torch.no_grad()
def test_everything_passes_through_a_layer_and_its_mean_is_stored(name: str) -> None:
    module = unsettled(torchvision.models.get_model(name, weights=None, num_classes=5))
    given, other = torch.randn(2, 2, 3, 64, 64)
    names = layer_taps(module, (64, 64))
    wanted = module(other)
    means = {}
    for tap in names:
        path = tap.removeprefix("gap@")
        torch.testing.assert_close(passed(module, path, given, other), wanted)
        handle = module.get_submodule(path).register_forward_hook(
            lambda _m, _i, output, tap=tap: means.__setitem__(tap, output.mean((2, 3)))
        )
        module(given)
        handle.remove()
    taps = forward_taps(module, given, [*names, "gap", "logits"])
    torch.testing.assert_close(taps["logits"], module(given))
    for tap in names:
        torch.testing.assert_close(taps[tap], means[tap], atol=1e-6, rtol=1e-5)
    # As extraction does it, with BatchNorms folded: MobileNet's blocks end in one.
    network = network_of(module)
    frames = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    plain = forward_taps(module, network.transform.normalise(frames), names)
    forward = Forward(network, (64, 64), [*names, "gap"], torch.device("cpu"), "float32")
    if name != "densenet121":
        parts = forward._tapped.module.modules()
        assert not any(isinstance(part, nn.BatchNorm2d) for part in parts)
    stored = forward(frames)
    for tap in names:
        assert stored[tap].dtype == np.float32
        scale = float(plain[tap].abs().max())
        np.testing.assert_allclose(stored[tap], plain[tap].numpy(), rtol=0, atol=2e-5 * scale)


@torch.no_grad()
def test_a_part_of_a_block_is_no_layer() -> None:
    module = unsettled(torchvision.models.resnet18(num_classes=5))
    given, other = torch.randn(2, 2, 3, 64, 64)
    assert "gap@layer1.0.bn2" not in layer_taps(module, (64, 64))
    assert not torch.allclose(passed(module, "layer1.0.bn2", given, other), module(other))


@torch.no_grad()
def test_channels_last_and_tokens_are_averaged_over_positions() -> None:
    swin = torchvision.models.swin_transformer.SwinTransformer(
        [4, 4], 16, [1, 2], [2, 2], [4, 4], num_classes=3
    ).eval()
    given = torch.randn(2, 3, 64, 64)
    names = layer_taps(swin, (64, 64))
    assert names[:3] == ("gap@features.0", "gap@features.1", "gap@features.2")
    taps = forward_taps(swin, given, names)
    x = given
    for tap, part in zip(names, swin.features[:3], strict=False):
        x = part(x)
        torch.testing.assert_close(taps[tap], x.mean((1, 2)))
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=3).eval()
    name = "gap@encoder.layers.encoder_layer_0"
    got = forward_taps(vit, given[..., :32, :32], [name])[name]
    patches = vit._process_input(given[..., :32, :32])
    tokens = torch.cat([vit.class_token.expand(2, -1, -1), patches], 1)
    tokens = vit.encoder.layers[0](tokens + vit.encoder.pos_embedding)
    torch.testing.assert_close(got, tokens[:, 1:].mean(1))


def test_network_without_layers_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    with pytest.raises(BadInput, match="nothing is pooled, or every way"):
        layer_taps(flat, (4, 4))
    with pytest.raises(BadInput, match="nothing is pooled, or every way"):
        layer_taps(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (8, 8))


def test_layers_are_added_to_a_store_and_computed_once(
    network: Network, folder: Path, store: Store
) -> None:
    run(folder, network, store)
    report = run(folder, network, store, taps=("layers", "logits"))
    assert report.n_computed == report.n_rows == 9
    assert run(folder, network, store, taps=("layers",)).n_computed == 0
    features = store.features(report.key)
    assert features.attrs["layers"] == ["gap@relu"]
    table = features.table()
    got = features.read("gap@relu", table["row"].to_numpy())
    for vector, path in zip(got, table["path"], strict=True):
        wanted = expected(network, folder, path)["fc"]
        np.testing.assert_allclose(vector, wanted, atol=1e-5)
