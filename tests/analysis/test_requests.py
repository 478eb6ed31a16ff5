"""How often whole steps ask an object store: for every unit of an array once."""

import fsspec
import pytest

from alike import export, neighbours
from alike.analysis.analyse import AnalysisSettings, analyse
from alike.extract.store import collect_garbage, verify
from alike.extract.store.store import Store
from alike.index.build import build_index


@pytest.mark.quick
def test_an_analysis_reads_every_unit_of_an_array_once(s3_requests, make, write_features):
    fsspec.filesystem("s3").mkdir("analysed")
    settings = AnalysisSettings(measures=["gap_cosine", "gap_euclid"], bootstrap=0)
    sent = []
    for units in (1, 3):
        place = f"s3://analysed/{units}"
        made = make(sizes=(units * 512, units * 512))
        write_features(place, made, taps=("gap", "logits"))
        features = Store.open(place).features()
        s3_requests.clear()
        analyse(features, settings)
        sent.append(len(s3_requests))
        for name in ("gap", "logits"):
            shards = [one for one in s3_requests if f"/{name}/c." in one]
            assert 0 < len(shards) <= 2 * units, name
    # Beside the two arrays, a record is read of every unit.
    assert sent[1] - sent[0] <= 2 * (2 * 2 + 1)
    assert sent[0] <= 100


@pytest.mark.quick
def test_no_step_asks_faster_than_units_grow(s3_requests, make, write_features, tmp_path):
    """A third unit costs no more requests than the second did."""
    fsspec.filesystem("s3").mkdir("growing")
    steps = {
        "index": lambda store: build_index(store.features(), "gap_euclid"),
        "neighbours": lambda store: neighbours(3, store, measure="gap_euclid"),
        "export": lambda store: export(
            store, measure="gap_euclid", to=tmp_path / f"{len(store.url)}.parquet"
        ),
        "verify": lambda store: verify(store, mark=False),
        "gc": collect_garbage,
    }
    sent = {name: [] for name in steps}
    for units in (1, 2, 3):
        place = f"s3://growing/{'x' * units}"
        write_features(place, make(sizes=(units * 512, units * 512)), taps=("gap", "logits"))
        for name, step in steps.items():
            store = Store.open(place)
            s3_requests.clear()
            step(store)
            sent[name].append(len(s3_requests))
    for name, (one, two, three) in sent.items():
        assert three - two <= two - one + 2, (name, sent)
        # Two arrays, each with a record of its rows: at most 2 reads a unit and array.
        assert three - two <= 2 * (2 * 2 + 1), (name, sent)
