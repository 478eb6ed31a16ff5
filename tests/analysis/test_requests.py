"""An analysis asks an object store for every unit of an array once."""

import fsspec
import pytest

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.extract.store.store import Store


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
