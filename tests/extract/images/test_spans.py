"""Parts of objects are the same however they are asked for; in order, few requests bring them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from alike.extract.images import spans
from alike.extract.images.spans import Part, Spans


class Store:
    """Objects that count what is asked of them."""

    def __init__(self, seed: int, most: int) -> None:
        draw = np.random.default_rng(seed)
        self.objects: dict[str, bytes] = {}
        self.parts: list[Part] = []
        self.asked: list[int] = []
        self.failures = 0
        for name in ("a", "b", "c"):
            at = 0
            for _ in range(60):
                at += int(draw.integers(0, 50))
                size = int(draw.integers(0, most))
                self.parts.append((name, at, size))
                at += size
            self.objects[name] = draw.bytes(at)

    def fetch(self, place: str, low: int, high: int) -> bytes:
        self.asked.append(high - low)
        if self.failures:
            self.failures -= 1
            raise OSError("not now")
        return self.objects[place][low:high]

    def right(self, part: Part) -> bytes:
        place, low, size = part
        return self.objects[place][low : low + size]


@pytest.mark.quick
@pytest.mark.parametrize("most", [3, 100, 3000])
@pytest.mark.parametrize("threads", [1, 8])
def test_parts_are_those_of_the_object(
    most: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, backwards, at random, all at once; parts larger than a request among them."""
    monkeypatch.setattr(spans, "AT_ONCE", 2000)
    for seed in range(5):
        store, draw = Store(seed, most), np.random.default_rng(seed)
        read = Spans(store.parts, store.fetch).read
        orders = [range(180), range(179, -1, -1), draw.permutation(180), draw.integers(0, 180, 99)]
        with ThreadPoolExecutor(threads) as pool:
            for order in orders:
                wanted = [store.parts[number] for number in order]
                assert list(pool.map(read, wanted)) == [store.right(one) for one in wanted]


def test_requests_in_order_are_few_and_far_ones_bring_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spans, "AT_ONCE", 2000)
    store = Store(1, 100)
    in_order = Spans(store.parts, store.fetch)
    for part in store.parts:
        in_order.read(part)
    whole = sum(map(len, store.objects.values()))
    # Each request is full but for a part, and the last one of an object.
    assert len(store.asked) <= 2 + 3 + whole / (2000 - 150)
    store.asked.clear()
    far = Spans(store.parts, store.fetch)
    wanted = [store.parts[number] for number in range(0, 180, spans.NEAR + 1)]
    for part in wanted:
        far.read(part)
    assert store.asked == [size for _, _, size in wanted]


def test_no_more_than_four_requests_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "AT_ONCE", 500)
    store = Store(2, 100)
    held = Spans(store.parts, store.fetch)
    for part in store.parts:
        held.read(part)
        assert len(held._held) <= spans.HELD


def test_a_request_that_fails_is_made_again() -> None:
    store = Store(3, 100)
    read = Spans(store.parts, store.fetch).read
    for number in range(2):
        read(store.parts[number])
    store.failures = 1
    with pytest.raises(OSError, match="not now"):
        read(store.parts[2])
    assert read(store.parts[2]) == store.right(store.parts[2])
