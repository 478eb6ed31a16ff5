"""From what a source says of an image to names of its class, group and subset: one rule for all."""

import ast
import datetime
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
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
LONGEST = 120
"""Characters of a value in a message."""
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
        names: of integer labels and booleans, in order.

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
        self._numbers: dict[str, set[int]] = {}

    def __call__(self, value: Any) -> str | None:
        """The class that a value of a label column names; None for no label.

        Raises:
            BadInput: several labels, a mapping, no UTF-8, a number without name, or what names
                nothing, such as a complex number.
        """
        value = _plain(value)
        if isinstance(value, list | tuple | set | frozenset):
            return self._one_of(list(value))
        if isinstance(value, Mapping):
            raise BadInput(
                f"{self.spec}: label {excerpt(value)} is a mapping, not a class: {NAME_ONE}"
            )
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool) and not self.names:
            return "true" if value else "false"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int | float) and self.names:
            return self._named(value)
        return self._text(value)

    def folder(self, name: str) -> str:
        """The class that a folder names: the name is not parsed.

        Raises:
            BadInput: half a surrogate pair, which no file can hold.
        """
        check_text(name, self.spec, "label")
        label = unicodedata.normalize("NFC", name)
        self._written.setdefault(label, set()).add(name)
        return label

    def _one_of(self, values: list[Any]) -> str | None:
        if len(values) > 1 and not self.first:
            raise BadInput(f"{self.spec}: an image with the labels {excerpt(values)}: {WAY_OUT}")
        return self(values[0]) if values else None

    def _named(self, number: float) -> str | None:
        names = self.names or ()
        # -1 is what `datasets` writes for a row without label.
        if number == -1:
            return None
        if number not in range(len(names)):
            raise BadInput(
                f"{self.spec}: label {number}, but there are {len(names)} classes: give all names, "
                "or leave them out"
            )
        name = str(names[int(number)])
        # As elsewhere, empty text is no label.
        if not name.strip():
            return None
        label = self.folder(name)
        self._numbers.setdefault(label, set()).add(int(number))
        return label

    def _text(self, value: Any) -> str | None:
        text = text_of(value, self.spec, "label").strip()
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
        several = {label: sorted(n) for label, n in sorted(self._numbers.items()) if len(n) > 1}
        if several:
            some = "; ".join(
                f"{label} ({', '.join(map(str, numbers))})"
                for label, numbers in list(several.items())[:SHOWN]
            )
            lines.append(
                f"{len(several)} class name(s) stand for several numbers, and each is one class: "
                f"{some}{' …' if len(several) > SHOWN else ''}"
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


def shared_name(value: Any, spec: str, what: str) -> str | None:
    """The name of a group or subset in a cell of a table, by the rule of labels.

    Args:
        value: of the cell. None, NaN and empty text are none; 3, 3.0 and "3.0" are one name.
        spec: of the source, for messages.
        what: ``group`` or ``subset``, for messages.

    Raises:
        BadInput: a list, a mapping, no UTF-8, or what names nothing.

    Example:
        >>> [shared_name(value, "set.csv", "group") for value in (3.0, " a", "", float("nan"))]
        ['3', 'a', None, None]
    """
    value = _plain(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    text = text_of(value, spec, what).strip()
    if not text or text in _NAN:
        return None
    whole = _WHOLE.fullmatch(text)
    text = whole[1] if whole else {"True": "true", "False": "false"}.get(text, text)
    check_text(text, spec, what)
    return unicodedata.normalize("NFC", text)


_NAMES = (str, int, float, Decimal, datetime.date, datetime.time, datetime.timedelta)


def text_of(value: Any, spec: str, what: str) -> str:
    """A value of a table's cell as text.

    Args:
        value: of the cell.
        spec: of the source, for messages.
        what: the value is, for messages.

    Raises:
        BadInput: bytes that are no UTF-8, or what is no text, number or time.
    """
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise BadInput(
                f"{spec}: {what} {excerpt(value)} is not UTF-8: write the {what}s as UTF-8"
            ) from error
    if not isinstance(value, _NAMES):
        raise BadInput(
            f"{spec}: {what} {excerpt(value)} is of the type {type(value).__name__}: a text or a "
            f"number is expected; name another column, or write the {what}s as texts"
        )
    return str(value)


def check_text(name: str, spec: str, what: str) -> None:
    """Refuse a name with half a surrogate pair or a zero byte, which not every file can hold.

    Raises:
        BadInput: it has one.
    """
    if "\0" in name:
        raise BadInput(
            f"{spec}: {what} {excerpt(name)} holds a zero byte: write the {what}s as text"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadInput(
            f"{spec}: {what} {excerpt(name)} holds half a character: write the {what}s as UTF-8"
        ) from None


def excerpt(value: object) -> str:
    """A value for a message of one line: its beginning, if it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"


def _plain(value: Any) -> Any:
    """A value of NumPy as one of Python; times by their text, for some would be mere numbers."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else str(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype in (np.float16, np.float32):
        # By the digits that tell it from its neighbours: 0.1 is 0.1 in a table of any type.
        value = np.asarray(value, dtype=str).astype(np.float64)[()]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
