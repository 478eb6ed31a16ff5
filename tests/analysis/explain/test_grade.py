"""Grades of explainers: against loops over cells, and on networks whose truth is known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr, t
from torch import nn

from alike.analysis.explain.explain import relevance
from alike.analysis.explain.grade.curves import blurred, in_cells, ranks_of
from alike.analysis.explain.grade.grade import Grading, grade, with_permuted_weights
from alike.extract.errors import BadInput

FEW = Grading(steps=4, draws=6, batch_size=3)


class Corner(nn.Module):
    """Sees colour by position; its map of 4x4 is the image in blocks of 4x4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 4, stride=4, bias=False)
        self.relu = nn.ReLU()
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel in range(3):
                self.conv.weight[channel, channel] = 1 / 16
            # The first colour speaks for the first class; the second is bright and says nothing.
            self.fc.weight.copy_(torch.tensor([[24.0, 0.0, 0.0], [0.0, 0.0, 24.0]]))
            self.fc.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.flat(self.pool(self.relu(self.conv(x)))))


def planted(n: int = 6) -> torch.Tensor:
    """Images 16x16: one block of the colour of class 0, three brighter ones without meaning."""
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.random((n, 3, 16, 16)).astype(np.float32)) * 0.05
    for number in range(n):
        one, *others = draw.choice(16, 4, replace=False)
        for cell, channel, value in ((one, 0, 3.0), *((other, 1, 9.0) for other in others)):
            down, right = divmod(int(cell), 4)
            images[number, channel, 4 * down : 4 * down + 4, 4 * right : 4 * right + 4] = value
    return images


def naive(network, image, cells, steps):
    """Deletion, insertion and single-cell falls of one image, by loops."""
    fill = np.stack(
        [gaussian_filter(channel, 1.6, mode="mirror", radius=5) for channel in image.numpy()]
    )
    fill = torch.from_numpy(fill)

    def probability(x):
        return float(network(x[None]).softmax(1)[0, target])

    def patched(start, end, which):
        x = start.clone()
        for cell in which:
            down, right = divmod(int(cell), 4)
            box = slice(4 * down, 4 * down + 4), slice(4 * right, 4 * right + 4)
            x[:, *box] = end[:, *box]
        return x

    target = int(network(image[None]).argmax())
    order = np.argsort(-cells, kind="stable")
    curves = []
    for start, end in ((image, fill), (fill, image)):
        values = [
            probability(patched(start, end, order[: 16 * step // steps]))
            for step in range(steps + 1)
        ]
        curves.append(np.trapezoid(values, dx=1 / steps))
    whole = probability(image)
    falls = [whole - probability(patched(image, fill, [cell])) for cell in range(16)]
    return *curves, falls


@pytest.mark.quick
@torch.no_grad()
def test_numbers_are_those_of_loops():
    network, images = Corner().eval(), planted()
    table = grade(network, images, ["cam", "grad_x_input"], grading=FEW).set_index("explainer")
    target = network(images).argmax(1)
    for method in ("cam", "grad_x_input"):
        with torch.enable_grad():
            maps = relevance(network, images, method, target)
        cells = in_cells(maps, (4, 4))
        every = [naive(network, *pair, 4) for pair in zip(images, cells, strict=True)]
        for at, name in enumerate(("deletion", "insertion")):
            values = np.array([one[at] for one in every])
            reach = t.ppf(0.975, 5) * values.std(ddof=1) / 6**0.5
            wanted = [values.mean(), values.mean() - reach, values.mean() + reach]
            got = table.loc[method, [name, f"{name}_low", f"{name}_high"]].to_numpy(float)
            assert got == pytest.approx(wanted, abs=2e-5)
        agreed = [spearmanr(row, one[2]).statistic for row, one in zip(cells, every, strict=True)]
        assert table.loc[method, "agreement"] == pytest.approx(np.nanmean(agreed), abs=2e-3)
    assert table.loc["cam", "cells"] == 16
    apart = table.loc["cam", "deletion"] - table.loc["energy", "deletion"]
    assert table.loc["cam", "deletion_to_energy"] == pytest.approx(apart)


@torch.no_grad()
def test_a_faithful_map_beats_energy_and_random_orders():
    """The class activation map is all that the score is; energy looks at what is bright."""
    fine = Grading(steps=16, draws=6)
    table = grade(Corner().eval(), planted(12), ["cam"], grading=fine).set_index("explainer")
    cam = table.loc["cam"]
    assert cam["deletion_to_energy_high"] < 0
    assert cam["deletion_to_random_high"] < 0
    assert cam["insertion_to_random_low"] > 0
    assert cam["agreement"] > table.loc["energy", "agreement"]
    assert np.isnan(table.loc["energy", "deletion_to_energy"])
    assert np.isnan(table.loc["random", "agreement"])


def test_a_method_that_does_not_fit_is_left_out_and_said():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 8), nn.Linear(8, 2)
    ).eval()
    lines = []
    few = Grading(steps=2, draws=1)
    table = grade(network, planted(2), ["cam", "sa"], grading=few, tell=lines.append)
    assert list(table["explainer"]) == ["sa", "energy", "random"]
    (line,) = lines
    assert line.startswith("cam: no CAM for ")


def test_blur_cells_and_permuted_weights():
    image = torch.rand(1, 3, 40, 30)
    wanted = [gaussian_filter(c, 3.0, mode="mirror", radius=9) for c in image[0].numpy()]
    np.testing.assert_allclose(blurred(image)[0].numpy(), wanted, atol=1e-5)
    assert ranks_of(np.array([[0.1, 3.0, 0.1]])).tolist() == [[1, 0, 2]]
    network = nn.Sequential(*(nn.Linear(5, 5) for _ in range(8)))
    other = with_permuted_weights(network, 0)
    for number, (one, two) in enumerate(zip(network, other, strict=True)):
        assert torch.equal(one.weight, two.weight) == (number < 6)
        assert torch.equal(one.weight.flatten().sort()[0], two.weight.flatten().sort()[0])
    with pytest.raises(BadInput, match="two or more"):
        grade(Corner().eval(), planted(1), ["cam"])
    with pytest.raises(BadInput, match="no explainer 'mirror'"):
        grade(Corner().eval(), planted(2), ["mirror"])
