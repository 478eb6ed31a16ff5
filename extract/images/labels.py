"""From what a source says of an image to the name of its class: one rule for every source."""

import ast
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alike.extract.errors import BadInput

_WHOLE = re.compile(r"([+-]?\d+)\.0+")
_NAN = ("nan", "NaN")
_SEPARATOR = "|"
_BRACKETS = (("[", "]"), ("(", ")"), ("{", "}"))
_NUMBERS = re.compile(r"\[\s*[-+.\d]+(\s+[-+.\d]+)+\s*\]")
_BETWEEN = re.compile(r"(?<=['\"])\s+(?=['\"])")
SHOWN = 5
NAME_ONE = "name a column of one class by --label-column"
WAY_OUT = f"{NAME_ONE}, or take the first of several by --first-label"


def written_out(text: str) -> list[Any] | tuple[Any, ...] | set[Any] | dict[Any, Any] | None:
    """The list or mapping that a text shows as Python, JSON or NumPy print it, None for any other.

    Example:
        >>> written_out("[3, 1]"), written_out("['cat' 'dog']"), written_out("[a breed]")
        ([3, 1], ['cat', 'dog'], None)
    """
    if (text[:1], text[-1:]) not in _BRACKETS:
        return None
    # NumPy prints blanks between values.
    numbers = _NUMBERS.fullmatch(text)
    shown = f"[{','.join(text[1:-1].split())}]" if numbers else _BETWEEN.sub(",", text)
    for read in (ast.literal_eval, json.loads):
        try:
            value = read(shown)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list | tuple | set | dict) else None
    return None


class LabelRule:
    """Names classes.

    A whole number is one name, whether it comes as 3, 3.0 or "3.0"; booleans are ``true`` and
    ``false``; None, empty text and NaN are no label. Several labels of one image are refused
    unless `first` says what to do with them; a list that a table holds as text (``"[3, 1]"``) is
    a list. Names are in Unicode's form NFC, so that names that look the same are one class.

    Args:
        spec: of the source, for messages.
        first: True takes the first of several labels; False keeps a text such as ``cat|animal`` or
            ``[3, 1]`` as one name; None refuses both.
        names: of integer labels, in order.

    Example:
        >>> rule = LabelRule("set.csv")
        >>> [rule(value) for value in (3, 3.0, "3.0", True, "", float("nan"), "03", [7])]
        ['3', '3', '3', 'true', None, None, '03', '7']
    """

    def __init__(
        self, spec: str, first: bool | None = None, names: Sequence[str] | None = None
    ) -> None:
        if first is not None and not isinstance(first, bool):
            raise BadInput(f"option first_label {first!r}: expected true or false")
        self.spec, self.first, self.names = spec, first, names
        self._written: dict[str, set[str]] = {}

    def __call__(self, value: Any) -> str | None:
        """The class that a value of a label column names; None for no label.

        Raises:
            BadInput: several labels, a mapping, no UTF-8, or a number without name.
        """
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        if isinstance(value, list | tuple | set | frozenset):
            return self._one_of(list(value))
        if isinstance(value, Mapping):
            raise BadInput(f"{self.spec}: label {value!r} is a mapping, not a class: {NAME_ONE}")
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and self.names:
            return self._named(value)
        return self._text(value)

    def folder(self, name: str) -> str:
        """The class that a folder names: the name is not parsed.

        Raises:
            BadInput: half a surrogate pair, which no file can hold.
        """
        if not _is_text(name):
            raise BadInput(
                f"{self.spec}: label {name!r} holds half a character: write the labels as UTF-8"
            )
        label = unicodedata.normalize("NFC", name)
        self._written.setdefault(label, set()).add(name)
        return label

    def _one_of(self, values: list[Any]) -> str | None:
        if len(values) > 1 and not self.first:
            raise BadInput(f"{self.spec}: an image with the labels {values!r}: {WAY_OUT}")
        return self(values[0]) if values else None

    def _named(self, number: int) -> str | None:
        names = self.names or ()
        # -1 is what `datasets` writes for a row without label.
        if number == -1:
            return None
        if not 0 <= number < len(names):
            raise BadInput(
                f"{self.spec}: label {number}, but there are {len(names)} classes: give all names, "
                "or leave them out"
            )
        return self.folder(str(names[number]))

    def _text(self, value: Any) -> str | None:
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                raise BadInput(
                    f"{self.spec}: label {value!r} is not UTF-8: write the labels as UTF-8"
                ) from error
        text = str(value).strip()
        if not text or text in _NAN:
            return None
        if self.first is not False:
            value = written_out(text)
            if value is not None:
                return self(value)
            if _SEPARATOR in text:
                return self._one_of(text.split(_SEPARATOR))
        whole = _WHOLE.fullmatch(text)
        text = whole[1] if whole else {"True": "true", "False": "false"}.get(text, text)
        return self.folder(text)

    @property
    def notes(self) -> list[str]:
        """Classes whose name was written in several ways, and classes that look like one."""
        doubles = sorted(label for label, names in self._written.items() if len(names) > 1)
        lines = []
        if doubles:
            lines.append(
                f"{len(doubles)} class name(s) in two forms of Unicode are one class each: "
                f"{', '.join(doubles)}"
            )
        alike: dict[str, list[str]] = {}
        for label in sorted(self._written):
            alike.setdefault("".join(label.casefold().split()), []).append(label)
        groups = [names for names in alike.values() if len(names) > 1]
        if groups:
            some = "; ".join(", ".join(map(repr, names)) for names in groups[:SHOWN])
            lines.append(
                f"{sum(map(len, groups))} classes differ from another only in case or blanks, and "
                f"stay apart: {some}{' …' if len(groups) > SHOWN else ''}"
            )
        return lines


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
