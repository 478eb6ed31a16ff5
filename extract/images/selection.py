"""Some images of a source: those of one subset, or of some classes."""

from collections.abc import Iterator
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.images.source import ImageSource, Listed, Stamp, notes_of

FIELDS = ("subset", "label")


class Selection:
    """The images of a source of which a field has one of some values.

    Args:
        source: all images.
        where: ``subset=val``, ``subset=train,val`` or ``label=cat``.

    Raises:
        BadInput: another field, or no value.
    """

    def __init__(self, source: ImageSource, where: str) -> None:
        field, _, values = where.partition("=")
        if field not in FIELDS or not values:
            raise BadInput(f"--where {where!r}: expected subset=NAME or label=NAME")
        self.spec = source.spec
        self.options: dict[str, Any] = {**source.options, "where": where}
        self._source, self._field, self._values = source, field, frozenset(values.split(","))

    def __iter__(self) -> Iterator[Listed]:
        """As the source lists them."""
        names: set[str] = set()
        for one in self._source:
            value = getattr(one, self._field)
            names |= {value} if value else set()
            if value in self._values:
                yield one
        unknown = sorted(self._values - names)
        if unknown:
            listed = ", ".join(sorted(names)[:20]) or "none"
            raise BadInput(
                f"{self.spec} has no {self._field} {', '.join(unknown)}; it has {listed}"
            )

    @property
    def notes(self) -> list[str]:
        """Those of the source."""
        return notes_of(self._source)

    def read(self, path: str) -> bytes:
        """As the source reads it."""
        return self._source.read(path)

    def stamp(self, path: str) -> Stamp | None:
        """As the source has it."""
        ask = getattr(self._source, "stamp", None)
        stamp: Stamp | None = ask(path) if ask is not None else None
        return stamp
