"""The choice: by measuring, under the wish, and said in the end."""

from dataclasses import replace

import numpy as np
import pytest

from alike.extract.errors import BadInput
from alike.index.choose import EQUAL, FINALISTS, _best, choose
from alike.index.kinds import INDEX_KINDS
from alike.index.specs import IndexSpec, Point, Wish
from alike.index.trial import Candidate, holds, new_trial, sweep

from .conftest import clustered


def trial(wish, n=6000, queries=300, dimension=64):
    vectors, _ = clustered(n, dimension=dimension, classes=40)
    mixed = np.random.default_rng(0).permutation(n)
    vectors = vectors[mixed] / np.linalg.norm(vectors[mixed], axis=1, keepdims=True)
    train = np.arange(n - queries)
    return new_trial(vectors, np.arange(n), n - queries, train, "l2", wish)


def test_soon_enough_is_exact():
    """A small set answers exactly within the latency asked: nothing else is even tried."""
    chosen = choose(trial(Wish(latency=10.0)))
    assert INDEX_KINDS[chosen.point.spec.kind].exact
    assert {INDEX_KINDS[point.spec.kind].exact for point in chosen.curve} == {True}
    assert "exact search answers in" in chosen.why


def test_the_fastest_that_holds_is_chosen():
    wish = Wish(0.9)
    chosen = choose(trial(wish), kinds=["flat", "hnsw", "ivf_flat", "ivf_fp16", "ivf_pq"])
    holding = [point for point in chosen.curve if holds(point, wish)]
    fastest = max(point.queries_per_second for point in holding)
    assert chosen.point in holding
    assert chosen.point.queries_per_second >= EQUAL * fastest
    assert {point.spec.kind for point in chosen.curve} == {
        "flat", "hnsw", "ivf_flat", "ivf_fp16", "ivf_pq",
    }  # fmt: skip
    assert "the fastest of 5 kinds that holds" in chosen.why


@pytest.mark.parametrize(
    ("made", "chosen"),
    [
        # (kind, queries a second, bytes, recall)
        ([("hnsw", 100, 30, 1), ("ivf_flat", 96, 20, 1)], "ivf_flat"),
        ([("hnsw", 100, 30, 1), ("ivf_flat", 94, 20, 1)], "hnsw"),
        ([("hnsw", 100, 30, 1), ("ivf_flat", 104, 40, 1)], "hnsw"),
        ([("hnsw", 100, 30, 0.5), ("ivf_flat", 50, 40, 1)], "ivf_flat"),
    ],
)
def test_of_equally_fast_kinds_the_smallest_is_chosen(made, chosen):
    tried = []
    for kind, speed, size, recall in made:
        point = Point(
            IndexSpec(kind, kind), recall, recall, recall, speed, 1 / speed, 0.0, size, 1000
        )
        tried.append((INDEX_KINDS[kind], Candidate(None, (point,), point if recall == 1 else None)))
    assert _best(tried, Wish(0.9))[1].spec.kind == chosen


def test_a_large_set_is_first_tried_on_a_part():
    kinds = ["hnsw", "ivf_flat", "ivf_sq8", "ivf_pq", "ivf_rabitq"]
    chosen = choose(trial(Wish(0.8)), kinds=kinds, stage=3000)
    tried = {point.spec.kind for point in chosen.curve}
    assert 1 <= len(tried) <= FINALISTS
    assert {point.n for point in chosen.curve} == {5700}


def test_what_promises_too_little_on_a_part_is_not_built_and_is_named(monkeypatch):
    kinds = ["hnsw", "ivf_flat", "ivf_pq"]
    monkeypatch.setattr("alike.index.choose.SLOW", 1e9)
    chosen = choose(trial(Wish(0.8)), kinds=kinds, stage=3000)
    assert {point.spec.kind for point in chosen.curve} == {chosen.point.spec.kind}
    left = chosen.why.split("on a part of the vectors ")[1].split(" promised")[0]
    assert {*left.split(", "), chosen.point.spec.kind} == set(kinds)
    monkeypatch.setattr("alike.index.choose.SLOW", 0.0)
    chosen = choose(trial(Wish(0.8)), kinds=kinds, stage=3000)
    assert {point.spec.kind for point in chosen.curve} == set(kinds)
    assert "promised" not in chosen.why


