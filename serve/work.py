"""How the work of an answer is done: in threads of its own, after its turn, for a living client."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from alike.extract.frames import NamedImage
from alike.serve.budgets import ClientGone, Gate, Gone
from alike.serve.memory import releasing
from alike.serve.network import NeedsNetwork
from alike.serve.pictures import pixels_of
from alike.serve.service import NeighbourService

FILES = 8
"""Image files that are held in memory at once."""
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""Of what lies under an address that holds the hash of what it was made from."""


class Work:
    """Turns and threads of one server, and the store that they are taken for.

    Attributes:
        service: answers the questions.
        searches: turns of questions about what is stored.
        history: turns of questions about past runs: one at a time.
        network: turns of forward passes: one at a time.
        pixels: turns of decoded images, by their pixels.
        files: turns of image files in memory.
    """

    searches: Gate
    history: Gate
    network: Gate
    pixels: Gate
    files: Gate
    _searching: ThreadPoolExecutor
    _reading: ThreadPoolExecutor
    _working: ThreadPoolExecutor

    def __init__(self, service: NeighbourService, beside: "Work | None" = None) -> None:
        """Open the turns.

        Args:
            service: answers the questions.
            beside: of another store of the same server, whose turns and threads these are too.
        """
        budgets = service.budgets
        self.service = service
        if beside:
            self.searches, self.network = beside.searches, beside.network
            self.pixels, self.files = beside.pixels, beside.files
            self.history, self._reading = beside.history, beside._reading
            self._searching, self._working = beside._searching, beside._working
            return
        self.searches = Gate("a search", budgets.searches, budgets.requests)
        self.history = Gate("past runs", 1, budgets.waiting)
        self.network = Gate("the network", 1, budgets.waiting)
        self.pixels = Gate("memory for pixels", budgets.pixels, budgets.waiting)
        self.files = Gate("an image file", FILES, budgets.waiting)
        # Not the threads of the framework, which serve the page while these are all taken.
        self._searching = ThreadPoolExecutor(budgets.searches, "searches")
        self._reading = ThreadPoolExecutor(1, "history")
        self._working = ThreadPoolExecutor(FILES + (os.cpu_count() or 1), "work")

    async def search(self, request: Request, *parts: Callable[[], Any]) -> Any:
        """Answer a question about what is stored, part by part; the answer is that of the last.

        Raises:
            ClientGone: the client hung up before the last part.
            StoreGone: the store is not there any more; as all that follows.
        """
        return await self.search_all(request, *map(self._asking, parts))

    async def search_all(self, request: Request, *parts: Callable[[], Any]) -> Any:
        """Answer a question about all stores of the server; as `search`."""
        gone = gone_of(request)
        async with self.searches.turn(gone=gone):
            return await _one_by_one(self._searching, parts, gone)

    async def read_runs(self, request: Request, question: Callable[[], Any]) -> Any:
        """Answer a question about past runs: it may read thousands of small files; as `search`."""
        gone = gone_of(request)
        async with self.history.turn(gone=gone):
            return await _in(self._reading, self._asking(question))

    async def think(self, request: Request, names: list[str], *parts: Callable[[], Any]) -> Any:
        """Answer a question that needs the network and these images; as `search`."""
        gone = gone_of(request)
        weight = 0
        for name in names:
            async with self.files.turn(gone=gone):
                weight = max(
                    weight, await _in(self._working, self._asking(partial(self._size, name)))
                )
        *first, last = map(self._asking, parts)
        async with self.network.turn(gone=gone), self.pixels.turn(max(weight, 1), gone):
            return await _one_by_one(self._working, [*first, releasing(weight, last)], gone)

    async def search_or_think(
        self, request: Request, names: list[str], question: Callable[..., Any]
    ) -> Any:
        """Answer, as JSON, a question about images that may need the network.

        Args:
            request: of a client.
            names: of the images.
            question: takes `network`: whether it may ask it; without, it may raise `NeedsNetwork`.
        """

        def answer(network: bool) -> Response:
            return json_answer(document(question(network=network)))

        try:
            return await self.search(request, partial(answer, False))
        except NeedsNetwork:
            return await self.think(request, names, partial(answer, True))

    async def picture(
        self, request: Request, name: str, make: Callable[[NamedImage], bytes]
    ) -> bytes:
        """Make a picture of an image."""
        gone = gone_of(request)
        async with self.files.turn(gone=gone):
            image = await _in(self._working, self._asking(lambda: self.service.image(name)))
            pixels = pixels_of(image)
            async with self.pixels.turn(max(pixels, 1), gone):
                question = self._asking(lambda: make(image))
                data: bytes = await _in(self._working, releasing(pixels, question))
                return data

    async def upload(self, request: Request, data: bytes) -> dict[str, Any]:
        """Take an image that somebody sends."""
        gone = gone_of(request)
        pixels = await _in(self._working, self._asking(lambda: self.service.check_pixels(data)))
        async with self.pixels.turn(max(pixels, 1), gone):
            question = self._asking(partial(self.service.upload, data))
            image: dict[str, Any] = await _in(self._working, releasing(pixels, question))
            return image

    async def look(self, question: Callable[[], Any]) -> Any:
        """Answer what only looks into memory or into a small file."""
        return await _in(self._working, self._asking(question))

    def _asking(self, question: Callable[[], Any]) -> Callable[[], Any]:
        return self.service.presence.asking(question)

    def _size(self, name: str) -> int:
        return pixels_of(self.service.image(name))


async def _in(threads: ThreadPoolExecutor, question: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(threads, question)


async def _one_by_one(
    threads: ThreadPoolExecutor, parts: Sequence[Callable[[], Any]], gone: Gone
) -> Any:
    """Do parts of one work, as long as somebody waits for it; the value of the last."""
    *first, last = parts
    if first:
        watch = asyncio.ensure_future(gone())
        try:
            for part in first:
                await _in(threads, part)
                if watch.done():
                    raise ClientGone("the client hung up")
        finally:
            watch.cancel()
    return await _in(threads, last)


def gone_of(request: Request) -> Gone:
    """What returns once the client of a request has hung up; its body was read before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return gone


def document(value: Any) -> bytes:
    """JSON as the command line prints it: no number is null."""
    return to_json(value, inf_nan_mode="null")


def json_answer(data: bytes) -> Response:
    """An answer of a question whose answer may be another one in a moment."""
    return Response(data, media_type="application/json", headers={"Cache-Control": "no-store"})
