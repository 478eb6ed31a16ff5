"""What public functions are given: refused if it is of another kind, and made plain Python.

A checked function reads its own annotations at its first call. `NAMES` has stand-ins for what they
name to type checkers alone, so nothing is imported for them.
"""

import inspect
import operator
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from math import inf
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from alike.extract.errors import BadInput
from alike.extract.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])
Range = tuple[float, float | None]
Names = str | Sequence[str]
"""Names as a list, or in one text with commas between."""
QUERIES = "files, URLs, bytes of image files, numbers of stored rows, or an array of vectors"
"""What may be asked about."""
SECRET = ("token",)
"""Arguments whose values no message shows."""
SHOWN = 80
"""Most characters of a value in a message."""


class OtherKind(Exception):
    """A value is of another kind.

    Args:
        expected: in words, if the kind's own do not say it.
    """

    def __init__(self, expected: str = "") -> None:
        super().__init__(expected)
        self.expected = expected


@dataclass(frozen=True)
class Kind:
    """What an annotation means.

    Attributes:
        one: a value of it, in words.
        many: several, in words.
        take: gives such a value as plain Python, and raises `OtherKind` for any other.
    """

    one: str
    many: str
    take: Callable[[Any], Any]


class StoreStandIn:
    """In place of `Store`, which is imported where there is one."""


def _none(value: Any) -> None:
    if value is not None:
        raise OtherKind


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise OtherKind
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise OtherKind
    try:
        return operator.index(value)
    except TypeError:
        raise OtherKind from None


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OtherKind
    if value != value:
        raise OtherKind("a number other than NaN")
    return int(value) if isinstance(value, Integral) else float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise OtherKind
    if "\0" in value:
        raise OtherKind("a text without a zero byte")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise OtherKind
    return bytes(value)


def _path(value: Any) -> Path:
    if not isinstance(value, os.PathLike):
        raise OtherKind
    place = value if isinstance(value, Path) else os.fspath(value)
    if isinstance(place, bytes):
        raise OtherKind
    _text(str(place))
    return Path(place)


def _function(value: Any) -> Any:
    if not callable(value):
        raise OtherKind
    return value


def _store(value: Any) -> Any:
    module = sys.modules.get("alike.extract.store.store")
    if module is None or not isinstance(value, module.Store):
        raise OtherKind
    return value


