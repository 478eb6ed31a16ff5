"""The application: the page, the API below `/api/v1`, and one body for every error."""

import json
import logging
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from alike.extract.errors import (
    AlikeError,
    BadInput,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreUnreachable,
)
from alike.serve.api import API, server_routes, store_routes
from alike.serve.budgets import Busy, ClientGone
from alike.serve.guard import (
    LOCAL,
    RETRY,
    Access,
    Guard,
    Receive,
    Scope,
    Send,
    answering_head,
    fault,
    path_of,
    refuse,
)
from alike.serve.metrics import Metrics
from alike.serve.models import IN_WORDS
from alike.serve.pictures import NotThere, StoreGone
from alike.serve.policy import PLOTLY, plotly_file, policy
from alike.serve.reference import reference_page
from alike.serve.service import NeighbourService
from alike.serve.stores import ServedStore
from alike.serve.views import Views
from alike.serve.work import Work

LOG = logging.getLogger("uvicorn.error")
SHARED = ("report.css", "shown.js")
"""Style and script of the report that the page has too."""
SEE = f"{API}/docs lists the questions"
UNPARSED = "There was an error parsing the body"
"""What FastAPI says of a body that no parser can take, such as one that is nested very deep."""
STATUS: Sequence[tuple[type[AlikeError], int]] = (
    (NotThere, 404),
    (StoreBusy, 503),
    (StoreUnreachable, 503),
    (StoreDamaged, 409),
    (StoreFull, 507),
    (BadInput, 422),
    (Busy, 503),
    (ClientGone, 499),
    (AlikeError, 500),
)
"""Kind of error to the status of its answer; the first that fits."""


class PageFiles(StaticFiles):
    """Files of the page, those among them that it shares with the report, and plotly.

    They are small: who asks for a range gets the whole file, as HTTP allows, and no other answers.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See starlette."""
        headers = [one for one in scope["headers"] if one[0] not in (b"range", b"if-range")]
        await super().__call__({**scope, "headers": headers}, receive, send)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """See starlette."""
        if path == PLOTLY:
            shared = plotly_file()
        elif path in SHARED:
            shared = Path(str(files("alike.analysis.report") / path))
        else:
            return super().lookup_path(path)
        return str(shared), shared.stat()


def create_app(stores: NeighbourService | Sequence[ServedStore], access: Access = LOCAL) -> FastAPI:
    """Make the application.

    Args:
        stores: that are served, the first where none is named; or the service of the only one.
        access: who may ask.
    """
    if isinstance(stores, NeighbourService):
        stores = [ServedStore("store", stores)]
    service = stores[0].service
    policy()  # Read from plotly's bundle once, before somebody waits for it.
    app = FastAPI(
        title="Alike", version="1", openapi_url=f"{API}/openapi.json", docs_url=None, redoc_url=None
    )
    work = Work(service)
    metrics = Metrics(work)
    app.add_middleware(answering_head)
    app.add_middleware(Guard, access=access, budgets=service.budgets)
    app.add_middleware(metrics.counting)
    _handle_errors(app, [one.name for one in stores])
    app.include_router(server_routes(stores, work, metrics))
    app.include_router(store_routes(work, Views(service, stores[0].runs)))
    for one in stores:
        # Described once: the same questions to another store.
        further, views = Work(one.service, work), Views(one.service, one.runs)
        place = f"{API}/stores/{one.name}"
        app.include_router(store_routes(further, views, place, described=False))
    static = files("alike.serve") / "static"
    app.mount("/static", PageFiles(directory=str(static)), name="static")

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> HTMLResponse:
        text = (static / "page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    @app.get(f"{API}/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()))

    return app


def _handle_errors(app: FastAPI, names: Sequence[str] = ()) -> None:
    @app.exception_handler(AlikeError)
    async def ours(_: Request, error: AlikeError) -> JSONResponse:
        status = next(number for kind, number in STATUS if isinstance(error, kind))
        if isinstance(error, StoreGone | StoreDamaged | StoreFull):
            # Shown once: the server shows a warning of the same words once.
            LOG.warning(str(error))
        return refuse(status, str(error), RETRY if status == 503 else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return refuse(400, f"the body is no JSON: {first['ctx']['error']}")
        # FastAPI leaves the bytes of a body that is not named as JSON.
        if tuple(first["loc"]) == ("body",) and isinstance(error.body, bytes):
            return refuse(415, "the body is not named as JSON: send Content-Type: application/json")
        return refuse(422, "; ".join(map(_line, error.errors()[:5])))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        line = str(error.detail)
        if error.status_code == 404:
            line = _no_question(request, names)
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "GET")
            line = f"{request.method} is no verb of this address, but {allowed}: {SEE}"
        elif line == UNPARSED:
            line = f"the body cannot be read as JSON: {SEE}"
        return refuse(error.status_code, line, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, __: ClientDisconnect) -> JSONResponse:
        return refuse(499, "the client hung up before its request was complete")

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        return fault(error)


def _no_question(request: Request, names: Sequence[str]) -> str:
    """What to say of a path that is none of this server's."""
    path = path_of(request.scope)
    store, below = path.removeprefix(f"{API}/stores/"), path.startswith(f"{API}/stores/")
    name = store.partition("/")[0]
    if below and name not in names:
        return f"no store {name[:80]!r}: this server has {', '.join(names)}"
    return f"nothing is at {path[:120]!r}: {SEE}"


def _line(error: Any) -> str:
    """One wrong value: where, what is wrong, what was given."""
    place = ".".join(str(part) for part in error["loc"] if part not in ("query", "path", "body"))
    # Of a list that is too long or too short the message has the number.
    silent = error["type"] in ("missing", "too_long", "too_short")
    given = "" if silent else f", not {_as_json(error.get('input'))}"
    pattern = str((error.get("ctx") or {}).get("pattern"))
    line = IN_WORDS.get(pattern, str(error["msg"]))
    line = line[:1].lower() + line[1:] if line[1:2].islower() else line
    return f"{place[:80] or 'the body'}: {line}{given}"


def _as_json(value: Any) -> str:
    """A value as JSON, in which 3 is no text; a text in quotation marks of Python."""
    if isinstance(value, str):
        return repr(value[:80])
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"
