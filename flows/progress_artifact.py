"""The progress of a step as a Prefect artifact, written by a thread: no step waits for a server."""

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from alike.extract.progress import Progress

if TYPE_CHECKING:
    from uuid import UUID

FIRST = 2.0
"""Seconds that a step must last to be shown."""
EVERY = 5.0
"""Seconds between two updates."""
LONGEST = 10.0
"""Seconds that the end of a step may wait for the last one."""


class _Shown:
    """The last state of a step, and the artifact that shows it."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._state: tuple[float, str] = (0.0, "")
        self._written: tuple[float, str] | None = None
        self._id: UUID | None = None
        self._ended = threading.Event()

    def note(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Take down how far a stage is."""
        more = f", {note}" if note else ""
        self._state = (100.0 * min(done / total, 1.0), f"{stage}: {done} of {total}{more}")

    def watch(self) -> None:
        """Write the state now and then until the step ends, and then once more."""
        pause = FIRST
        while not self._ended.wait(pause):
            self._write()
            pause = EVERY
        if self._id is not None:
            self._write()

    def end(self, thread: threading.Thread) -> None:
        """End the thread; a server that does not answer is not waited for."""
        self._ended.set()
        thread.join(LONGEST)

    def _write(self) -> None:
        state = self._state
        if state == self._written or not state[1]:
            return
        try:
            if self._id is None:
                self._id = cast("UUID", create_progress_artifact(state[0], self._key, state[1]))
            else:
                update_progress_artifact(self._id, state[0], state[1])
        except Exception as error:
            # The step goes on; so does this, for the server may come back.
            get_run_logger().warning(f"progress is not shown: {type(error).__name__}")
        else:
            self._written = state


@contextmanager
def progress_artifact(key: str) -> Iterator[Progress]:
    """Show what is reported inside as an artifact of the task that runs.

    Args:
        key: of the artifact.

    Yields:
        A progress to report to, which returns at once.
    """
    shown = _Shown(key)
    # A thread has no context of its own, and the artifact belongs to this run.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(shown.watch,), daemon=True)
    thread.start()
    try:
        yield shown.note
    finally:
        shown.end(thread)
