"""What a reader of stored features must know: images left out, unusual taps, a wrong input."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SELF_CHECK = "self_check"
"""Attribute of a group that holds the fields of its last `SelfCheck`."""
SOURCE_NOTES = "source_notes"
"""Attribute of a group: what its source took the images for, and what it left out. The store reads
it by the same name in `extract/store/upkeep.py`, which may not import this."""


@dataclass(frozen=True)
class SelfCheck:
    """Whether the preprocessing of a set of images looked right.

    Attributes:
        images: usable images when it was judged, 0 if it never was.
        top1: share of labelled images that were classified correctly then.
        warning: what looks wrong, or None.
    """

    images: int = 0
    top1: float = 0.0
    warning: str | None = None

    @staticmethod
    def stored(attrs: Mapping[str, Any]) -> "SelfCheck":
        """The last check of a group, from its attributes."""
        return SelfCheck(**attrs.get(SELF_CHECK, {}))


def stored_warning(attrs: Mapping[str, Any]) -> str | None:
    """The warning of a group's last self-check."""
    return SelfCheck.stored(attrs).warning


def source_notes(attrs: Mapping[str, Any]) -> list[str]:
    """What the source of a group's images left out and guessed, a line each."""
    return list(attrs.get(SOURCE_NOTES, ()))


def tap_notes(attrs: Mapping[str, Any]) -> list[str]:
    """What is unusual about the taps of a group: ``name: note``."""
    return [f"{name}: {note}" for name, note in attrs.get("tap_notes", {}).items()]
