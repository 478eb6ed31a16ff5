"""What this machine lets a process use."""

import os


def usable_cores() -> int:
    """Cores that this process may use: its affinity, if the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
