"""Explanations of transformers: the tokens that reach the logits, against the plain formula."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from alike.analysis.explain.explain import relevance
from alike.analysis.explain.gradients import DoesNotFit, cam, gradcam_raw, score
from alike.analysis.explain.likeness_maps import likeness
from alike.analysis.explain.tokens import class_token_share, last_read_tokens
from alike.extract.networks.taps import taps_at
from alike.extract.networks.transform import Transform

SIDE = 32


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    module = VisionTransformer(SIDE, 8, 2, 4, 32, 64, num_classes=5).eval()
    nn.init.normal_(module.heads.head.weight)
    return module


def swin() -> SwinTransformer:
    torch.manual_seed(1)
    module = SwinTransformer(
        [4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=5, stochastic_depth_prob=0.0
    ).eval()
    nn.init.normal_(module.head.weight)
    return module


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def test_a_classifier_of_zeros_is_forgotten_once_it_has_weights():
    module, batch = vit(), images()
    wanted = relevance(module, batch)
    fresh = vit()
    weights = fresh.heads.head.weight.detach().clone()
    nn.init.zeros_(fresh.heads.head.weight)
    with pytest.raises(DoesNotFit, match="all zero"):
        relevance(fresh, batch)
    fresh.heads.head.weight.data.copy_(weights)
    torch.testing.assert_close(relevance(fresh, batch), wanted)


def plain_gradcam(module: nn.Module, layer: nn.Module, batch: Tensor, reshape) -> Tensor:
    """Grad-CAM of the predicted class at a layer, image by image, with ordinary hooks."""
    maps = []
    for image in batch:
        kept: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _m, _a, output, kept=kept: kept.append(output))
        scores = module(image[None])
        handle.remove()
        (gradient,) = torch.autograd.grad(scores[0, scores[0].argmax()], kept[0])
        activation, slope = reshape(kept[0])[0], reshape(gradient)[0]
        maps.append((slope.mean((1, 2))[:, None, None] * activation).sum(0))
    return torch.stack(maps).detach()


def tokens(value: Tensor) -> Tensor:
    """(B, 1 + 16, C) as (B, C, 4, 4), without the class token."""
    return value[:, 1:].reshape(len(value), 4, 4, -1).permute(0, 3, 1, 2)


def channels_first(value: Tensor) -> Tensor:
    return value.permute(0, 3, 1, 2)


def test_gradcam_of_a_class_token_is_that_of_the_last_attention() -> None:
    module, batch = vit(), images()
    layer = module.encoder.layers[-1].ln_1
    expected = plain_gradcam(module, layer, batch, tokens)
    found = relevance(module, batch, "gradcam_raw")
    assert float(expected.abs().max()) > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        relevance(module, batch), expected.clamp_min(0), rtol=1e-4, atol=1e-7
    )


@pytest.mark.quick
def test_gradcam_of_pooled_tokens_is_that_of_the_last_map() -> None:
    module, batch = swin(), images()
    expected = plain_gradcam(module, module.norm, batch, channels_first)
    torch.testing.assert_close(
        relevance(module, batch, "gradcam_raw"), expected, rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("make", [vit, swin])
def test_pytorch_grad_cam_agrees(make) -> None:
    library = pytest.importorskip("pytorch_grad_cam", exc_type=ImportError)
    module, batch = make(), images()
    layer = module.encoder.layers[-1].ln_1 if make is vit else module.norm
    reshape = tokens if make is vit else channels_first
    with library.GradCAM(model=module, target_layers=[layer], reshape_transform=reshape) as method:
        theirs = method(input_tensor=batch, targets=None)
    ours = relevance(module, batch, "gradcam").numpy()
    for one, other in zip(ours, theirs, strict=True):
        # Theirs is enlarged bilinearly and scaled to [0, 1]: centres of positions are compared.
        lowest, span = one.min(), one.max() - one.min()
        coarse = nn.functional.interpolate(
            torch.from_numpy((one - lowest) / span)[None, None],
            size=(SIDE, SIDE),
            mode="bilinear",
            align_corners=False,
        )
        assert np.corrcoef(coarse.ravel(), other.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("make", [vit, swin])
def test_sensitivity_and_lrp_fit(make) -> None:
    module, batch = make(), images(1)
    pixels = batch.clone().requires_grad_()
    scores = module(pixels)
    (gradient,) = torch.autograd.grad(scores[0].max(), pixels)
    torch.testing.assert_close(
        relevance(module, batch, "sa"), gradient.square().sum(1), rtol=1e-4, atol=1e-8
    )
    shared = relevance(module, batch, "deep_taylor").sum()
    torch.testing.assert_close(shared, scores[0].max().detach(), rtol=1e-3, atol=1e-6)


def test_tokens_that_nothing_reads_are_not_found() -> None:
    class Blind(nn.Module):
        """Scores from a class token that has seen no patch."""

        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 8, 8)
            self.norm = nn.LayerNorm(8)
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            grid = self.patches(x).flatten(2).transpose(1, 2)
            whole = self.norm(torch.cat([self.token.expand(len(x), -1, -1), grid], 1))
            return self.head(whole[:, 0])

    module = Blind().eval()
    tap = taps_at(module, (SIDE, SIDE))["last_conv"]
    assert last_read_tokens(module, images(1), tap, score) == ""
    with pytest.raises(DoesNotFit, match="no module gives tokens of patches"):
        relevance(module, images(1), "gradcam")


def test_the_share_of_the_class_token_is_what_the_maps_leave_out() -> None:
    module = vit()
    frames = torch.randint(0, 255, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    transform = Transform()
    network = SimpleNamespace(module=module, transform=transform)
    share = class_token_share(network, list(frames))
    kept: list[Tensor] = []
    handle = module.encoder.ln.register_forward_hook(lambda _m, _a, output: kept.append(output))
    with torch.no_grad():
        module(transform.normalise(frames))
    handle.remove()
    a, b = (one.double().numpy().T[:, :, None] for one in kept[0])
    whole = likeness(a, b)
    assert share.cosine == pytest.approx(whole.value, rel=1e-4)
    assert share.on_a == pytest.approx(whole.on_a[0, 0], rel=1e-3)
    assert share.on_b == pytest.approx(whole.on_b[0, 0], rel=1e-3)
    network.module = swin()
    assert class_token_share(network, list(frames)) is None


def test_timm_vit_is_explained_like_torchvisions() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.models.VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5
    ).eval()
    nn.init.normal_(module.head.weight)
    batch = images()
    expected = plain_gradcam(module, module.blocks[-1].norm1, batch, tokens)
    assert float(expected.abs().max()) > 1e-6
    found = relevance(module, batch, "gradcam_raw")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_a_zero_head_is_the_reason():
    module, batch = vit(), images()
    nn.init.zeros_(module.heads.head.weight)
    for method in (cam, gradcam_raw):
        with pytest.raises(DoesNotFit, match="last linear layer are all zero"):
            method(module, batch, torch.tensor([0, 1]))
