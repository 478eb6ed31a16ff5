"""The product under every pair."""

import numpy as np
import pytest

from alike.analysis.blocks.product import by_numpy


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(256, 12), (600, 108), (37, 512)])
def test_an_array_with_itself_gives_what_it_gives_with_a_copy(shape):
    x = np.random.default_rng(3).standard_normal(shape, dtype=np.float32)
    rooms = np.empty((2, len(x), len(x)), np.float32)
    by_numpy.multiply(x, x, rooms[0])
    by_numpy.multiply(x, x.copy(), rooms[1])
    assert np.array_equal(*rooms)
