"""What a server may spend at once, and what it says if that is spent: bytes, pixels, turns."""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from alike.extract.errors import AlikeError

Gone = Callable[[], Awaitable[None]]
"""Returns once the client has gone."""


class Busy(AlikeError):
    """Too much is waiting already; the same request may succeed in a moment."""


class ClientGone(AlikeError):
    """Whoever asked has hung up, so nothing more is done."""


@dataclass(frozen=True)
class Budgets:
    """What a server may spend.

    Attributes:
        upload_bytes: largest image file.
        receiving_bytes: of all requests that are arriving.
        body_bytes: of a request that is no image.
        body_seconds: until a request has to be complete.
        uploads: bytes of uploaded images that stay available.
        vectors: bytes of what networks said of them.
        pixels: of the images that are decoded at once; an uploaded image may not have more.
        thumbnails: bytes of pictures in memory.
        disk: bytes of pictures on disk.
        waiting: requests that wait for pixels, or for the network.
        searches: questions of stored rows that are answered at once.
        requests: that are open at once.
        connections: that are open at once; the server hangs up on more.
    """

    upload_bytes: int = 64 * 2**20
    receiving_bytes: int = 128 * 2**20
    body_bytes: int = 2 * 2**20
    body_seconds: float = 30.0
    uploads: int = 256 * 2**20
    vectors: int = 64 * 2**20
    pixels: int = 40_000_000
    thumbnails: int = 64 * 2**20
    disk: int = 512 * 2**20
    waiting: int = 64
    searches: int = 4
    requests: int = 256
    connections: int = 512


DEFAULTS = Budgets()


class Gate:
    """Lets work of a total weight in, in the order of arrival; a bounded number may wait.

    For one event loop: it takes no lock.
    """

    def __init__(self, name: str, capacity: int, waiting: int) -> None:
        """Open the gate.

        Args:
            name: of what is spent, for messages.
            capacity: total weight that is let in at once.
            waiting: requests that may wait.
        """
        self.name, self.capacity, self.most_waiting = name, capacity, waiting
        self._free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def in_use(self) -> int:
        """Weight that is let in now."""
        return self.capacity - self._free

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self, weight: int = 1, gone: Gone | None = None) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the block.

        Args:
            weight: of the work; what is heavier than the gate has it alone.
            gone: ends the wait if the client hangs up.

        Raises:
            Busy: too many wait already.
            ClientGone: the client hung up before its turn.
        """
        weight = min(weight, self.capacity)
        if self._waiting or weight > self._free:
            await self._wait(weight, gone)
        else:
            self._free -= weight
        try:
            yield
        finally:
            self._free += weight
            self._admit()

    async def _wait(self, weight: int, gone: Gone | None) -> None:
        if len(self._waiting) >= self.most_waiting:
            raise Busy(f"{self.waiting} requests wait for {self.name} already: try again")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (weight, turn)
        self._waiting.append(entry)
        watch = None if gone is None else asyncio.ensure_future(gone())
        try:
            await asyncio.wait(
                {turn} | ({watch} if watch else set()), return_when="FIRST_COMPLETED"
            )
            if not turn.done():
                raise ClientGone("the client hung up")
        except BaseException:
            if turn.done():
                self._free += weight
            else:
                self._waiting.remove(entry)
            self._admit()
            raise
        finally:
            if watch is not None:
                watch.cancel()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            weight, turn = self._waiting.popleft()
            self._free -= weight
            turn.set_result(None)


class ByteCache:
    """The latest values up to a number of bytes; safe for threads."""

    def __init__(self, budget: int) -> None:
        self.budget, self.used = budget, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: Hashable) -> Any:
        """A value, which counts as the latest from now on; None if it is not there."""
        with self._lock:
            entry = self._values.get(name)
            if entry is None:
                return None
            self._values.move_to_end(name)
            return entry[0]

    def put(self, name: Hashable, value: Any, size: int) -> None:
        """Keep a value; the oldest go. One that is larger than the budget is not kept."""
        with self._lock:
            _, old = self._values.pop(name, (None, 0))
            self.used -= old
            if size > self.budget:
                return
            self._values[name] = (value, size)
            self.used += size
            while self.used > self.budget:
                _, (_, gone) = self._values.popitem(last=False)
                self.used -= gone
