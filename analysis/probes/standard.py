"""Channels less their mean on the train images, over their standard deviation there.

A network computes the same if channels of its last map are multiplied by factors and the columns
of its head divided by them. Standardised channels are the same too, so no probe on them can tell.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FLAT = 1e-12
"""Share of a channel's mean square below which its variance is rounding: it counts as constant."""


@dataclass(frozen=True)
class Standard:
    """How channels are standardised.

    Attributes:
        mean: (D,) of the train images.
        scale: (D,) one over the standard deviation; 0 for a channel that does not vary.
    """

    mean: Floats
    scale: Floats

    def __call__(self, x: NDArray[Any]) -> Floats:
        """Standardised rows (N, D) float64.

        Example:
            >>> import numpy as np
            >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
            >>> standard_of(x.sum(0), (x * x).sum(0), 2)(x).tolist()
            [[-1.0, -1.0], [1.0, 1.0]]
        """
        return np.asarray((x - self.mean) * self.scale)

    def units(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """The same of length 1, float32; a row that is zero everywhere stays zero."""
        z = self(x)
        length = np.sqrt(np.einsum("nd,nd->n", z, z))
        return (z / np.where(length > 0, length, 1.0)[:, None]).astype(np.float32)


def standard_of(total: Floats, squares: Floats, n: float) -> Standard:
    """From the sums (D,) of the channels and of their squares over n images."""
    mean = total / n
    variance = squares / n - mean**2
    varies = variance > FLAT * np.maximum(squares / n, 1e-300)
    return Standard(mean, np.where(varies, 1.0 / np.sqrt(np.where(varies, variance, 1.0)), 0.0))