def plain(value: Any) -> Any:
    """A value with numpy's scalars as Python's, also inside of lists and dictionaries."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {plain(name): plain(one) for name, one in value.items()}
    return value


KINDS: Mapping[Any, Kind] = {
    NoneType: Kind("None", "None", _none),
    bool: Kind("True or False", "True or False", _truth),
    int: Kind("a whole number", "whole numbers", _whole),
    float: Kind("a number", "numbers", _number),
    str: Kind("a text", "texts", _text),
    bytes: Kind("bytes", "bytes", _bytes),
    Path: Kind("a path", "paths", _path),
    Progress: Kind("a function", "functions", _function),
    StoreStandIn: Kind("an open store", "open stores", _store),
    Any: Kind("anything", "anything", lambda value: value),
}
NAMES: Mapping[str, Any] = {
    "Store": StoreStandIn,
    "Place": str | Path | StoreStandIn,
    "Query": str | Path | bytes | int,
}
"""What annotations name for type checkers alone."""


def kind_of(annotation: Any) -> Kind:
    """The kind that an annotation means.

    Raises:
        TypeError: none is known: add it to `KINDS`, or to `NAMES`.

    Example:
        >>> kind_of(str | Sequence[str]).one
        'a text or a list of texts'
    """
    if annotation in KINDS:
        return KINDS[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return _either([kind_of(part) for part in parts])
    if origin is Literal:
        return _one_of(parts)
    if origin in (Sequence, Iterable):
        return _list_of(kind_of(parts[0]))
    if origin is Mapping:
        return _names_of(kind_of(parts[1]))
    raise TypeError(f"no kind of argument is known for the annotation {annotation!r}")


def _either(kinds: Sequence[Kind]) -> Kind:
    places = KINDS[Path] in kinds

    def take(value: Any) -> Any:
        expected = ""
        if places and isinstance(value, str) and not value:
            # It would be the folder that the process is in.
            raise OtherKind("a place that is not empty")
        for kind in kinds:
            try:
                return kind.take(value)
            except OtherKind as other:
                expected = expected or other.expected
        raise OtherKind(expected)

    return Kind(_listed([kind.one for kind in kinds]), _listed([kind.many for kind in kinds]), take)


def _one_of(values: Sequence[Any]) -> Kind:
    def take(value: Any) -> Any:
        for one in values:
            if type(one) is type(value) and one == value:
                return one
        raise OtherKind

    words = _listed([str(value) for value in values])
    return Kind(words, words, take)


def _list_of(kind: Kind) -> Kind:
    def take(value: Any) -> Any:
        # A text is a sequence of texts, bytes are one of numbers, a table one of its columns.
        single = (str, bytes, bytearray, memoryview, Mapping)
        if isinstance(value, single) or hasattr(value, "columns"):
            raise OtherKind
        try:
            values = list(value)
        except TypeError:
            raise OtherKind from None
        return [kind.take(plain(one)) for one in values]

    words = f"a list of {kind.many}"
    return Kind(words, words.replace("a list", "lists"), take)


def _names_of(kind: Kind) -> Kind:
    def take(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise OtherKind
        return {_text(plain(name)): kind.take(plain(one)) for name, one in value.items()}

    return Kind("a dictionary with texts as keys", "dictionaries", take)


def _listed(words: Sequence[str]) -> str:
    """Words with commas and a last "or"."""
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def checked(function: Function) -> Function:
    """A public function that takes what its annotations name, and refuses all else.

    Numbers, truth values and texts of numpy become Python's.

    Raises:
        BadInput: names the argument, its value and what is expected.
    """
    return checked_with()(function)


def checked_with(*own: str, **ranges: Range) -> Callable[[Function], Function]:
    """As `checked`, with more to say of some arguments.

    Args:
        own: that the function checks itself.
        ranges: smallest and largest number of an argument; None: any finite one.
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def checking(*args: Any, **named: Any) -> Any:
            signature, takers = _parameters(function, own, tuple(ranges.items()))
            try:
                bound = signature.bind(*args, **named)
            except TypeError:
                # The function itself says best which argument is missing, or one too many.
                return function(*args, **named)
            for name, value in bound.arguments.items():
                if name in takers:
                    bound.arguments[name] = takers[name](name, value)
            return function(*bound.args, **bound.kwargs)

        return cast(Function, checking)

    return decorate


@cache
def _parameters(
    function: Callable[..., Any], own: tuple[str, ...], ranges: tuple[tuple[str, Range], ...]
) -> tuple[Any, Mapping[str, Callable[[str, Any], Any]]]:
    """The signature of a function, and what takes each of its arguments by name and value."""
    signature = inspect.signature(function)
    takers: dict[str, Callable[[str, Any], Any]] = {}
    within = dict(ranges)
    for name, parameter in signature.parameters.items():
        if parameter.annotation is parameter.empty or name in own:
            continue
        kind = kind_of(annotated(function, parameter.annotation))
        if name in within:
            kind = _within(kind, *within[name])
        takers[name] = _taker(kind, parameter.kind.name)
    return signature, takers


def annotated(function: Callable[..., Any], annotation: Any) -> Any:
    """What an annotation of a function means, also one in quotes."""
    if not isinstance(annotation, str):
        return annotation
    return eval(annotation, {**function.__globals__, **NAMES})


def _within(kind: Kind, low: float, high: float | None) -> Kind:
    """A number within a range, and what else there is of the kind, such as None."""
    span = f"from {low} on" if high is None else f"from {low} to {high}"
    words = kind.one.replace("number", f"number {span}")

    def take(value: Any) -> Any:
        number = kind.take(value)
        if number is None or (low <= number <= (inf if high is None else high) and number < inf):
            return number
        raise OtherKind(words)

    return Kind(words, kind.many, take)


