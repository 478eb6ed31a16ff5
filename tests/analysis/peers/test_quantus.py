"""Deletion and insertion against Quantus, whose pixel flipping they are with cells and a blur.

What Quantus answers is recorded (`record.py`), so that this runs without it.
"""

import numpy as np
import pytest
import torch

from alike.analysis.explain.grade.curves import rank_agreement
from alike.analysis.explain.grade.grade import Grading, grade, grades_of_images

from .record import GRID, STEPS, network, parameters_of, read

RECORD = read("quantus")


@pytest.fixture(scope="module")
def graded():
    """Grades of gradient times input by the network and images of the record."""
    module, images = network(parameters_of(RECORD)), torch.from_numpy(RECORD["images"])
    with torch.no_grad():
        assert module(images).argmax(1).tolist() == RECORD["target"].tolist()
    return module, images, Grading(steps=STEPS, draws=2)


@pytest.mark.quick
@pytest.mark.parametrize("number", ["deletion", "insertion"])
def test_areas_are_those_of_pixel_flipping(graded, number):
    assert all(len(np.unique(row)) == GRID**2 for row in RECORD["cells"])
    module, images, grading = graded
    theirs = RECORD[number]
    numbers, grid = grades_of_images(module, images, ["grad_x_input"], grading=grading)
    assert grid == (GRID, GRID)
    assert numbers["grad_x_input"][number] == pytest.approx(theirs, abs=1e-5)
    assert np.ptp(theirs) > 0.05
    table = grade(module, images, ["grad_x_input"], grading=grading).set_index("explainer")
    assert table.loc["grad_x_input", number] == pytest.approx(theirs.mean(), abs=1e-5)


@pytest.mark.quick
def test_rank_agreement_is_that_of_quantus():
    agreed = rank_agreement(RECORD["cells"], RECORD["other"])
    assert agreed == pytest.approx(RECORD["spearman"], abs=1e-9)
