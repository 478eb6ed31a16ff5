"""Byte ranges of large objects, requested one by one, or many at once where read in order.

A request to an object store takes some 30 ms however little it brings: images that lie beside each
other are fetched together where they are read one after the other, and alone where they are not.

>>> asked = []
>>> def fetch(place, low, high):
...     asked.append((low, high))
...     return bytes(high - low)
>>> parts = [("a.tar", 512 * number, 100) for number in range(1000)]
>>> spans = Spans(parts, fetch)
>>> all(len(spans.read(part)) == 100 for part in parts)
True
>>> asked
[(0, 100), (512, 612), (0, 511588)]
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

AT_ONCE = 8 * 2**20
"""Bytes of a request for several parts, at most."""
NEAR = 32
"""Parts that are read so near the last one count as read in order: threads share the work."""
HELD = 4
"""Requests whose bytes are kept."""

Part = tuple[str, int, int]
"""An object, the first byte in it, and bytes."""


class Spans:
    """Parts of objects.

    Args:
        parts: in the order of objects and of their bytes.
        fetch: gives the bytes of an object from one up to another; fewer at its end.
    """

    def __init__(self, parts: Sequence[Part], fetch: Callable[[str, int, int], bytes]) -> None:
        self._fetch = fetch
        self._numbers, self._span_of, self._spans = dict[Part, int](), list[int](), list[Part]()
        for number, (place, first, size) in enumerate(parts):
            before, low, held = self._spans[-1] if self._spans else ("", 0, 0)
            whole = max(low + held, first + size) - low
            if before == place and whole <= AT_ONCE:
                self._spans[-1] = (place, low, whole)
            else:
                self._spans.append((place, first, size))
            self._numbers[place, first, size] = number
            self._span_of.append(len(self._spans) - 1)
        self._lock = threading.Lock()
        self._last, self._in_order = -2 * NEAR, 0
        self._held: OrderedDict[int, Future[bytes]] = OrderedDict()

    def read(self, part: Part) -> bytes:
        """The bytes of a part; safe to call from threads.

        Raises:
            Exception: of `fetch`.
        """
        place, first, size = part
        number = self._numbers[part]
        span = self._span_of[number]
        with self._lock:
            near = abs(number - self._last) <= NEAR
            self._last, self._in_order = number, self._in_order + 1 if near else 0
            held = self._held.get(span)
            mine = held is None and self._in_order > 1
            if mine:
                held = self._held[span] = Future()
                while len(self._held) > HELD:
                    self._held.popitem(last=False)
        if held is None:
            return self._fetch(place, first, first + size)
        if mine:
            self._fill(span, held)
        low = self._spans[span][1]
        return held.result()[first - low : first - low + size]

    def _fill(self, span: int, held: "Future[bytes]") -> None:
        try:
            place, low, size = self._spans[span]
            held.set_result(self._fetch(place, low, low + size))
        # Whoever waits gets it too, and the next one asks again.
        except BaseException as error:
            with self._lock:
                if self._held.get(span) is held:
                    del self._held[span]
            held.set_exception(error)
