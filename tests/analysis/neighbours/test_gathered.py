"""Neighbours from the tiles of pairs against a pass of their own, to the last bit."""

import logging
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alike.analysis.blocks import Jobs, checkpoint, held_vectors
from alike.analysis.blocks import vectors as vectors_module
from alike.analysis.blocks.checkpoint import remembering
from alike.analysis.neighbours import counted_lists, gathered, gathers, listing, nearest
from alike.analysis.neighbours.influence import Changes
from alike.analysis.neighbours.lists import Lists
from alike.analysis.pairs import Totals, count_pairs, counting, units_of
from alike.analysis.scores.measure import evaluate_measure
from alike.extract.store.store import Store

K = 10


@pytest.fixture(autouse=True)
def _small_slabs(monkeypatch):
    monkeypatch.setattr(vectors_module, "SLAB", 512)


def same(one, other):
    """Whether all arrays of two `PairCounts`, `Nearest` or `Changes` are the same to the bit."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert np.array_equal(a, b, equal_nan=True), field.name
    return True


def both(x, images, form, jobs=None, units=True):
    """Pairs and neighbours in passes of their own, in one pass, and how many groups that made."""
    jobs = jobs or Jobs()
    vectors, left_out = held_vectors(x, form), units_of(images) if units else None
    plan = listing(vectors, images, K, units=left_out)
    assert gathers(plan)
    counts, begun = counted_lists(
        counting(vectors, images), plan, map_blocks=jobs.stage("both"), rounding=jobs.stage("r")
    )
    done = begun.done
    near = nearest(vectors, images, K, units=left_out, map_blocks=jobs.stage("n"), begun=begun)
    assert same(counts, count_pairs(vectors, images, map_blocks=jobs.stage("pairs")))
    alone = nearest(vectors, images, K, units=left_out, map_blocks=jobs.stage("near"))
    assert same(near, alone)
    assert near.changes is None or same(near.changes, alone.changes)
    return done, len(plan.groups)


@pytest.mark.quick
@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize("form", ["euclidean", "cosine"])
def test_one_pass_finds_what_two_find(clustered, form, units):
    x, images = clustered(n=2500, classes=50, unit=form == "cosine")
    # Copies in one class and across classes, a vector of zeros, and many at one distance.
    x[10:14] = x[9]
    x[2000], x[2100] = x[5], 0.0
    x[300:340, 1:], x[300:340, 0] = 0.0, np.repeat([1.0, -1.0], 20)
    done, groups = both(x, images, form, Jobs(workers=2), units)
    assert done == groups > 4


def test_a_limit_that_is_too_low_costs_no_neighbour(clustered, monkeypatch):
    x, images = clustered(n=2000, classes=50)
    monkeypatch.setattr(gathered, "ERRORS", -2.0)
    monkeypatch.setattr(gathered, "MORE", 1)
    asked = []
    offered = gathered.offered
    monkeypatch.setattr(
        gathered, "offered", lambda *given: asked.append(len(given[2])) or offered(*given)
    )
    done, groups = both(x, images, "euclidean")
    assert done == groups
    assert sum(asked) > 1000


def test_images_that_are_all_alike_are_left_to_a_pass_of_their_own(clustered):
    """All are within the limits of all: N^2 candidates would wait."""
    x, images = clustered(n=2000, classes=50)
    x[:] = x[0]
    assert both(x, images, "euclidean")[0] == 0


def test_candidates_wait_in_a_file_where_they_are_many(clustered, monkeypatch):
    x, images = clustered(n=2000, classes=50)
    monkeypatch.setattr(gathered, "HELD", 1000)
    written = []
    waiting = gathered._Gathered._waiting
    monkeypatch.setattr(
        gathered._Gathered,
        "_waiting",
        lambda *given: written.append(waiting(*given)) or written[-1],
    )
    done, groups = both(x, images, "euclidean", Jobs(workers=2))
    assert done == groups
    places = [one for one in written if not isinstance(one, gathered.Entries)]
    assert len(places) > 3
    # What the documents say of its size, with lists as long as the longest.
    sample = gathered.sample_size(2000)
    longest = listing(held_vectors(x, "euclidean"), images, K, units=units_of(images)).longest()
    rate = gathered.rank_of(longest, sample, 2000) / sample
    size = max(10 * (count + first // 10) for first, count in places)
    assert 0.2 * size < sum(10 * count for _, count in places) <= size
    assert size < 1.1 * gathered.expected_bytes(2000, rate)


@pytest.mark.parametrize("full", ["before", "meanwhile"])
def test_a_full_disk_ends_no_run(clustered, monkeypatch, caplog, full):
    x, images = clustered(n=2000, classes=50)
    monkeypatch.setattr(gathered, "HELD", 1000)
    if full == "before":
        usage = gathered.shutil.disk_usage
        monkeypatch.setattr(
            gathered.shutil, "disk_usage", lambda path: usage(path)._replace(free=1 << 10)
        )
    else:
        # Every write to it fails as on a disk without room.
        def opened(**_):
            return Path("/dev/full").open("r+b", buffering=0)

        monkeypatch.setattr(gathered.tempfile, "TemporaryFile", opened)
    with caplog.at_level(logging.INFO, gathered.__name__):
        done, groups = both(x, images, "euclidean")
    assert done < groups
    assert "no room" in caplog.text or "No space left" in caplog.text


class Killed(BaseException):
    pass


def test_a_run_that_was_killed_ends_with_the_same_bits(clustered, tmp_path, monkeypatch):
    monkeypatch.setattr(gathered, "WAITING", 0)
    monkeypatch.setattr(checkpoint, "WRITING", 0.0)
    x, images = clustered(n=2500, classes=50)
    vectors, units = held_vectors(x, "euclidean"), units_of(images)
    plan, how = listing(vectors, images, K, units=units), counting(vectors, images)
    files = Store.open(tmp_path / "store", create=True).files

    def kept(name, most):
        def mapped(function, items):
            for at, item in enumerate(items):
                if at == most:
                    raise Killed
                yield function(item)

        return remembering(mapped, files, f"runs/{name}", (Totals, Changes, Lists), every=0.0)

    whole = counted_lists(how, plan)
    near = nearest(vectors, images, K, units=units, begun=whole[1])
    for most in (7, 2):
        with pytest.raises(Killed):
            counted_lists(how, plan, map_blocks=kept("both", most))
    counts, begun = counted_lists(how, plan, map_blocks=kept("both", 1000))
    assert same(counts, whole[0])
    assert 0 < begun.done < len(plan.groups)
    with pytest.raises(Killed):
        nearest(vectors, images, K, units=units, map_blocks=kept("near", 4), begun=begun)
    counts, begun = counted_lists(how, plan, map_blocks=kept("both", 1000))
    again = nearest(vectors, images, K, units=units, map_blocks=kept("near", 1000), begun=begun)
    assert same(again, near)
    assert same(again.changes, near.changes)


def test_a_measure_says_the_same_either_way(clustered):
    x, images = clustered(n=2000, classes=50)
    stages = []

    def tables(one_pass):
        def stage(name):
            stages.append(name)
            return map

        vectors = held_vectors(x, "euclidean")
        return evaluate_measure("gap_euclid", vectors, images, stage, one_pass=one_pass)

    one, two = tables(True), tables(False)
    assert "gap_euclid pairs and neighbours" in stages
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, two[name], check_exact=True)


def test_few_images_long_lists_and_inner_products_are_not_gathered(clustered):
    for n, classes, form in ((1000, 50, "euclidean"), (2000, 4, "euclidean"), (2000, 50, "inner")):
        x, images = clustered(n=n, classes=classes)
        assert not gathers(listing(held_vectors(x, form), images, K, units=units_of(images)))
