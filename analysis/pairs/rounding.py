"""How far the key of a pair can be off: float32 and bfloat16 products round.

Let z = y + r, with y what bfloat16 holds of z. Then z_i . z_j - y_i . y_j = r_i . z_j + y_i . r_j,
which by Cauchy and Schwarz is at most |r| |z| + |y| |r|, with the lengths that the rests really
have. The sum of D products in float32, in any order, is off by at most g |y| |y|, g = D u, u =
2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1), and by 8
sqrt(D) u but for a chance below 1e-13 a pair (Higham and Mary 2019); with bfloat16 the sum is
rounded again, by 2^-8 of itself. The key is then put together in float32, in units of bins.
Vectors of cosines have length 1 but for 2 u, by which 1 - u . v is off. float32 products have no
rests r.

That bound is of the longest vectors. Where one class lies far from the others, or one image does,
it is wider than the distances within a class, so keys are then computed in float64 from differences
(`sure_pairs`): what is off is the last digit of each, relative to the distance from the end of the
range from which bins are counted.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import MapBlocks, Precision, Statistic, Vectors, blocks, compiled
from alike.analysis.pairs.bins import Bins

UNIT = 2.0**-24
"""Unit roundoff of float32."""
CHANCE = 8.0
"""Times sqrt(D) u: errors of D roundings that are not of one sign."""
COARSE = 2.0**-8
"""Unit roundoff of bfloat16."""


def key_error(
    vectors: Vectors, bins: Bins, precision: Precision, map_blocks: MapBlocks = map
) -> float:
    """The most by which the key of any pair of these images can be off.

    Args:
        vectors: the images.
        bins: in which the keys are counted.
        precision: of the products.
        map_blocks: how blocks of images are mapped.
    """
    longest: Statistic[tuple[int, int], Any, Any, Any] = Statistic(
        items=blocks(vectors.n, vectors.dim),
        chunk=partial(_longest, vectors, precision),
        start=partial(np.zeros, 3),
        combine=_larger,
        finalize=np.asarray,
    )
    z, r, b = map(float, longest.compute(map_blocks))
    y = z + r
    g = min(vectors.dim, CHANCE * vectors.dim**0.5) * UNIT
    summed = y * y * (1.0 + g)
    coarse = COARSE if precision == "bfloat16" else 0.0
    product = r * z + y * r + y * y * g + coarse * summed
    # Two sums and a multiplication of float32 numbers no larger than these.
    largest = 2.0 * b + abs(bins.first) + summed * (1.0 + coarse)
    length = 4.0 * UNIT if vectors.form == "cosine" else 0.0
    return float(product + 4.0 * UNIT * largest + length)


def _larger(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(a, b)


def _longest(vectors: Vectors, precision: Precision, block: tuple[int, int]) -> NDArray[np.float64]:
    """The largest |z|, |r| and |b| of a block."""
    z, b = vectors.block(*block)
    length = _longest_row(z)
    if precision == "float32":
        return np.array([length, 0.0, np.abs(b).max()])
    import torch

    # Exact in float32: the rest has no more digits than were cut off.
    rest = z - torch.from_numpy(z).bfloat16().float().numpy()
    return np.array([length, _longest_row(rest), np.abs(b).max()])


@compiled
def _longest_row(rows: NDArray[np.float32]) -> float:
    largest = 0.0
    for i in range(len(rows)):
        total = 0.0
        for d in range(rows.shape[1]):
            x = np.float64(rows[i, d])
            total += x * x
        largest = max(largest, total)
    return float(np.sqrt(largest))
