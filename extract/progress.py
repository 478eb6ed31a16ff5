"""How long steps tell how far they are, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called now and then by a long step; must return at once."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report `done` of `total` units of `stage`, with an optional short note.

        A total of 0: the note is a sentence to read before the stage begins.
        """


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report to nobody."""
