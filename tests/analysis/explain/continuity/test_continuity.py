"""Continuity against the closed form of Montavon et al. 2018, section 7.1, and on real networks."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from alike.analysis.explain.continuity.continuity import COLUMNS, Sampling, continuity, log_slope
from alike.analysis.explain.continuity.perturbations import (
    class_pairs,
    continuity_ratios,
    noise_pairs,
    shift,
    shift_pairs,
    unit_maps,
)
from alike.analysis.explain.explain import EXPLAINERS
from alike.analysis.explain.lrp.composite import Composite
from alike.analysis.explain.lrp.relevance import lrp
from alike.extract.errors import BadInput

ALL_PLUS = Composite(
    "all_plus", "zplus", "zplus", "zplus", "same_sign", "deep Taylor without a box"
)
RADII = (1e-1, 1e-2, 1e-3)


class Maximum(nn.Module):
    """max(x1, x2) for positive inputs, as a ReLU network of two layers."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[1.0, -1], [-1, 1], [1, 1]]))
            self.out.weight.fill_(0.5)
        self.double()

    def forward(self, x):
        return torch.relu(self.out(torch.relu(self.hidden(x))))


def around_the_diagonal(radius, n=2000):
    """Pairs at one distance in every direction, most of them on both sides of the jump."""
    dice = np.random.default_rng(0)
    middle = dice.uniform(1, 4, (n, 1)) + dice.uniform(-0.4, 0.4, (n, 2)) * radius
    angle = np.append(dice.uniform(0, 2 * np.pi, n - 1), -np.pi / 4)
    step = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius / 2
    return torch.from_numpy(middle - step), torch.from_numpy(middle + step)


def deep_taylor(module, points, target):
    return lrp(module, points, target, composite=ALL_PLUS)


def sup_ratio(method, radius):
    first, second = around_the_diagonal(radius)
    target = torch.zeros(len(first), dtype=torch.int64)
    a, b = (method(Maximum(), points, target) for points in (first, second))
    apart = (first - second).norm(dim=1)
    return continuity_ratios(a, b, apart, normalised=False).max()


def test_deep_taylor_is_continuous_with_constant_root_two():
    assert [sup_ratio(deep_taylor, radius) for radius in RADII] == pytest.approx(
        [2**0.5] * 3, rel=1e-4
    )


def test_sensitivity_jumps_as_two_over_the_distance():
    found = [sup_ratio(EXPLAINERS["sa"].maps, radius) for radius in RADII]
    assert found == pytest.approx([2 / radius for radius in RADII])
    assert log_slope(RADII, found) == pytest.approx(1)


def test_gradient_times_input_jumps_too():
    found = [sup_ratio(EXPLAINERS["grad_x_input"].maps, radius) for radius in RADII]
    assert log_slope(RADII, found) == pytest.approx(1, abs=0.05)


@pytest.mark.quick
def test_the_slope_of_a_continuous_explainer_is_zero():
    assert log_slope(RADII, [2**0.5] * 3) == pytest.approx(0, abs=1e-12)


def test_shifts_by_whole_and_half_pixels():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    right = shift(image, 0, 1)[0, 0]
    torch.testing.assert_close(right[:, 1:], image[0, 0, :, :-1])
    torch.testing.assert_close(right[:, 0], image[0, 0, :, 0])
    torch.testing.assert_close(shift(image, -1, 0)[0, 0, :-1], image[0, 0, 1:])
    torch.testing.assert_close(
        shift(image, 0, 1, half=True)[0, 0, 0], torch.tensor([0, 0.5, 1.5, 2.5])
    )
    pairs = shift_pairs(image, "shift_half")
    assert pairs.second.shape == (4, 1, 3, 4)
    assert list(pairs.first) == [0, 0, 0, 0]


def test_noise_keeps_its_directions_whatever_the_radius_and_the_company():
    images = torch.rand(3, 3, 8, 8)
    near, far = noise_pairs(images, (0.01, 0.1), directions=2, seed=7)
    start = images.repeat_interleave(2, 0)
    torch.testing.assert_close((far.second - start) / 10, near.second - start, rtol=1e-3, atol=1e-6)
    step = (far.second - start).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(step, torch.full((6,), 0.1), rtol=1e-4, atol=0)
    (alone,) = noise_pairs(images[:1], (0.1,), directions=2, seed=7)
    torch.testing.assert_close(alone.second, far.second[:2])


def test_real_pairs_are_of_the_classes_they_say():
    labels = np.array(["a", "a", "b", "b", "c"], dtype=object)
    pooled = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 1]])
    nearest, same, different = class_pairs(pooled, labels, 64, 0)
    assert {tuple(pair) for pair in zip(nearest.first, nearest.second, strict=True)} == {
        (0, 1), (1, 0), (2, 3), (3, 2),
    }  # fmt: skip
    assert len(same.first) == 2
    assert len(different.first) == 8
    assert all(
        labels[i] != labels[j] for i, j in zip(different.first, different.second, strict=True)
    )
    assert len(class_pairs(pooled, labels, 3, 0)[2].first) == 3


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    ).eval()


