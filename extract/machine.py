"""What this machine lets a process use."""

import ctypes
import os


def usable_cores() -> int:
    """Cores that this process may use: its affinity, if the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def release_memory() -> None:
    """Give the system all memory that the C library holds after it was freed.

    It takes a millisecond or some. Only glibc can: elsewhere nothing is done.
    """
    call_c("malloc_trim", 0)


def call_c(name: str, *numbers: int) -> None:
    """Call a function of the C library, if it has it."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    # Windows names no library by None.
    except (AttributeError, OSError, TypeError):
        return
    function(*numbers)
