"""A process that ends when the process that started it is gone, however that ended."""

import os
import signal
import threading
import time

EVERY = 0.5
"""Seconds between two looks."""
GRACE = 10.0
"""Seconds in which a process that is asked to end may do so by itself."""


def end_with_parent(parent: int) -> None:
    """End this process when its parent is gone: asked by SIGTERM first, killed after `GRACE`.

    Args:
        parent: its process id; if it is gone already, the end begins at once.
    """
    threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    # An orphan gets another parent.
    while os.getppid() == parent:
        time.sleep(EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
