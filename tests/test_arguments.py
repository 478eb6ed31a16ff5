"""Wrong kinds of arguments are refused by name, whichever public function is given them."""

import inspect
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pytest

import alike
from alike import api
from alike.arguments import OtherKind, annotated, checked, each_name, each_query, kind_of
from alike.client import Client
from alike.extract.errors import BadInput
from alike.results import ReportFile

PUBLIC = [one for name in alike.__all__ if inspect.isfunction(one := vars(api).get(name))]
ASKING = [one for name, one in vars(Client).items() if inspect.isfunction(one) and name[0] != "_"]
OWN = {(api.neighbours, "images"), (api.explain, "images"), (Client.neighbours, "images")}
"""Arguments that a function checks itself, in words of its own."""
RIGHT = ("twins", 1, 0.5, True, [])
"""One of these is of the kind of every argument that has no default."""


def given(function, name, value):
    """A function called with one value by name; whatever else it needs is of the right kind."""
    named = {}
    for one in inspect.signature(function).parameters.values():
        if one.name == "self":
            named[one.name] = SimpleNamespace()
        elif one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD:
            named[one.name] = next(each for each in RIGHT if takes(function, one, each))
    return function(**{**named, name: value})


def takes(function, parameter, value):
    if (function, parameter.name) in OWN:
        return True
    try:
        kind_of(annotated(function, parameter.annotation)).take(value)
    except OtherKind:
        return False
    return True


def takes_none(parameter):
    return type(None) in get_args(parameter.annotation)


def arguments(function):
    return [
        one
        for one in inspect.signature(function).parameters.values()
        if one.name != "self"
        and one.kind is not one.VAR_POSITIONAL
        and one.annotation is not Any
        and (function, one.name) not in OWN
    ]


@pytest.mark.quick
@pytest.mark.parametrize("function", [*PUBLIC, *ASKING], ids=lambda one: one.__qualname__)
def test_every_argument_of_another_kind_is_named(function):
    """Before anything is done: there is no store `twins`, and no server."""
    for one in arguments(function):
        with pytest.raises(BadInput, match=rf"^{one.name} (<obj|of the type).* expected$"):
            given(function, one.name, object())
        if not ("None" in one.annotation if type(one.annotation) is str else takes_none(one)):
            with pytest.raises(BadInput, match=rf"^{one.name} (None|of the type NoneType): "):
                given(function, one.name, None)


@pytest.mark.quick
def test_every_public_function_is_checked():
    assert len(PUBLIC) >= 14
    assert len(ASKING) >= 25
    for function in (*PUBLIC, *ASKING):
        assert inspect.unwrap(function) is not function, function.__qualname__
        assert function.__doc__


@pytest.mark.quick
@pytest.mark.parametrize(
    ("function", "named", "line"),
    [
        (alike.export, {"to": 3}, "to 3: a text or a path expected"),
        (alike.export, {"arrays": 3}, "arrays 3: a text or a list of texts expected"),
        (alike.export, {"arrays": [3]}, "arrays [3]: a text or a list of texts expected"),
        (alike.export, {"arrays": b"gap"}, "arrays b'gap': a text or a list of texts expected"),
        (alike.export, {"measure": None}, "measure None: a text expected"),
        (alike.export, {"split": "test"}, "split 'test': held_out, validation, train or all exp"),
        (alike.export, {"progress": 3}, "progress 3: a function expected"),
        (alike.export, {"maps": "no"}, "maps 'no': True or False expected"),
        (alike.export, {"store": 3}, "store 3: a text, a path or an open store expected"),
        (alike.export, {"to": "a\0b"}, r"to 'a\x00b': a text without a zero byte expected"),
        (alike.neighbours, {"among": 3}, "among 3: a text, a list of texts or None expected"),
        (alike.neighbours, {"k": "3"}, "k '3': a whole number from 1 on expected"),
        (alike.neighbours, {"k": True}, "k True: a whole number from 1 on expected"),
        (alike.explain, {"target": 1.5}, "target 1.5: a text, a whole number or None expected"),
        (alike.analyse, {"budget": float("nan")}, "budget nan: a number other than NaN expected"),
        (alike.retrain, {"classes": "cat"}, "classes 'cat': a list of texts or None expected"),
        (alike.retrain, {"network_arg": [1]}, "network_arg [1]: a dictionary with texts as keys"),
        (alike.analyse, {"budget": float("inf")}, "budget inf: a number from 1 on expected"),
        (alike.extract_images, {"store": ""}, "store '': a place that is not empty expected"),
        (alike.extract_images, {"threads": 0}, "threads 0: a whole number from 1 on or None exp"),
        (alike.extract_images, {"seed": 2**63}, "seed 9223372036854775808: a whole number from 0 "),
        (alike.connect, {"token": b"secret"}, "token of the type bytes: a text expected"),
        (Client.typical, {"distances": 0.5}, "distances 0.5: a list of numbers expected"),
        (Client.thumbnail, {"side": 100}, "side 100: 96, 192, 384 or 768 expected"),
        (Client.tag, {"images": "12"}, "images '12': a list of whole numbers or texts expected"),
    ],
)
def test_what_was_an_error_deep_inside(function, named, line):
    ((name, value),) = named.items()
    with pytest.raises(BadInput) as refused:
        given(function, name, value)
    assert str(refused.value).startswith(line)


