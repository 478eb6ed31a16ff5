"""The matrix product under every pair: the fastest of those that this machine has.

numpy's OpenBLAS is always there. Torch brings oneDNN, which on some processors is twice as fast for
float32 (a 2026 AMD EPYC: 230 against 117 million pairs of 512 numbers a second and core, because
OpenBLAS and MKL choose AVX2 kernels there), and which multiplies bfloat16 twice as fast again.
Which one is taken is measured once a process and length of vector, and only for work that is worth
the import of torch: how much work there is decides, never what the process did before.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Entries = NDArray[Any]
"""Of a product: float32, or the bits of bfloat16 as uint16."""
Precision = Literal["float32", "bfloat16"]

BRING_BLAS = ("scipy.linalg", "torch", "faiss")
"""Modules that load a BLAS of their own."""

WORTH = 2e11
"""Multiplications from which on products of bfloat16 may tell who is near."""
WORTH_MEASURING = 1e10
"""Multiplications below which OpenBLAS is taken unmeasured. Not whether torch is loaded already:
numbers would have other last digits after an extraction than without."""


def _as_it_is(z: Matrix) -> Any:
    return z


@dataclass(frozen=True)
class Product:
    """A way to multiply.

    Attributes:
        name: for tables.
        multiply: (x (m, D), y (n, D), room (m, n)) to x y^T, contiguous, in `room` or in memory of
            its own; x and y as `ready` gives them, or slices of that. Float32, or the bits of
            bfloat16 as uint16, which `widened` turns into float32.
        ready: vectors (n, D) to the form in which they are multiplied; for many products at once.
    """

    name: str
    multiply: Callable[[Any, Any, Matrix], Entries]
    ready: Callable[[Matrix], Any] = _as_it_is

    def __call__(self, x: Matrix, y: Matrix, room: Matrix) -> Entries:
        """The product of vectors that are multiplied once."""
        return self.multiply(self.ready(x), self.ready(y), room)


def _numpy(x: Matrix, y: Matrix, room: Matrix) -> Matrix:
    # Of one array with itself numpy calls syrk, whose last digits are others than gemm's on some
    # processors; whether a block's two sides are one array depends on where they are kept.
    if x.__array_interface__["data"] == y.__array_interface__["data"]:
        y = y.copy()
    return np.dot(x, y.T, out=room)


def _onednn(x: Matrix, y: Matrix, room: Matrix) -> Matrix:
    import torch

    torch.set_num_threads(1)
    linear = torch.ops.mkldnn._linear_pointwise
    product: Matrix = linear(torch.from_numpy(x), torch.from_numpy(y), None, "none", [], "").numpy()
    return product


def _rounded(z: Matrix) -> Any:
    import torch

    torch.set_num_threads(1)
    return torch.from_numpy(z).bfloat16()


def _bfloat16(x: Any, y: Any, room: Matrix) -> NDArray[np.uint16]:
    return coarse_bits(x, y)


by_numpy = Product("numpy", _numpy)
"""float32 by numpy's BLAS."""
by_onednn = Product("oneDNN", _onednn)
"""float32 by oneDNN, as torch's own compiler calls it."""
by_bfloat16 = Product("bfloat16", _bfloat16, _rounded)
"""Both rounded to bfloat16; sums are float32, the result is rounded again and given as its bits."""


def rounded(z: Matrix) -> tuple[Any, Matrix]:
    """Vectors (n, D) in bfloat16 as `coarse_bits` takes them, and the same in float32."""
    near = _rounded(z)
    return near, near.float().numpy()


def coarse_bits(x: Any, y: Any) -> NDArray[np.uint16]:
    """Product x y^T (m, n) of vectors in bfloat16, itself in bfloat16: its bits.

    Sums are float32. Each entry is rounded once more at the end, by at most 2^-8 of it.
    """
    import torch

    torch.set_num_threads(1)
    bits: NDArray[np.uint16] = torch.mm(x, y.T).view(torch.int16).numpy().view(np.uint16)
    return bits


def coarse_pays(dim: int, work: float) -> bool:
    """Whether products of bfloat16 take at most two thirds of the time of `best_product`'s here.

    Args:
        dim: length of the vectors.
        work: multiplications to be done in all; little work is not worth the measurement.
    """
    if work < WORTH:
        return False
    with one_thread_each():
        return _coarse_is_fast(dim)


def best_product(dim: int, work: float, precision: Precision = "float32") -> Product:
    """The product to use.

    Args:
        dim: length of the vectors.
        work: multiplications to be done in all.
        precision: `bfloat16` trades digits of the distances for speed.
    """
    if precision == "bfloat16":
        return by_bfloat16
    if work < WORTH_MEASURING:
        return by_numpy
    with one_thread_each():
        return _fastest(dim)


@cache
def _fastest(dim: int, side: int = 512) -> Product:
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((2, side, dim), dtype=np.float32)
    exact = x @ y.T
    best, least = by_numpy, np.inf
    for product in (by_numpy, by_onednn):
        room = np.empty_like(exact)
        try:
            out = product(x, y, room)
        except (ImportError, AttributeError, RuntimeError):
            # This torch has no oneDNN, or calls it otherwise: numpy's product is there always.
            continue
        if not np.allclose(out, exact, rtol=1e-4, atol=1e-3 * dim**0.5):
            continue
        took = min(_seconds(product, x, y, room) for _ in range(5))
        if took < 0.9 * least:
            best, least = product, took
    return best


@cache
def _coarse_is_fast(dim: int, side: int = 512) -> bool:
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((2, side, dim), dtype=np.float32)
    try:
        (near, left), (other, right) = rounded(x), rounded(y)
        bits = coarse_bits(near, other)
    except (ImportError, AttributeError, RuntimeError):
        # Without torch, or with one that cannot multiply these.
        return False
    exact = left @ right.T
    if not np.allclose(widened(bits), exact, rtol=2.0**-8, atol=1e-5 * dim):
        return False
    product, room = _fastest(dim), np.empty_like(exact)
    least = min(_seconds(product, x, y, room) for _ in range(5))
    return min(_seconds(coarse_bits, near, other) for _ in range(5)) < 2 / 3 * least


def widened(bits: NDArray[np.uint16]) -> Matrix:
    """Numbers of bfloat16, given by their bits, in float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _seconds(multiply: Callable[..., Any], *arrays: Any) -> float:
    started = time.perf_counter()
    multiply(*arrays)
    return time.perf_counter() - started


@cache
def _libraries(loaded: tuple[bool, ...]) -> Any:
    """The BLAS libraries of this process; looking for them takes two milliseconds."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """One BLAS thread for each of the blocks that run side by side; torch's setting comes back."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    with _libraries(tuple(name in sys.modules for name in BRING_BLAS)).limit(
        limits=1, user_api="blas"
    ):
        yield
    if torch is not None:
        torch.set_num_threads(before)
