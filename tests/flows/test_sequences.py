"""Any sequence of changes, each followed by a run, ends with the tables of a fresh run.

A fresh run starts in an empty folder with the images and settings of the end. 200 sequences by
`ALIKE_FULL=1`, or `ALIKE_SEQUENCES`; `ALIKE_SEED` draws others. Else a fixed few.
"""

import os
import shutil

import pandas as pd
import pytest
from changing_set import Place, without_prefect
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from alike.flows import run as whole_run

FULL = os.environ.get("ALIKE_FULL") == "1"
SEQUENCES = int(os.environ.get("ALIKE_SEQUENCES", "200" if FULL else "5"))
SEED = int(os.environ.get("ALIKE_SEED", "0"))


def assert_same(tables, fresh):
    if isinstance(fresh, str) or isinstance(tables, str):
        assert tables == fresh
        return
    assert tables.keys() == fresh.keys()
    for name in fresh:
        pd.testing.assert_frame_equal(
            tables[name], fresh[name], check_exact=False, rtol=0, atol=1e-9, obj=name
        )


KINDS = ("add", "copy", "remove", "rename", "relabel", "corrupt", "restore", "setting", "store")
CHANGES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 60)), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def tables_only():
    with pytest.MonkeyPatch.context() as patch:
        without_prefect(patch)
        # The report shows the tables; drawing it anew takes longer than all the rest.
        patch.setattr(whole_run, "_report", lambda run, before, rounds, path, past: path.touch())
        yield


@pytest.fixture(scope="module")
def begun(tmp_path_factory, tables_only):
    """A place that ran once; every sequence starts from a copy of it."""
    folder = tmp_path_factory.mktemp("begun")
    assert not isinstance(Place(folder).run(), str)
    return folder


@seed(SEED)
@settings(
    max_examples=SEQUENCES,
    deadline=None,
    database=None,
    derandomize=not FULL,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, *([Phase.shrink] if FULL else [])),
    print_blob=False,
)
@given(changes=CHANGES)
# A new image was computed alone, and rounded as a batch of one is.
@example(changes=[("add", 0)])
# The first fit of a measure was kept when images of the train split came or had other labels.
# float32 products of pairs round otherwise if the rows are in another order.
@example(changes=[("add", 0), ("add", 14)])
# A tap that left the settings again hid the images that came later from fits.
@example(changes=[("setting", 4), ("setting", 4), ("add", 0), ("add", 1), ("add", 2)])
@example(changes=[("add", 4), ("relabel", 2), ("relabel", 20), ("add", 5)])
# Tables of another store were taken for those of this one.
@example(changes=[("store", 0), ("add", 4), ("store", 0)])
def test_any_sequence_ends_as_a_fresh_run(begun, tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("sequence")
    place = Place(folder)
    shutil.copytree(begun / "out", folder / "out")
    for change in changes:
        place.change(*change)
        tables = place.run()
    assert_same(tables, place.run("fresh"))
    if not isinstance(tables, str):
        assert_same({"map": place.map("out")}, {"map": place.map("fresh")})
    shutil.rmtree(folder)