def _taker(kind: Kind, form: str) -> Callable[[str, Any], Any]:
    def each(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(taken(name, value, kind) for value in values)

    def named(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {one: taken(one, value, kind) for one, value in values.items()}

    if form == "VAR_POSITIONAL":
        return each
    if form == "VAR_KEYWORD":
        return named
    return lambda name, value: taken(name, value, kind)


def taken(name: str, value: Any, kind: Kind) -> Any:
    """The value of an argument as plain Python.

    Raises:
        BadInput: it is of another kind.
    """
    try:
        return kind.take(plain(value))
    except OtherKind as other:
        expected = other.expected or kind.one
        raise BadInput(f"{name} {_shown(name, value)}: {expected} expected") from None


def _shown(name: str, value: Any) -> str:
    """A value in a message: one line, not long, and no secret."""
    if name in SECRET:
        return f"of the type {type(value).__name__}"
    # Not the text of all the bytes of an image file.
    part = value[:SHOWN] if isinstance(value, str | bytes) else value
    text = " ".join(repr(part).split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def each_name(given: Names) -> tuple[str, ...]:
    """Names of a list, or of a text with commas between.

    Example:
        >>> each_name("cat, dog")
        ('cat', 'dog')
    """
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(name for name in map(str.strip, parts) if name)


def as_vectors(images: Any) -> "NDArray[np.floating[Any]] | None":
    """Vectors that are asked about, as one array; None: images are.

    A torch tensor of any device and a table of numbers count as the array that they hold, and so
    does a list of vectors.

    Raises:
        BadInput: vectors of several lengths in one list.
    """
    import numpy as np

    if isinstance(images, list | tuple) and images:
        rows = [_array_of(one) for one in images]
        vectors = [row for row in rows if row is not None and row.ndim == 1]
        if len(vectors) < len(images):
            return None
        lengths = sorted({len(vector) for vector in vectors})
        if len(lengths) > 1:
            raise BadInput(
                f"vectors of {lengths[0]} and of {lengths[-1]} numbers: expected one length"
            )
        return np.stack(vectors)
    return _array_of(images)


def _array_of(value: Any) -> "NDArray[np.floating[Any]] | None":
    import numpy as np

    if hasattr(value, "detach") and hasattr(value, "is_floating_point"):
        # numpy has no bfloat16, and holds nothing of another device.
        value = value.detach().cpu()
        value = value.double().numpy() if value.is_floating_point() else None
    elif hasattr(value, "columns") and hasattr(value, "to_numpy"):
        value = value.to_numpy()
    elif type(value) in (list, tuple) and value and all(isinstance(one, float) for one in value):
        value = np.array(value)
    return value if isinstance(value, np.ndarray) and value.dtype.kind == "f" else None


def each_query(images: Any) -> list[str | Path | bytes | int]:
    """What is asked about, one image or several, as a list of plain Python.

    Raises:
        BadInput: something else than an image.
    """
    single = (str, os.PathLike, bytes, bytearray, memoryview)
    if isinstance(images, single) or _is_whole(images):
        return [_query(images)]
    if isinstance(images, Mapping) or hasattr(images, "columns"):
        raise BadInput(f"images of the type {type(images).__name__}: {QUERIES} expected")
    try:
        each = list(images)
    except TypeError:
        raise BadInput(f"images {_shown('images', images)}: {QUERIES} expected") from None
    return [_query(one) for one in each]


def _is_whole(value: Any) -> bool:
    try:
        _whole(plain(value))
    except OtherKind:
        return False
    return True


def _query(image: Any) -> str | Path | bytes | int:
    kind = kind_of(NAMES["Query"])
    try:
        query: str | Path | bytes | int = kind.take(plain(image))
    except OtherKind as other:
        what = other.expected or QUERIES
        raise BadInput(f"an image of the type {type(image).__name__}: {what} expected") from None
    return query
