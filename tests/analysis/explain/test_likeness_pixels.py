"""Likeness in pixels: against BiLRP by dense matrices, closed forms, and planted patches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.functional import gaussian_blur

from alike.analysis.explain.gradients import DoesNotFit
from alike.analysis.explain.likeness_maps import likeness
from alike.analysis.explain.likeness_pixels import (
    PAIR_EXPLAINERS,
    Embedding,
    parts_by_position,
    relevance_to,
    usual_embedding,
)
from alike.analysis.explain.lrp import pixel_limits
from alike.extract.errors import BadInput
from alike.extract.measures.measures import MEASURES, measure_named
from alike.extract.networks.network import load_network
from alike.extract.networks.taps import forward_taps

CONVOLVED = [name for name in PAIR_EXPLAINERS if name.startswith("likeness_lrp")]


def vgg(bias=False, seed=0):
    """Convolutions, ReLUs and a pooling, then 64 features: a VGG, in double precision."""
    torch.manual_seed(seed)
    return (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=bias), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 64, 3, padding=1, bias=bias), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
        )
        .double()
        .eval()
    )  # fmt: skip


def images(n=2, side=8, seed=1):
    noise = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)).double()
    low, high = pixel_limits(noise)
    return low + (high - low) * noise


def dense(layer, x):
    """The matrix of a convolution for inputs shaped as x (1, C, H, W)."""
    matrix = torch.autograd.functional.jacobian(
        lambda v: layer(v.view_as(x)).flatten(), x.flatten()
    )
    return matrix.detach()


def every_feature(net, x):
    """Relevance (64, D) of the pixels of x (1, 3, H, W) for each pooled feature, and the features.

    Written from the formulas of Bach et al. 2015 and Montavon et al. 2017 with explicit matrices.
    """
    low, high = (limit.expand_as(x).flatten() for limit in pixel_limits(x))
    inputs, value = [], x
    for layer in net[:7]:
        inputs.append(value)
        value = layer(value).detach()
    last = value.flatten(2)[0]
    pooled = last.mean(1)
    relevance = torch.zeros(64, *last.shape, dtype=torch.float64)
    for m in range(64):
        relevance[m, m] = last[m] / last.shape[1]
    relevance = relevance.flatten(1)
    for at in (6, 5, 4, 3, 2, 1, 0):
        layer, given = net[at], inputs[at]
        if isinstance(layer, nn.ReLU):
            continue
        flat = given.flatten()
        if isinstance(layer, nn.MaxPool2d):
            relevance = relevance @ dense(layer, given)
        elif at:
            parts = dense(layer, given).clamp_min(0) * flat
            total = parts.sum(1)
            relevance = torch.where(total > 0, relevance / total, 0) @ parts
        else:
            weight = dense(layer, given)
            parts = weight * flat - weight.clamp_min(0) * low - weight.clamp_max(0) * high
            relevance = (relevance / parts.sum(1)) @ parts
    return relevance, pooled


@pytest.mark.quick
def test_summed_over_the_other_image_bilrp_is_one_pass():
    net, both = vgg(), images()
    (first, g_a), (second, g_b) = (every_feature(net, one[None]) for one in both)
    product = first.T @ second / (g_a.norm() * g_b.norm())  # pixels of a x pixels of b
    vectors = usual_embedding().vectors(net, both)
    found = relevance_to(net, both, vectors.flip(0), "likeness_lrp")
    side = both.shape[-1]
    wanted = [
        product.sum(1).view(3, side, side).sum(0),
        product.sum(0).view(3, side, side).sum(0),
    ]
    torch.testing.assert_close(
        found, torch.stack(wanted), rtol=1e-6, atol=1e-9
    )  # pooled in float32
    cosine = float(g_a @ g_b / (g_a.norm() * g_b.norm()))
    assert found.sum((1, 2)).tolist() == pytest.approx([cosine, cosine], rel=1e-9)


def test_positions_of_the_other_image_sum_to_the_map_and_each_to_its_share():
    net, both = vgg(), images()
    embedding = usual_embedding()
    parts = parts_by_position(net, both[1:], embedding)
    vectors = embedding.vectors(net, both)
    torch.testing.assert_close(parts.sum(0), vectors[1])
    found = relevance_to(net, both[:1].expand(len(parts), -1, -1, -1), parts)
    whole = relevance_to(net, both[:1], vectors[1:])[0]
    torch.testing.assert_close(found.sum(0), whole)
    with torch.no_grad():
        maps = forward_taps(net, both, ["last_conv"])["last_conv"].numpy()
    shares = likeness(*maps).on_b.flatten()
    np.testing.assert_allclose(found.sum((1, 2)).numpy(), shares, rtol=1e-5)


def test_what_is_missing_from_the_sum_is_what_biases_take():
    """With biases epsilon keeps their share; z+ hands everything on."""
    net, both = vgg(bias=True), images()
    with torch.no_grad():
        for layer in net[:6]:
            if isinstance(layer, nn.Conv2d):
                layer.bias.uniform_(0.1, 0.2)
    vectors = usual_embedding().vectors(net, both)
    cosine = float((vectors[0] * vectors[1]).sum())
    sums = {
        name: relevance_to(net, both, vectors.flip(0), name).sum((1, 2)) / cosine
        for name in PAIR_EXPLAINERS
    }
    assert sums["likeness_lrp"].tolist() == pytest.approx([1, 1], rel=1e-6)
    assert all(0 < one < 0.9 for one in sums["likeness_lrp_gamma"].tolist())


def test_a_path_sums_to_what_the_blur_takes():
    from alike.analysis.explain.grade.curves import blurred

    net, both = vgg(bias=True), images()
    embedding = usual_embedding()
    other = embedding.vectors(net, both).flip(0)
    found = relevance_to(net, both, other, "likeness_path").sum((1, 2))
    before, after = ((embedding.vectors(net, one) * other).sum(1) for one in (blurred(both), both))
    torch.testing.assert_close(found, after - before, rtol=0.02, atol=2e-4)


def fitted(name, channels=64):
    """The measure with made arrays, if it has any."""
    measure = MEASURES[name]
    if not measure.needs_fit:
        return measure
    draw = np.random.default_rng(0)
    arrays = {
        "mean": 0.01 * draw.random(channels),
        "components": draw.standard_normal((channels, 4)),
    }
    return replace(measure, fitted={key: one.astype(np.float32) for key, one in arrays.items()})


@pytest.mark.parametrize("name", [*MEASURES, "max_cosine@3", "gap_cosine@3"])
def test_every_measure_is_explained_or_says_why_not(name):
    net, both = vgg(), images()
    measure = fitted(name) if name in MEASURES else measure_named(name)
    if name in ("pixel_euclid", "gap_spearman"):
        with pytest.raises(DoesNotFit, match=name):
            Embedding(measure)
        return
    embedding = Embedding(measure, net[-1].weight.detach())
    vectors = embedding.vectors(net, both)
    with torch.no_grad():
        taps = forward_taps(net, both, measure.taps)
    arrays = {tap: value.numpy() for tap, value in taps.items()}
    wanted = measure.embed(arrays, {"classifier/weight": net[-1].weight.detach().numpy()})
    np.testing.assert_allclose(vectors.numpy(), wanted, atol=1e-6)
    found = relevance_to(net, both, vectors.flip(0), "likeness_lrp", embedding)
    slope = relevance_to(net, both, vectors.flip(0), "likeness_gradient", embedding)
    for maps in (found, slope):
        assert bool(maps.isfinite().all())
        assert bool(maps.any())
    grows = measure.form == "cosine" and not measure.fitted and "logits" not in measure.taps
    if grows:  # in proportion to the map: nothing is lost
        cosine = float((vectors[0] * vectors[1]).sum())
        assert found.sum((1, 2)).tolist() == pytest.approx([cosine] * 2, rel=1e-5)
        assert slope.sum((1, 2)).tolist() == pytest.approx([cosine] * 2, rel=1e-5)


def test_gradients_are_those_of_finite_differences():
    net, both = vgg(bias=True), images()
    embedding = Embedding(MEASURES["max_cosine"])
    other = embedding.vectors(net, both).flip(0)
    found = relevance_to(net, both, other, "likeness_gradient", embedding)

    def held(x):
        with torch.no_grad():
            before = embedding.before_unit(forward_taps(net, x, ["last_conv"]))
            start = embedding.before_unit(forward_taps(net, both, ["last_conv"]))
        return (before * other).sum(1) / start.norm(dim=1)

    for y, x in ((0, 0), (3, 5)):
        total = torch.zeros(2).double()
        for channel in range(3):
            step = torch.zeros_like(both)
            step[:, channel, y, x] = 1e-6
            slope = (held(both + step) - held(both - step)) / 2e-6
            total += slope * both[:, channel, y, x]
        torch.testing.assert_close(found[:, y, x], total, rtol=1e-4, atol=1e-8)


def test_what_cannot_be_asked_is_named():
    net, both = vgg(), images()
    with pytest.raises(BadInput, match="no explainer of pairs 'mirror'"):
        relevance_to(net, both, both, "mirror")
    with pytest.raises(DoesNotFit, match="max_cosine is no sum over positions"):
        parts_by_position(net, both[:1], Embedding(MEASURES["max_cosine"]))
    with pytest.raises(DoesNotFit, match="weights of a linear classifier"):
        Embedding(MEASURES["cam_pred_cosine"]).vectors(net, both)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Textures(nn.Module):
    """Four channels, each of which answers to stripes of one direction in 4x4 blocks."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 4, stride=2), nn.ReLU()
        self.pool, self.flat, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        with torch.no_grad():
            self.conv.bias.zero_()
            for channel, stripes in enumerate(textures(4)):
                self.conv.weight[channel] = stripes / 48

    def forward(self, x):
        return self.fc(self.flat(self.pool(self.relu(self.conv(x)))))