def test_batches_may_be_answered_in_bfloat16():
    if not INDEX_KINDS["flat_bfloat16"].available():
        pytest.skip("this CPU multiplies no bfloat16")
    chosen = choose(trial(Wish(1.0, batch=256)))
    assert {point.spec.kind for point in chosen.curve} == {"flat", "flat_bfloat16"}
    alone = choose(trial(Wish(1.0, batch=1)))
    assert {point.spec.kind for point in alone.curve} == {"flat"}


@pytest.mark.parametrize(
    ("native", "batch", "kind", "told"),
    [
        (False, 64, "flat_bfloat16", "this CPU does not multiply bfloat16 natively"),
        (True, 1, "flat_bfloat16", "batches of 8 queries or more, the wish is 1"),
        (True, 1, "ivf_pq", "13 numbers a vector divide into no product codes"),
    ],
)
def test_a_kind_asked_for_that_does_not_serve_is_refused(monkeypatch, native, batch, kind, told):
    row = replace(INDEX_KINDS[kind], available=lambda: native or kind != "flat_bfloat16")
    monkeypatch.setitem(INDEX_KINDS, kind, row)
    dimension = 13 if kind == "ivf_pq" else 16
    with pytest.raises(BadInput, match=told):
        choose(trial(Wish(batch=batch), n=400, queries=40, dimension=dimension), kinds=[kind])


def test_emulated_bfloat16_is_no_candidate(monkeypatch):
    row = replace(INDEX_KINDS["flat_bfloat16"], available=lambda: False)
    monkeypatch.setitem(INDEX_KINDS, "flat_bfloat16", row)
    chosen = choose(trial(Wish(1.0, batch=64), n=1500, queries=64))
    assert {point.spec.kind for point in chosen.curve} == {"flat"}


@pytest.mark.quick
def test_no_time_no_candidates_but_the_exact_ones():
    chosen = choose(trial(Wish(0.9, latency=None)), effort=0.0, stage=3000)
    assert INDEX_KINDS[chosen.point.spec.kind].exact


class TestSweep:
    """Against a made curve: recall rises with nprobe and with k_factor, speed falls."""

    def points(self, recall, most=1.0):
        asked = []

        def measure(search):
            asked.append(dict(search))
            probes, factor = search["nprobe"], search["k_factor"]
            found = min(most, 1 - 0.5 / probes - 0.2 / factor)
            speed = 1e5 / (probes + 3 * factor)
            return Point(None, found, found, found, speed, 1 / speed, 0, 0, 0)

        found = list(sweep(measure, "ivf_pq", recall))
        return asked, found

    def test_finds_the_fastest_of_the_grid(self):
        _, points = self.points(0.95)
        fastest = max(
            (point for point in points if point.low >= 0.95),
            key=lambda point: point.queries_per_second,
        )
        every = [
            1e5 / (probes + 3 * factor)
            for probes in range(1, 513)
            for factor in (1, 2, 4, 8, 16, 32, 64, 128)
            if 1 - 0.5 / probes - 0.2 / factor >= 0.95
        ]
        assert fastest.queries_per_second >= 0.85 * max(every)

    def test_asks_nothing_twice_and_ends(self):
        asked, points = self.points(0.95)
        assert len({tuple(one.items()) for one in asked}) == len(asked) == len(points) < 60

    def test_gives_up_where_nothing_holds(self):
        _, points = self.points(0.95, most=0.9)
        assert points
        assert all(point.low < 0.95 for point in points)
