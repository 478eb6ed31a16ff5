"""The HTTP API and the page: each route is one question to the service."""

from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from alike.extract.errors import AlikeError, BadInput
from alike.serve.service import NeighbourService

MAX_BYTES = 64 * 2**20
"""Largest image file that may be brought."""
POLICY = "default-src 'none'; img-src 'self' blob:; style-src 'self'; script-src 'self'; "
POLICY += "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PARTS = {"page.css": "text/css", "page.js": "text/javascript"}


def create_app(
    service: NeighbourService, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
) -> FastAPI:
    """Make the application.

    Args:
        service: answers the questions.
        hosts: names under which the page may be asked for, `*` for any; others are refused, so
            that no page of somebody else can read the store through a name of its own.
    """
    app = FastAPI(title="Alike", docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.exception_handler(BadInput)
    async def bad_input(_: Request, error: BadInput) -> JSONResponse:
        return JSONResponse({"error": " ".join(str(error).split())}, status_code=422)

    @app.exception_handler(AlikeError)
    async def fault(_: Request, error: AlikeError) -> JSONResponse:
        return JSONResponse({"error": " ".join(str(error).split())}, status_code=500)

    @app.get("/", response_class=HTMLResponse)
    def page() -> HTMLResponse:
        return HTMLResponse(_part("page.html"), headers={"Content-Security-Policy": POLICY})

    @app.get("/{name}.{kind}")
    def part(name: str, kind: str) -> Response:
        file = f"{name}.{kind}"
        if file not in PARTS:
            return JSONResponse({"error": f"no page {file}"}, status_code=404)
        return Response(_part(file), media_type=PARTS[file])

    @app.get("/api/set")
    def facts() -> dict[str, Any]:
        """The set, the network, the index."""
        return service.facts()

    @app.get("/api/images")
    def sample(count: int = 24, seed: int = 0, label: str | None = None) -> list[dict[str, Any]]:
        """Stored images drawn at random, at most 200."""
        return service.sample(min(count, 200), seed, label)

    @app.post("/api/images")
    async def bring(request: Request) -> dict[str, Any]:
        """Bring an image: the body is the file. Its name in other questions is `image`."""
        return await run_in_threadpool(service.bring, await _body(request))

    @app.get("/api/images/{image}/picture")
    def picture(image: str, side: int = 160) -> Response:
        """The image as PNG."""
        return _png(service.picture(image, side))

    @app.get("/api/images/{image}/seen")
    def seen(image: str) -> Response:
        """What the network sees of it, as PNG."""
        return _png(service.seen(image))

    @app.get("/api/images/{image}/neighbours")
    def neighbours(
        image: str,
        k: int = 12,
        relation: str = "any",
        label: Annotated[list[str] | None, Query()] = None,
    ) -> dict[str, Any]:
        """The k nearest stored images: `relation` any, same or other (class), of these labels."""
        return service.neighbours(image, k, relation, tuple(label or ()))

    @app.get("/api/images/{first}/alike/{second}")
    def alike(first: str, second: str) -> dict[str, Any]:
        """Where two images are alike, position by position."""
        return service.alike(first, second)

    return app


async def _body(request: Request) -> bytes:
    taken = bytearray()
    async for piece in request.stream():
        taken += piece
        if len(taken) > MAX_BYTES:
            raise BadInput(f"more than {MAX_BYTES >> 20} MiB: bring a smaller image file")
    if not taken:
        raise BadInput("an empty body: send the bytes of an image file")
    return bytes(taken)


def _png(data: bytes) -> Response:
    # The same address may serve another store or network later: a browser keeps nothing.
    return Response(data, media_type="image/png", headers={"Cache-Control": "no-store"})


def _part(name: str) -> str:
    return (files("alike.serve") / name).read_text(encoding="utf-8")
