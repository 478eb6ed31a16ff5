"""LRP through attention: the weights are taken as they are, against gradients and conservation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torchvision.models import SwinTransformer
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.vision_transformer import VisionTransformer

from alike.analysis.explain.gradients import DoesNotFit
from alike.analysis.explain.lrp.composite import Composite
from alike.analysis.explain.lrp.relevance import COMPOSITES, lrp, pixel_limits
from alike.analysis.explain.lrp.rules import RULES

EXACT = Composite("exact", *[replace(RULES["epsilon"], epsilon=1e-9)] * 3, "signed", "LRP-0")
WIDTH, HEADS = 8, 2


def batch(side: int = 32, count: int = 2) -> Tensor:
    low, high = pixel_limits(torch.zeros(1, 3, 1, 1))
    draw = torch.Generator().manual_seed(1)
    return low + (high - low) * torch.rand(count, 3, side, side, generator=draw)


def swin(**parts: object) -> SwinTransformer:
    given = {"num_classes": 5, "stochastic_depth_prob": 0.0, **parts}
    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], **given)


TRANSFORMERS = {
    "class token": lambda: VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5),
    "shifted windows": swin,
    "cosine windows": lambda: swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
    "axes": lambda: MaxVit((64, 64), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=5),
}


def transformer(name: str, seed: int = 0) -> nn.Module:
    """One with a head and biases as after training, not zeros."""
    torch.manual_seed(seed)
    module = TRANSFORMERS[name]().eval().requires_grad_(False)
    for path, value in module.named_parameters():
        if path.endswith("bias"):
            value.normal_(0, 0.05)
        elif "head" in path:
            value.normal_(0, 0.2)
    return module


def side_of(name: str) -> int:
    return 64 if name == "axes" else 32


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_relevance_is_conserved(name: str) -> None:
    net, images = transformer(name), batch(side_of(name))
    with torch.no_grad():
        scores = net(images)[:, 0]
    found = lrp(net, images, torch.tensor([0, 0]), composite="deep_taylor")
    torch.testing.assert_close(found.sum((1, 2, 3)), scores, rtol=1e-4, atol=0)
    assert bool((found * scores.sign().view(-1, 1, 1, 1) >= 0).all())
    if name != "axes":
        # Else the head keeps its bias; that one has two dense layers.
        (kept,) = [v[0] for path, v in net.named_parameters() if path.endswith("head.bias")]
        found = lrp(net, images, torch.tensor([0, 0]))
        torch.testing.assert_close(found.sum((1, 2, 3)), scores - kept, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", ["class token", "shifted windows"])
def test_a_map_is_of_its_image_and_of_the_weights(name: str, composite: str) -> None:
    net, images, target = transformer(name), batch(), torch.tensor([3, 1])
    together = lrp(net, images, target, composite=composite)
    for row in range(2):
        alone = lrp(net, images[row : row + 1], target[row : row + 1], composite=composite)[0]
        assert float((together[row] - alone).abs().max()) <= 1e-4 * float(alone.abs().max())
    other = lrp(transformer(name, seed=7), images, target, composite=composite)
    one, other = (maps.sum(1).flatten(1) for maps in (together, other))
    one, other = (rows / rows.abs().sum(1, keepdim=True) for rows in (one, other))
    assert bool(((one - other).abs().sum(1) > 0.05).all())


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", ["class token", "shifted windows"])
def test_float32_is_enough(name: str, composite: str) -> None:
    """Of `epsilon` it was not (1e-3 off) while LayerNorm passed each value its relevance."""
    net, images, target = transformer(name), batch(), torch.tensor([3, 1])
    found = lrp(net, images, target, composite=composite).double()
    wanted = lrp(net.double(), images.double(), target, composite=composite)
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def by_matmul(net: "Attends", x: Tensor) -> Tensor:
    query, key, value = net.heads(x)
    weights = (query * net.scale @ key.transpose(-2, -1) + net.bias).softmax(dim=-1)
    return net.joined(weights @ value)


def by_einsum(net: "Attends", x: Tensor) -> Tensor:
    query, key, value = net.heads(x)
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * net.scale
    weights = torch.softmax(scores + net.bias, -1)
    return net.joined(torch.einsum("bhij,bhjd->bhid", weights, value))


def by_batches(net: "Attends", x: Tensor) -> Tensor:
    query, key, value = (part.flatten(0, 1) for part in net.heads(x))
    scores = torch.bmm(query * net.scale, key.transpose(1, 2)) + net.bias
    mixed = torch.bmm(nnf.softmax(scores, dim=-1), value)
    return net.joined(mixed.view(len(x), HEADS, *mixed.shape[1:]))


def fused(net: "Attends", x: Tensor) -> Tensor:
    mask = net.bias.expand(len(x), HEADS, -1, -1)
    return net.joined(nnf.scaled_dot_product_attention(*net.heads(x), attn_mask=mask))


def by_module(net: "Attends", x: Tensor) -> Tensor:
    out, _ = net.module(x, x, x, attn_mask=net.bias, need_weights=False)
    return out


def with_weights_detached(net: "Attends", x: Tensor) -> Tensor:
    """The formula, written once more: what gradient times input is taken of."""
    query, key, value = net.heads(x)
    scores = (query[..., :, None, :] * key[..., None, :, :]).sum(-1) * net.scale + net.bias
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return net.joined((weights.detach()[..., None] * value[..., None, :, :]).sum(-2))


def held_layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    return centred / deviation.detach() * layer.weight + layer.bias


def held_group_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    groups = x.mT.unflatten(1, (layer.num_groups, -1))
    centred = groups - groups.mean((2, 3), keepdim=True)
    deviation = (centred.square().mean((2, 3), keepdim=True) + layer.eps).sqrt()
    scaled = (centred / deviation.detach()).flatten(1, 2).mT
    return scaled * layer.weight + layer.bias


class Attends(nn.Module):
    """A convolution, attention beside a shortcut, and a linear head."""

    def __init__(self, how, norm=lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = norm
        self.how, self.scale = how, (WIDTH // HEADS) ** -0.5
        self.patches = nn.Conv2d(3, WIDTH, 8, 8, bias=False)
        self.module = nn.MultiheadAttention(WIDTH, HEADS, bias=False, batch_first=True)
        self.dense = nn.Linear(WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, 5, bias=False)
        self.bias = torch.randn(16, 16)
        self.double()
        self.bias = self.bias.double()

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        packed = nnf.linear(x, self.module.in_proj_weight)
        packed = packed.view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return packed.unbind(0)

    def joined(self, mixed: Tensor) -> Tensor:
        return self.module.out_proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.how(self, self.norm(tokens))
        return self.head(self.dense(tokens).relu().mean(1))


@pytest.mark.quick
@pytest.mark.parametrize("how", [by_matmul, by_einsum, by_batches, fused, by_module])
def test_epsilon_is_gradient_times_input_of_the_network_with_its_weights_held(how) -> None:
    images = batch().double().requires_grad_()
    scores = Attends(with_weights_detached)(images)[:, 2]
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    net = Attends(how).eval()
    torch.testing.assert_close(net(images)[:, 2], scores)
    found = lrp(net, images, torch.tensor([2, 2]), composite=EXACT)
    torch.testing.assert_close(found, (gradient * images).detach(), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.sum((1, 2, 3)), scores.detach(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("layer", "held"),
    [(nn.LayerNorm(WIDTH), held_layer_norm), (nn.GroupNorm(2, WIDTH), held_group_norm)],
)
def test_epsilon_is_gradient_times_input_with_deviations_held(layer, held) -> None:
    torch.manual_seed(3)
    layer = layer.double()
    for value in layer.parameters():
        nn.init.normal_(value)

    def norm(x: Tensor) -> Tensor:
        return layer(x.mT).mT if isinstance(layer, nn.GroupNorm) else layer(x)

    images = batch().double().requires_grad_()
    scores = Attends(with_weights_detached, lambda x: held(layer, x))(images)[:, 2]
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    net = Attends(fused, norm).eval()
    torch.testing.assert_close(net(images)[:, 2], scores)
    found = lrp(net, images, torch.tensor([2, 2]), composite=EXACT)
    wanted = (gradient * images).detach()
    assert float((found - wanted).abs().max()) <= 1e-6 * float(wanted.abs().max())


def test_weights_below_zero_share_like_a_linear_layer() -> None:
    """Talking heads mix weights after the softmax: z+ then counts what helps, as in a layer."""
    torch.manual_seed(0)
    mixed = torch.randn(4, 4).double()

    class Talks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weights = (x @ x.mT).softmax(-1)
            return (torch.zeros_like(weights) + mixed + 0 * weights) @ x @ torch.ones(3, 2).double()

    class Dense(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nnf.linear(x.mT, mixed).mT @ torch.ones(3, 2).double()

    class Mixes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("ij,bjd->bid", mixed, x) @ torch.ones(3, 2).double()

    inputs = torch.randn(2, 4, 3).double()
    plus = Composite("plus", "zplus", "zplus", "zplus", "same_sign", "z+")
    target = torch.tensor([0, 0])
    found, wanted, plain = (
        lrp(nn.Sequential(net, Rows()), inputs, target, composite=plus)
        for net in (Talks(), Dense(), Mixes())
    )
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(plain, wanted)


class Rows(nn.Module):
    """(B, N, 2) -> (B, 2), the first row."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def test_a_product_of_two_signals_gives_half_to_each() -> None:
    class Product(nn.Module):
        def __init__(self, held: tuple[bool, bool] = (False, False)) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = (nn.Conv2d(3, 4, 3, bias=False).double() for _ in range(2))
            self.held = held

        def forward(self, x: Tensor) -> Tensor:
            one, two = self.one(x), self.two(x)
            one, two = (v.detach() if h else v for v, h in zip((one, two), self.held, strict=True))
            return (one * two).mean((2, 3))

    images = batch(8).double().requires_grad_()
    wanted = torch.zeros_like(images)
    for held in ((True, False), (False, True)):
        (gradient,) = torch.autograd.grad(Product(held)(images)[:, 1].sum(), images)
        wanted = wanted + gradient * images / 2
    found = lrp(Product(), images, torch.tensor([1, 1]), composite=EXACT)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("composite", ["deep_taylor", "epsilon"])
