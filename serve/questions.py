"""What many questions of the API have in common: their parameters, and how they are answered."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Path, Query, Response
from pydantic import Field

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


def answer(question: Callable[[], Any]) -> Callable[[], Response]:
    """The answer to a question, as JSON that its own thread writes."""
    return lambda: json_answer(document(question()))
