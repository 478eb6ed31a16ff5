"""How far the key of a pair can be off where the products are made of bfloat16 numbers.

Let z = y + r, with y what bfloat16 holds of z. Then z_i . z_j - y_i . y_j = r_i . z_j + y_i . r_j,
which by Cauchy and Schwarz is at most |r| |z| + |y| |r|, with the lengths that the rests really
have. Products of two bfloat16 numbers are exact in float32; their sum in any order is off by at
most g |y| |y|, g = D u / (1 - D u), u = 2^-24 (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., section 3.1); the sum is rounded to bfloat16 again, by 2^-8 of itself. The key
is then put together in float32, in units of bins.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import MapBlocks, Precision, Statistic, Vectors, blocks
from alike.analysis.pairs.bins import Bins

UNIT = 2.0**-24
"""Unit roundoff of float32."""
COARSE = 2.0**-8
"""Unit roundoff of bfloat16."""


def key_error(
    vectors: Vectors, bins: Bins, precision: Precision, map_blocks: MapBlocks = map
) -> float:
    """The most by which the key of any pair of these images can be off; 0 for float32.

    float32 products are off by parts of a bin only, which the interval leaves out.

    Args:
        vectors: the images.
        bins: in which the keys are counted.
        precision: of the products.
        map_blocks: how blocks of images are mapped.
    """
    if precision == "float32":
        return 0.0
    longest: Statistic[tuple[int, int], Any, Any, Any] = Statistic(
        items=blocks(vectors.n, vectors.dim),
        chunk=partial(_longest, vectors),
        start=partial(np.zeros, 3),
        combine=_larger,
        finalize=np.asarray,
    )
    z, r, b = map(float, longest.compute(map_blocks))
    y = z + r
    g = vectors.dim * UNIT / (1.0 - vectors.dim * UNIT)
    summed = y * y * (1.0 + g)
    product = r * z + y * r + y * y * g + COARSE * summed
    # Two sums and a multiplication of float32 numbers no larger than these.
    largest = 2.0 * b + abs(bins.first) + summed * (1.0 + COARSE)
    return product + 4.0 * UNIT * largest


def _larger(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(a, b)


def _longest(vectors: Vectors, block: tuple[int, int]) -> NDArray[np.float64]:
    """The largest |z|, |r| and |b| of a block."""
    import torch

    z, b = vectors.block(*block)
    wide: Any = z.astype(np.float64)
    rest = wide - torch.from_numpy(z).bfloat16().double().numpy()
    lengths = (np.sqrt(np.einsum("nd,nd->n", part, part)).max() for part in (wide, rest))
    return np.array([*lengths, np.abs(b).max()])
