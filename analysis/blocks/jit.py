"""Numba functions, compiled once and kept on disk."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile with numba: without the GIL, kept on disk between runs."""
    compiled: _Function = njit(nogil=True, fastmath=True, cache=True, error_model="numpy")(function)
    return compiled