class Opened:
    """A place that is no `Path`."""

    def __fspath__(self):
        return "a/b"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("annotation", "value", "plain"),
    [
        (int, np.int64(3), 3),
        (int, np.uint8(3), 3),
        (int, np.array(3), 3),
        (float, np.float32(0.5), 0.5),
        (float, np.int16(2), 2),
        (float, 900, 900),
        (float, float("inf"), float("inf")),
        (bool, np.True_, True),
        (str, np.str_("cat"), "cat"),
        (str | int | None, np.int64(3), 3),
        (str | Path, Opened(), Path("a/b")),
        (str | Path, ReportFile(Path("r.html"), "key"), Path("r.html")),
        (bytes, bytearray(b"x"), b"x"),
        (bytes, memoryview(b"x"), b"x"),
        (str | Sequence[str], ("cat", "dog"), ["cat", "dog"]),
        (str | Sequence[str], np.array(["cat", "dog"]), ["cat", "dog"]),
        (Sequence[str], pd.Index(["cat"]), ["cat"]),
        (Iterable[int], (one for one in np.arange(2)), [0, 1]),
        (Iterable[float], pd.Series([0.5]), [0.5]),
        (Mapping[str, Any], {"a": np.int64(3), "b": [np.float64(0.5)]}, {"a": 3, "b": [0.5]}),
        (Literal["a", "b"], np.str_("b"), "b"),
        (Literal[96, 192], np.int64(96), 96),
    ],
)
def test_what_is_taken_becomes_plain_python(annotation, value, plain):
    @checked
    def function(argument: annotation) -> Any:
        return argument

    told = function(value)
    assert told == plain
    assert type(told) is type(plain)
    assert [type(one) for one in told] == [type(one) for one in plain] if type(plain) is list else 1


@pytest.mark.quick
@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        (int, ("3", 3.0, np.float64(3), True, np.True_, None, [3])),
        (float, ("0.5", True, None, 1j, np.nan, [0.5])),
        (bool, (0, 1, "yes", None, np.int64(1))),
        (str, (b"x", 3, Path("x"), None, ["x"])),
        (Path, ("x", b"x", None)),
        (Sequence[str], ("cat", b"cat", {"cat": 1}, [b"cat"], [3], 3, pd.DataFrame({"cat": [1]}))),
        (Mapping[str, Any], ([("a", 1)], {1: 2}, "a=1")),
        (Literal[1, "a"], (True, 1.0, "A", None)),
    ],
)
def test_what_is_refused(annotation, values):
    @checked
    def function(argument: annotation) -> Any:
        return argument

    for value in values:
        with pytest.raises(BadInput, match=r"^argument .* expected$"):
            function(value)


@pytest.mark.quick
def test_a_missing_argument_is_named_by_python():
    with pytest.raises(TypeError, match=r"export\(\) missing 1 required positional argument: 'to'"):
        alike.export("pets.store")
    with pytest.raises(TypeError, match="unexpected keyword argument 'array'"):
        alike.export("pets.store", "x.csv", array="gap")


@pytest.mark.quick
def test_a_long_value_is_shortened():
    with pytest.raises(BadInput) as refused:
        alike.export("pets.store", "x.csv", measure=bytes(10**6))
    assert len(str(refused.value)) < 200
    with pytest.raises(BadInput) as refused:
        alike.export("pets.store", "x.csv", measure=["x" * 500])
    assert len(str(refused.value)) < 200


@pytest.mark.quick
def test_images_and_names_in_every_form():
    assert each_query(np.array([3, 5])) == [3, 5]
    assert each_query(bytearray(b"x")) == [b"x"]
    assert each_query([np.int64(3), "cat.jpg", Path("dog.jpg"), memoryview(b"x")]) == [
        3, "cat.jpg", Path("dog.jpg"), b"x"
    ]  # fmt: skip
    for wrong in ({"row": 3}, pd.DataFrame({"row": [3]}), [True], [None], 1.5):
        with pytest.raises(BadInput, match="numbers of stored rows, or an array of vectors"):
            each_query(wrong)
    assert each_name(" cat,,dog ") == each_name(["cat", "dog "]) == ("cat", "dog")


@pytest.mark.quick
def test_no_annotation_is_imported_for_the_check():
    code = (
        "import sys, alike\n"
        "try:\n    alike.export(3, 4)\nexcept Exception as error:\n    print(error)\n"
        "print([one for one in ('numpy', 'pandas', 'torch', 'zarr') if one in sys.modules])"
    )
    path = {"PYTHONPATH": str(Path(alike.__file__).parents[1])}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=path
    )
    assert told.stdout.splitlines() == ["store 3: a text, a path or an open store expected", "[]"]


@pytest.mark.quick
def test_a_warning_names_the_line_of_the_caller():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checked(lambda: api._warn(["note"]))()
    assert [Path(one.filename).name for one in caught] == ["test_arguments.py"]
