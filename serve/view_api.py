"""The questions of the page's views: each route is one question."""

from functools import partial
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from alike.serve import models, view_models
from alike.serve.analysed import records
from alike.serve.lists import COLUMNS, FORMS, export
from alike.serve.notes import beyond
from alike.serve.questions import Features, Limit, Measure, Name, Offset, answer
from alike.serve.run_api import run_routes
from alike.serve.views import Views
from alike.serve.work import Work

ClassName = Annotated[str, Query(max_length=512, description="A class.")]
Distances = Annotated[
    list[Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]],
    Query(min_length=1, max_length=models.MAX_NEIGHBOURS, description="Repeatable."),
]
Sections = Annotated[
    list[view_models.SectionName] | None,
    Query(max_length=20, description="Only these sections. Repeatable."),
]
FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("text/csv", "application/x-tex", "application/vnd.apache.parquet")
        }
    }
}


def view_routes(router: APIRouter, work: Work, views: Views) -> None:
    """Add the routes of the views to those of the API."""
    _of_scores(router, work, views)
    _of_classes(router, work, views)
    _of_lists(router, work, views)
    run_routes(router, work, views.runs)
    service = work.service

    @router.get("/images/{image}/prediction", response_model=view_models.Prediction)
    async def prediction(request: Request, image: Name, features: Features = None) -> Any:
        """What the network takes the image for."""
        opened = await work.search(request, partial(service.opened, features))
        question = partial(views.prediction, image, opened)
        return await work.search_or_think(request, [image], question)


def _of_scores(router: APIRouter, work: Work, views: Views) -> None:
    @router.get("/report", response_model=view_models.ScoreSections)
    async def report(
        request: Request, features: Features = None, section: Sections = None,
        measure: Measure = None,
    ) -> Any:  # fmt: skip
        """What the report says of scores, section by section, as HTML."""
        question = partial(views.scores, features, section or (), measure)
        return await work.search(request, answer(question))

    @router.get("/typical", response_model=view_models.Typical)
    async def typical(
        request: Request, distance: Distances, features: Features = None, measure: Measure = None
    ) -> Any:
        """Where distances lie among those of all evaluated pairs."""
        question = partial(views.typical, distance, features, measure)
        return await work.search(request, answer(question))


def _of_classes(router: APIRouter, work: Work, views: Views) -> None:
    @router.get("/class-matrix", response_model=view_models.ClassMatrix)
    async def class_matrix(
        request: Request, features: Features = None, measure: Measure = None,
        mean: Annotated[bool, Query(description="Also the distances as rows.")] = False,
    ) -> Any:  # fmt: skip
        """Mean distances between classes, similar classes beside each other, as a figure.

        Of more than 2,048 classes there is no matrix: the nearest pairs alone.
        """
        question = partial(views.class_matrix, features, measure, mean=mean)
        return await work.search(request, answer(question))

    @router.get("/class-pair", response_model=view_models.ClassPair)
    async def class_pair(
        request: Request, first: ClassName, second: ClassName, features: Features = None,
        measure: Measure = None,
    ) -> Any:  # fmt: skip
        """Two classes image by image: histogram, nearest and farthest pairs."""
        question = partial(views.class_pair, first, second, features, measure)
        return await work.search(request, answer(question))


def _of_lists(router: APIRouter, work: Work, views: Views) -> None:
    @router.get("/lists/{kind}", response_model=view_models.ImageList)
    async def listed(
        request: Request, kind: Annotated[view_models.ListKind, Path()], features: Features = None,
        measure: Measure = None, limit: Limit = 200, offset: Offset = 0,
    ) -> Any:  # fmt: skip
        """Images to look at: suspected labels, outliers, twins, bad images, those with tags."""

        def question() -> Any:
            found = views.listed(kind, features, measure)
            lines = [_line(kind, one) for one in records(found.lines.iloc[offset : offset + limit])]
            key, n_lines = work.service.chosen_key(features), len(found.lines)
            return {
                "key": key, "kind": kind, "lines": lines, "n_lines": n_lines, "offset": offset,
                "notes": [*found.notes, *beyond(offset, n_lines, "lines")], "needs": found.needs,
                "measure": found.measure,
            }  # fmt: skip

        return await work.search(request, answer(question))

    @router.get("/lists/{kind}/file", response_class=Response, responses=FILE)
    async def file(
        request: Request, kind: Annotated[view_models.ListKind, Path()], features: Features = None,
        measure: Measure = None, form: Literal["csv", "latex", "parquet"] = "csv",
    ) -> Any:  # fmt: skip
        """The whole list as a file."""

        def question() -> bytes:
            lines: pd.DataFrame = views.listed(kind, features, measure).lines
            return export(lines, form)

        data = await work.search(request, question)
        suffix, media = FORMS[form]
        headers = {"Content-Disposition": f'attachment; filename="{kind}.{suffix}"'}
        return Response(data, media_type=media, headers=headers)


def _line(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    images = [{name: row[name] for name in COLUMNS}]
    if "other_row" in row:
        images.append({name: row[f"other_{name}"] for name in COLUMNS})
    return {
        "images": images,
        "suggested": row.get("suggested") or None,
        "score": row.get("score"),
        "why": row["why"],
        "bad": kind == "bad" or bool(row.get("bad")),
    }
