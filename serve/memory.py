"""Memory that the C library holds after it was freed: bounded, and given back after large images.

glibc gives each thread an arena of its own, and keeps in each what was freed there. Pillow's blocks
of 16 MiB stay in as many arenas as threads have decoded. Other C libraries have no such calls:
there nothing is done.
"""

from collections.abc import Callable
from typing import TypeVar

from alike.extract.machine import call_c, release_memory

ARENA_MAX = -8
"""`M_ARENA_MAX` of glibc's malloc.h."""
ARENAS = 2
LARGE = 4_000_000
"""Pixels of an image after which memory is given back: that takes about a millisecond."""

Answer = TypeVar("Answer")


def bound_arenas() -> None:
    """Let threads that are started from now on share two arenas."""
    call_c("mallopt", ARENA_MAX, ARENAS)


def releasing(pixels: int, question: Callable[[], Answer]) -> Callable[[], Answer]:
    """A question that gives memory back if an image that it decodes is large.

    Args:
        pixels: of its largest image.
        question: what is asked.
    """
    if pixels < LARGE:
        return question

    def asked() -> Answer:
        try:
            return question()
        finally:
            release_memory()

    return asked