def test_the_table_has_every_explainer_and_kind_of_pair():
    images, labels = torch.randn(6, 3, 16, 16), list("aabbcc")
    found = continuity(small_net(), images, labels, name="small")
    kinds = ["noise", "shift_pixel", "shift_half", "nearest_same", "same_class", "different_class"]
    assert list(found.table.columns) == list(COLUMNS)
    assert list(found.table["pairs"]) == kinds * 5
    assert set(found.table["explainer"]) == {"cam", "gradcam", "sa", "grad_x_input", "lrp"}
    assert list(found.table["n_pairs"][:6]) == [72, 24, 24, 6, 3, 12]
    few = continuity(small_net(), images, labels, methods=["cam"], sampling=Sampling(stepped=2))
    assert list(few.table["n_pairs"]) == [24, 8, 8, 6, 3, 12]
    assert list(few.table["n_images"][:3]) == [2, 2, 2]
    ordered = found.table[["median", "q99", "max"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()
    lrp = found.table[found.table["explainer"] == "lrp"]
    # The maps as they are differ from those of sum 1 by the scale of the scores.
    assert (lrp["montavon"] > 0).all()
    assert not np.allclose(lrp["montavon"], lrp["max"])
    contrast = found.table.set_index(["explainer", "pairs"])["contrast"]
    means = found.table.set_index(["explainer", "pairs"])["mean"]
    expected = means["lrp", "different_class"] / means["lrp", "same_class"]
    assert contrast["lrp", "same_class"] == pytest.approx(expected)


def test_pairs_of_equal_inputs_have_no_ratio():
    """A flat image that is moved, and a copy: 0 / 0 was the mean of all, and `montavon` 0."""
    torch.manual_seed(0)
    images, said = torch.randn(6, 3, 12, 12), []
    images[0] = 0.3
    images[3] = images[2]
    sampling = Sampling(stepped=6)
    table = continuity(
        small_net(), images, list("aabbcc"), methods=["gradcam"], sampling=sampling,
        tell=said.append,
    ).table.set_index("pairs")  # fmt: skip
    assert table["n_pairs"].to_dict() == {
        "noise": 72, "shift_pixel": 20, "shift_half": 20,
        "nearest_same": 4, "same_class": 2, "different_class": 12,
    }  # fmt: skip
    assert np.isfinite(table[["max", "q99", "median", "mean"]]).all(axis=None)
    assert (table["montavon"] > 0).all()
    assert "nearest_same: 2 of 6 pairs are of equal inputs, which have no ratio" in said
    flat = continuity(small_net(), torch.zeros(2, 3, 12, 12), list("aa"), methods=["sa"]).table
    assert flat["n_pairs"].tolist()[1:] == [0] * (len(flat) - 1)
    assert flat[["max", "montavon", "contrast"]][1:].isna().all(axis=None)


def test_the_maximum_is_that_of_the_example():
    images = torch.randn(4, 3, 16, 16)
    found = continuity(small_net(), images, methods=("lrp", "sa"), sampling=Sampling(directions=2))
    for (_, row), example in zip(found.table.iterrows(), found.examples, strict=True):
        a, b = (unit_maps(maps[None]) for maps in example.maps)
        ratio = (a - b).abs().sum() / (example.inputs[0] - example.inputs[1]).double().norm()
        assert row["max"] == pytest.approx(float(ratio), rel=1e-5)


def test_a_batch_size_changes_nothing():
    images = torch.randn(4, 3, 16, 16)
    tables = [continuity(small_net(), images, batch_size=size).table for size in (3, 64)]
    np.testing.assert_allclose(tables[0]["median"], tables[1]["median"], rtol=1e-3)


def test_an_explainer_that_does_not_fit_is_left_out():
    torch.manual_seed(0)
    net = torchvision.models.alexnet(weights=None).eval()
    sampling = Sampling(radii=(0.1, 0.01), directions=1)
    lines = []
    found = continuity(
        net, torch.randn(2, 3, 64, 64), methods=("cam", "gradcam"), sampling=sampling,
        tell=lines.append,
    )  # fmt: skip
    assert set(found.table["explainer"]) == {"gradcam"}
    (line,) = lines
    assert line.startswith("cam: no CAM for ")
    with pytest.raises(BadInput, match="none of cam fits"):
        continuity(net, torch.randn(2, 3, 64, 64), methods=("cam",), sampling=sampling)
    with pytest.raises(BadInput, match="2 or more"):
        continuity(net, torch.randn(1, 3, 64, 64))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_montavons_number_is_that_of_the_maps_as_they_are():
    """Against every pair of real images, by hand; twice the scores give twice the number."""
    from copy import deepcopy

    from alike.analysis.explain.explain import relevances

    images, labels = torch.randn(6, 3, 16, 16), list("aabbcc")
    net = small_net()
    found = continuity(net, images, labels, methods=("sa", "grad_x_input"))
    target = net(images).argmax(1)
    maps = relevances(net, images, ["grad_x_input"], target)["grad_x_input"].double()
    ratios = [
        float((maps[a] - maps[b]).abs().sum() / (images[a] - images[b]).double().norm())
        for a in range(6)
        for b in range(6)
        if labels[a] != labels[b]
    ]
    rows = found.table.set_index(["explainer", "pairs"])
    assert rows.loc[("grad_x_input", "different_class"), "montavon"] == pytest.approx(
        max(ratios), rel=1e-5
    )
    double = deepcopy(net)
    double[-1].weight.data *= 2
    double[-1].bias.data *= 2
    scaled = continuity(double, images, labels, methods=("grad_x_input",)).table
    scaled = scaled.set_index(["explainer", "pairs"]).loc["grad_x_input"]
    plain = rows.loc["grad_x_input"]
    np.testing.assert_allclose(scaled["montavon"], 2 * plain["montavon"], rtol=1e-4)
    np.testing.assert_allclose(scaled["max"], plain["max"], rtol=1e-4)
