"""The stages of extraction, and the seconds that each of them is busy."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

STAGES = ("read", "decode", "forward", "write")


class StageClock:
    """Seconds that each stage was busy, summed over its threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Count the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start


def bound_by(seconds: Mapping[str, float]) -> str:
    """Which stage was busiest: ``decode bound: 3.1 of 3.7 s``."""
    stage = max(seconds, key=lambda name: seconds[name])
    return f"{stage} bound: {seconds[stage]:.1f} of {sum(seconds.values()):.1f} s"
