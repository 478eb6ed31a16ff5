"""What many questions of the API have in common: their parameters, and how they are answered."""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple
from weakref import WeakKeyDictionary

from fastapi import Path, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import Field

from alike.extract.errors import BadInput
from alike.serve import models
from alike.serve.models import MAX_NEIGHBOURS
from alike.serve.work import document, json_answer

MOST_ROWS = 100_000
Name = Annotated[models.Name, Path()]
Features = Annotated[
    str | None, Query(max_length=512, description="Key of an extraction: that of `set` without.")
]
Measure = Annotated[
    str | None, Query(max_length=128, description="Of the index: that of `set` without.")
]
K = Annotated[int, Query(ge=1, le=MAX_NEIGHBOURS, description="Neighbours.")]
# All of a request's head has to be within 64 KiB: more, or longer ones, go into a POST.
Labels = Annotated[
    list[Annotated[str, Field(max_length=200)]] | None,
    Query(max_length=20, description="Only these classes. Repeatable."),
]
Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="Most rows of the answer.")]
Offset = Annotated[int, Query(ge=0, lt=2**63, description="Rows that are passed over.")]


async def only_its_parameters(request: Request) -> None:
    """Refuse what a question would pass over in silence.

    Raises:
        BadInput: a parameter that the question does not have, one that is given twice and is no
            list, or a number that is written as Python's source: `1_0`, which would be 10.
    """
    if getattr(request.scope["route"], "body_field", None) is not None:
        json.loads(await request.body() or b"null", object_pairs_hook=_once_each)
    given = request.query_params
    if not given:
        return
    takes = _parameters(request.scope["route"])
    for name in given:
        if name not in takes:
            names = ", ".join(sorted(takes)) or "none"
            raise BadInput(f"{name[:80]}: no parameter of this question, which takes: {names}")
        values = given.getlist(name)
        if len(values) > 1 and not takes[name].many:
            raise BadInput(f"{name}: given {len(values)} times, once is expected")
        odd = next((one for one in values if takes[name].number and "_" in one), None)
        if odd is not None:
            raise BadInput(f"{name}: a number is expected, not {odd[:80]!r}")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which a name that stands twice would take the last of its values."""
    whole = dict(pairs)
    if len(whole) < len(pairs):
        (name, times), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise BadInput(f"{name[:80]}: given {times} times, once is expected")
    return whole


class _Parameter(NamedTuple):
    """What a question takes: several values or one, numbers or texts."""

    many: bool
    number: bool


_PARAMETERS: WeakKeyDictionary[Callable[..., Any], dict[str, _Parameter]] = WeakKeyDictionary()
"""Of each question that was asked with one."""


def _parameters(route: APIRoute) -> dict[str, _Parameter]:
    """A question's parameters by name."""
    takes = _PARAMETERS.get(route.endpoint)
    if takes is None:
        kinds = {one.alias: str(one.field_info.annotation) for one in route.dependant.query_params}
        takes = {
            name: _Parameter("list[" in kind, bool(re.search(r"\b(int|float)\b", kind)))
            for name, kind in kinds.items()
        }
        _PARAMETERS[route.endpoint] = takes
    return takes


def answer(question: Callable[[], Any]) -> Callable[[], Response]:
    """The answer to a question, as JSON that its own thread writes."""
    return lambda: json_answer(document(question()))
