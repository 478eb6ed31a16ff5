"""Deletion and insertion against Quantus, whose pixel flipping they are with cells and a blur.

Run with quantus 0.6.0, numpy 2.4.6 and torch 2.14.1 (`pip install quantus`).
"""

import numpy as np
import pytest
import torch
from torch import nn

from alike.analysis.explain.explain import relevance
from alike.analysis.explain.grade.curves import blurred, cell_index, in_cells, rank_agreement
from alike.analysis.explain.grade.grade import Grading, grade, grades_of_images

GRID, STEPS = (8, 8), 8


def network():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        module[-1].weight *= 20  # so that probabilities move
    return module


@pytest.fixture
def studied():
    """A network, images of large contrasts, and the maps of one explainer of them, in cells."""
    module, draw = network(), np.random.default_rng(0)
    coarse = draw.standard_normal((10, 3, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    images = torch.from_numpy((3 * coarse).astype(np.float32))
    with torch.no_grad():
        target = module(images).argmax(1)
    maps = relevance(module, images, "grad_x_input", target)
    cells = in_cells(maps, GRID)
    pixels = cells[:, cell_index((16, 16), GRID).numpy()].astype(np.float32)
    return module, images, target, pixels, cells


@pytest.mark.quick
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", ["deletion", "insertion"])
def test_areas_are_those_of_pixel_flipping(studied, number):
    quantus = pytest.importorskip("quantus")
    module, images, target, pixels, cells = studied
    assert all(len(np.unique(row)) == 64 for row in cells)
    fill = blurred(images)
    start, end = (images, fill) if number == "deletion" else (fill, images)
    filling = end.numpy().reshape(len(end), -1)

    def fill_in(arr, indices, **_):
        changed = arr.copy()
        np.put_along_axis(changed, indices, np.take_along_axis(filling, indices, 1), 1)
        return changed

    metric = quantus.PixelFlipping(
        features_in_step=256 // STEPS, perturb_func=fill_in, normalise=False, abs=False,
        disable_warnings=True,
    )  # fmt: skip
    curves = metric(
        model=module, x_batch=start.numpy(), y_batch=target.numpy(), a_batch=pixels[:, None],
        softmax=True, device="cpu",
    )  # fmt: skip
    with torch.no_grad():
        first = module(start).softmax(1).gather(1, target[:, None]).numpy()
    # It counts the three colours of a pixel apart, so three of its steps are one of ours.
    values = np.concatenate([first, np.array(curves)[:, 2::3]], axis=1)
    theirs = np.trapezoid(values, dx=1 / STEPS, axis=1)
    grading = Grading(steps=STEPS, draws=2)
    numbers, grid = grades_of_images(module, images, ["grad_x_input"], grading=grading)
    assert grid == GRID
    assert numbers["grad_x_input"][number] == pytest.approx(theirs, abs=1e-5)
    assert np.ptp(theirs) > 0.05
    table = grade(module, images, ["grad_x_input"], grading=grading).set_index("explainer")
    assert table.loc["grad_x_input", number] == pytest.approx(theirs.mean(), abs=1e-5)


@pytest.mark.quick
@pytest.mark.filterwarnings("ignore")
def test_rank_agreement_is_that_of_quantus(studied):
    quantus = pytest.importorskip("quantus")
    *_, cells = studied
    other = cells[::-1] + np.random.default_rng(1).standard_normal(cells.shape)
    theirs = [
        quantus.similarity_func.correlation_spearman(one, two)
        for one, two in zip(cells, other, strict=True)
    ]
    assert rank_agreement(cells, other) == pytest.approx(np.array(theirs), abs=1e-9)
