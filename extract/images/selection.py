"""Some images of a set: those of one subset, or of some classes; in a source and in a store."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alike.extract.errors import BadInput
from alike.extract.images.source import ImageSource, Listed, Stamp, notes_of, read_anew, read_with

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FIELDS = ("subset", "label")


@dataclass(frozen=True)
class Where:
    """A field of which images have one of some values.

    Attributes:
        field: one of `FIELDS`: a column of the listing.
        values: that are wanted.

    Example:
        >>> Where.parse("subset=train,val")
        Where(field='subset', values=('train', 'val'))
    """

    field: str
    values: tuple[str, ...]

    @staticmethod
    def parse(text: str) -> "Where":
        """From ``subset=val``, ``subset=train,val`` or ``label=cat``.

        Raises:
            BadInput: another field, or no value.
        """
        field, _, values = text.partition("=")
        names = tuple(name for name in values.split(",") if name)
        if field not in FIELDS or not names:
            raise BadInput(f"--where {text!r}: expected subset=NAME or label=NAME")
        return Where(field, names)

    def check(self, names: Iterable[str | None], place: str) -> None:
        """Refuse a value that no image has.

        Args:
            names: values of the field that images have.
            place: that holds them, for the message.

        Raises:
            BadInput: names the values that there are.
        """
        present = {name for name in names if name}
        unknown = sorted(set(self.values) - present)
        if unknown:
            some = sorted(present)
            listed = ", ".join(some[:20]) + (" …" if len(some) > 20 else "")
            raise BadInput(
                f"{place} has no {self.field} {', '.join(unknown)}; it has {listed or 'none'}"
            )

    def mask(self, table: "pd.DataFrame") -> "np.ndarray":
        """Which lines of a table of images are wanted, (N,) bool."""
        mask: np.ndarray = table[self.field].isin(self.values).to_numpy(dtype=bool)
        return mask


class Selection:
    """The images of a source of which a field has one of some values.

    Args:
        source: all images.
        where: as `Where.parse` takes it.

    Raises:
        BadInput: another field, or no value.
    """

    def __init__(self, source: ImageSource, where: str) -> None:
        self._where = Where.parse(where)
        self.spec = source.spec
        self.options: dict[str, Any] = {**source.options, "where": where}
        self._source = source

    def __iter__(self) -> Iterator[Listed]:
        """As the source lists them."""
        names: set[str | None] = set()
        for one in self._source:
            value = getattr(one, self._where.field)
            names.add(value)
            if value in self._where.values:
                yield one
        self._where.check(names, self.spec)

    @property
    def notes(self) -> list[str]:
        """Those of the source."""
        return notes_of(self._source)

    def read(self, path: str) -> bytes:
        """As the source reads it."""
        return self._source.read(path)

    def together(self, path: str) -> str:
        """As the source has it."""
        return read_with(self._source)(path)

    def read_anew(self) -> None:
        """As the source has it."""
        read_anew(self._source)

    def stamp(self, path: str) -> Stamp | None:
        """As the source has it."""
        ask = getattr(self._source, "stamp", None)
        stamp: Stamp | None = ask(path) if ask is not None else None
        return stamp