def test_a_difference_is_a_sum_with_the_negative(composite: str) -> None:
    class Differs(nn.Module):
        def __init__(self, how) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.how = how

        def forward(self, x: Tensor) -> Tensor:
            return self.how(self.one(x), self.two(x)).mean((2, 3))

    found, wanted = (
        lrp(Differs(how), batch(8), torch.tensor([1, 2]), composite=composite)
        for how in (lambda a, b: a - b, lambda a, b: a + (-b))
    )
    torch.testing.assert_close(found, wanted)


class Tokens(nn.Module):
    """Class tokens beside those of patches, put there in several ways; attention, a head."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 3)
        self.token = nn.Parameter(torch.randn(1, 2, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=way != "by position")
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        grid = self.patches(x).flatten(2).transpose(1, 2)
        token = self.token.expand(len(x), -1, -1)
        if self.way == "moved":
            order = torch.tensor([1, *range(2, 18), 0])
            whole = torch.cat(tensors=(token, grid), dim=1)[:, order]
            whole = whole[:, torch.argsort(order)]
        elif self.way == "written":
            whole = x.new_zeros(len(x), 18, 8)
            whole[:, 2:], whole[:, :2] = grid, token
        else:
            parts = [grid, token * 1] if self.way == "behind" else [token, grid]
            whole = torch.cat(parts, 1)
        if self.way == "all":
            # Before any attention: a sum of tokens that are still, and a mean of all.
            whole = whole + (whole * 2).mean(1, keepdim=True) + (whole + whole)
        if self.way == "by position":
            whole = self.encoder(whole.transpose(0, 1)).transpose(0, 1)
        else:
            whole = self.encoder(whole)
        if self.way == "all":
            return self.head(whole.mean(1))
        return self.head(whole[:, -1] if self.way == "behind" else whole[:, 0])


@pytest.mark.parametrize("way", ["before", "behind", "written", "moved", "all", "by position"])
def test_class_tokens_lose_nothing_however_they_are_put(way: str) -> None:
    net, images = Tokens(way).eval(), batch(count=3)
    with torch.no_grad():
        scores = net(images)[:, 0]
    found = lrp(net, images, torch.tensor([0, 0, 0]), composite="deep_taylor")
    torch.testing.assert_close(found.sum((1, 2, 3)), scores, rtol=1e-4, atol=1e-7)
    if way not in ("behind", "all"):
        plain = lrp(Tokens("before").eval(), images, torch.tensor([0, 0, 0]), composite="epsilon")
        found = lrp(net, images, torch.tensor([0, 0, 0]), composite="epsilon")
        assert float((found - plain).abs().max()) <= 1e-4 * float(plain.abs().max())


def gated_by_halves(net: Attends, x: Tensor) -> Tensor:
    return nnf.glu(torch.cat([x, net.dense(x)], -1), -1)


def gated(net: Attends, x: Tensor) -> Tensor:
    return x * net.dense(x).sigmoid()


def test_a_linear_unit_with_its_gate_is_a_product_with_a_sigmoid() -> None:
    images, target = batch().double(), torch.tensor([0, 1])
    found, wanted = (
        lrp(Attends(how), images, target, composite="deep_taylor")
        for how in (gated_by_halves, gated)
    )
    torch.testing.assert_close(found, wanted)


def test_a_signal_that_is_repeated_has_all_its_relevance() -> None:
    def narrow(net: Attends, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True) * net.bias[:, :1] + net.bias[0, 0]

    def wide(net: Attends, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True).repeat(1, 16, 1) * net.bias[:, :1] + net.bias[0, 0]

    found, wanted = (
        lrp(Attends(how), batch().double(), torch.tensor([0, 1]), composite="deep_taylor")
        for how in (narrow, wide)
    )
    torch.testing.assert_close(found, wanted)


def part_in_place(net: Attends, x: Tensor) -> Tensor:
    x = x * 1
    x[:, :2].relu_()
    return x


def part_written(net: Attends, x: Tensor) -> Tensor:
    x = x * 1
    x[:, :2][:, 0] = 0
    return x


def linear_attention(net: Attends, x: Tensor) -> Tensor:
    query, key, value = net.heads(x)
    return net.joined((query.relu() @ key.relu().mT) @ value)


def scores_as_signal(net: Attends, x: Tensor) -> Tensor:
    return x + (x @ x.mT)[..., :WIDTH]


def scores_beside(net: Attends, x: Tensor) -> Tensor:
    return torch.cat([x, x @ x.mT], -1)[..., :WIDTH]


def attends_to_constants(net: Attends, x: Tensor) -> Tensor:
    query, key, _ = net.heads(x)
    return net.joined((query @ key.mT).softmax(-1) @ torch.ones(16, WIDTH // HEADS).double())


def attends_to_constants_fused(net: Attends, x: Tensor) -> Tensor:
    query, key, _ = net.heads(x)
    return net.joined(nnf.scaled_dot_product_attention(query, key, torch.ones_like(key)))


def enlarged(net: Attends, x: Tensor) -> Tensor:
    grid = x.mT.view(len(x), WIDTH, 4, 4)
    return nnf.interpolate(grid, (4, 4), mode="bicubic").flatten(2).mT


@pytest.mark.parametrize(
    ("how", "named"),
    [
        (linear_attention, "two signals are multiplied, and neither comes from a sigmoid or softm"),
        (scores_as_signal, "no relevance reaches the pixels of Attends"),
        (scores_beside, "cat in Attends: it mixes a product of two signals with a signal"),
        (attends_to_constants, "add in Attends: it mixes a gate"),
        (attends_to_constants_fused, "what is weighed does not come from the image"),
        (part_in_place, "relu_ in Attends: it writes in place into a part of another tensor"),
        (part_written, "__setitem__ in Attends: it writes in place into a part of another tensor"),
        (enlarged, "bicubic interpolation has weights below zero"),
    ],
)
def test_what_has_no_rule_is_named(how, named: str) -> None:
    with pytest.raises(DoesNotFit, match=named):
        lrp(Attends(how), batch().double(), torch.tensor([0, 0]))


def test_a_network_that_ends_in_a_softmax_is_explained_before_it() -> None:
    net = nn.Sequential(Attends(by_matmul), nn.Softmax(dim=1))
    with pytest.raises(DoesNotFit, match="a sigmoid or softmax, which only scale; explain the log"):
        lrp(net, batch().double(), torch.tensor([0, 0]))
