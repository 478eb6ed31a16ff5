"""The questions about past runs: each route is one question, and one of `alike runs …`."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field

from alike.serve import run_models
from alike.serve.questions import answer
from alike.serve.run_history import RunHistory
from alike.serve.work import Work

MOST_RUNS = 12
"""Runs of one comparison."""
RunName = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,64}$")]
ABOUT = "Id of a run, the beginning or the end of one, or `last`."


def run_routes(router: APIRouter, work: Work, runs: RunHistory) -> None:
    """Add the routes of past runs to those of the API."""

    @router.get("/runs", response_model=run_models.RunList)
    async def listed(request: Request) -> Any:
        """The runs of the store: the document of `alike runs ls --json`."""
        return await work.read_runs(request, answer(runs.listed))

    @router.get("/runs/{run}", response_model=run_models.Run)
    async def run(request: Request, run: Annotated[RunName, Path(description=ABOUT)]) -> Any:
        """All that is recorded of a run: the document of `alike runs show --json`."""
        return await work.read_runs(request, answer(partial(runs.record, run)))

    @router.get("/run-difference", response_model=run_models.RunDifference)
    async def difference(
        request: Request,
        run: Annotated[
            list[RunName],
            Query(min_length=2, max_length=MOST_RUNS, description=f"{ABOUT} Repeatable."),
        ],
        everything: Annotated[
            bool, Query(description="Also what is the same in all of the runs.")
        ] = False,
    ) -> Any:
        """Runs side by side: the document of `alike runs diff --json`."""
        question = partial(runs.difference, run, everything=everything)
        return await work.read_runs(request, answer(question))
