"""Listings on the disk: the same order, and stamps whatever order they are asked for in."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from alike.extract.images import spool as spools
from alike.extract.images.spool import Spool


@pytest.mark.quick
@pytest.mark.parametrize("n", [0, 1, 7, 8, 30])
def test_what_was_found_is_given_again_and_stamps_in_any_order(n, monkeypatch):
    monkeypatch.setattr(spools, "AT_ONCE", 7)
    found = [
        (f"é/{number}.png", None if number % 5 == 3 else (number, -1, 2**62, number * number))
        for number in range(n)
    ]
    spool = Spool(iter(found))
    assert list(spool) == list(spool) == found
    stamps = dict(found)
    orders = [range(n), reversed(range(n)), [one * 11 % n for one in range(n)]]
    for order in orders:
        for number in order:
            path = f"é/{number}.png"
            assert spool.stamp(path) == stamps[path]
            assert spool.stamp("other") is None


def test_threads_ask_at_once(monkeypatch):
    monkeypatch.setattr(spools, "AT_ONCE", 16)
    found = [(f"{number}", (number, 0, 0, 1)) for number in range(400)]
    spool = Spool(found)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(spool.stamp, [path for path, _ in found])) == [
            stamp for _, stamp in found
        ]