def textures(side):
    """Stripes across, down, both and none of them: orthogonal, each of mean 0, (4, side, side)."""
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    signs = [(-1.0) ** down, (-1.0) ** right, (-1.0) ** (down + right)]
    coarse = (-1.0) ** (down // 2) * (-1.0) ** (right // 2)
    return torch.stack([*signs, coarse])


def planted(draws, side=32, patch=8, strength=1.0, decoy=1.6):
    """Pairs of images with one texture in both, and in each a stronger one that the other lacks."""
    draw = np.random.default_rng(0)
    stripes = textures(patch)
    pairs, places = [], []
    for _ in range(draws):
        shared, *others = draw.permutation(4)
        both = torch.from_numpy(0.05 * draw.standard_normal((2, 3, side, side))).float()
        corners = []
        for image, other in zip(both, others[:2], strict=True):
            spots = draw.permutation((side // patch) ** 2)[:2]
            for texture, size, spot in ((shared, strength, spots[0]), (other, decoy, spots[1])):
                y, x = (patch * int(at) for at in divmod(int(spot), side // patch))
                image[:, y : y + patch, x : x + patch] += size * stripes[texture]
            corners.append([patch * int(at) for at in divmod(int(spots[0]), side // patch)])
        pairs.append(both)
        places.append(corners)
    return torch.stack(pairs), np.array(places)


@pytest.mark.parametrize("method", [*CONVOLVED, "likeness_path"])
def test_a_patch_in_both_images_is_found_beside_stronger_ones_that_only_one_has(method):
    """The pointing game; the energy of the map points at what only one image has."""
    net = Textures().eval()
    pairs, places = planted(100)
    embedding = usual_embedding()
    hits = {"map": [], "energy": []}
    limits = (torch.tensor(-4.0), torch.tensor(4.0))
    for side in (0, 1):
        images, partners = pairs[:, side], pairs[:, 1 - side]
        other = embedding.vectors(net, partners)
        with torch.no_grad():
            energy = forward_taps(net, images, ["last_conv"])["last_conv"].norm(dim=1)
        found = relevance_to(net, images, other, method, embedding, limits=limits)
        hits["map"] += pointed(found, places[:, side], 8)
        hits["energy"] += pointed(energy, places[:, side], 8)
    assert np.mean(hits["map"]) >= 0.95
    assert np.mean(hits["energy"]) <= 0.3


def pointed(maps, corners, patch, side=32):
    """Whether the place of each map's maximum, smoothed, lies in its patch."""
    large = nn.functional.interpolate(maps[:, None].float(), (side, side), mode="bilinear")
    smooth = gaussian_blur(large, [9, 9], [2.0, 2.0])[:, 0]
    places = [divmod(int(one.argmax()), side) for one in smooth]
    return [
        bool((corner <= place).all() and (place < corner + patch).all())
        for place, corner in zip(np.array(places), corners, strict=True)
    ]


def test_a_pasted_photograph_is_found_by_a_trained_network(shared_data):
    """ResNet-20 of CIFAR-10; one image pasted into two blurred ones, which share nothing else."""
    network = load_network(
        f"{shared_data}/cifar_resnet.py:resnet", f"{shared_data}/weights/resnet20-12fca82f.th"
    )
    with np.load(shared_data / "cifar10_lossless_dev.npz") as arrays:
        every = torch.from_numpy(arrays["x_test"]).permute(0, 3, 1, 2)
    draw = np.random.default_rng(0)
    images, corners = [], []
    for _ in range(60):
        one, other, pasted = draw.choice(len(every), 3, replace=False)
        patch = nn.functional.interpolate(every[[pasted]].float(), (14, 14), mode="area")[0]
        for base in (one, other):
            image = gaussian_blur(every[base][None].float(), [15, 15], [5.0, 5.0])[0]
            y, x = (int(at) for at in draw.integers(0, 19, 2))
            image[:, y : y + 14, x : x + 14] = patch
            images.append(image.round().to(torch.uint8))
            corners.append([y, x])
    batch = network.transform.normalise(torch.stack(images))
    embedding = usual_embedding()
    vectors = embedding.vectors(network.module, batch)
    swapped = vectors.view(60, 2, -1).flip(1).reshape(120, -1)
    found = relevance_to(network.module, batch, swapped)
    assert np.mean(pointed(found, np.array(corners), 14)) >= 0.95
