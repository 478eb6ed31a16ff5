"""What an extraction noted of itself, read from the attributes of its group; loads no torch."""

from collections.abc import Mapping
from typing import Any


def stored_warning(attrs: Mapping[str, Any]) -> str | None:
    """The warning that `self_check` kept in the attributes of a group."""
    warning: str | None = attrs.get("self_check", {}).get("warning")
    return warning


def tap_notes(attrs: Mapping[str, Any]) -> list[str]:
    """What is unusual about the taps of a group: ``name: note``."""
    return [f"{name}: {note}" for name, note in attrs.get("tap_notes", {}).items()]
