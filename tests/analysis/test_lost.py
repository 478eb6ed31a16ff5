"""Images that lost a map: measures that need it leave them out and say so, others use them."""

import numpy as np
import pytest
from typer.testing import CliRunner

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.compare import compare, comparison_notes
from alike.analysis.maps.maps import MapSettings, make_map
from alike.analysis.networks import network_similarity
from alike.extract.store.store import Store
from alike.flows.cli import app


def lose(features, rows, name="last_conv"):
    """Take a map away from some rows, as extraction does when it is beyond float16."""
    n = features.store.n_rows
    arrays = {one: features.read(one, np.arange(n)) for one in features.arrays}
    features.write_unit(0, arrays, {}, lost={row: [name] for row in rows})
    return Store.open(features.store.url).features(features.key)


def test_measures_leave_out_what_has_no_map(tmp_path, make, write_features):
    features = lose(write_features(tmp_path / "s", make(sizes=(20, 20))), (3, 4, 9))
    found = analyse(features, AnalysisSettings(measures=["gap_cosine", "map_cosine"], bootstrap=0))
    scores = found.tables["scores"]
    notes = scores[scores["score"] == "sameness"].set_index("measure")["note"]
    assert "37 of 40 images: the others have no such features" in notes["map_cosine"]
    assert "of 40 images" not in notes["gap_cosine"]
    assert found.n_images == 40


def test_a_control_of_the_same_store_is_evaluated_where_it_has_features(
    tmp_path, make, write_features
):
    features = write_features(tmp_path / "s", make(sizes=(20, 20)))
    control = write_features(tmp_path / "s", make(sizes=(20, 20), seed=1), key="net-1-1")
    n = features.store.n_rows
    arrays = {one: control.read(one, np.arange(n)) for one in control.arrays}
    bad = dict.fromkeys((0, 5), ("non-finite", "gap has NaN"))
    control.write_unit(0, arrays, bad)
    settings = AnalysisSettings(measures=["gap_cosine"], bootstrap=0)
    found = analyse(features, settings, untrained=control)
    scores = found.tables["scores"].set_index("measure")["note"]
    told = scores["untrained_gap_cosine"].str.contains("38 of 40 images: the others have no such")
    assert told.all()
    control.write_unit(0, arrays, dict.fromkeys(range(40), ("non-finite", "gap has NaN")))
    found = analyse(features, settings, untrained=control)
    assert "untrained_gap_cosine" in found.settings["left_out"]
    assert set(found.tables["scores"]["measure"]) >= {"gap_cosine"}


def test_two_networks_are_compared_where_both_have_the_map(tmp_path, make, write_features):
    a = lose(write_features(tmp_path / "a", make(sizes=(20, 20))), (3, 4, 9))
    b = lose(write_features(tmp_path / "b", make(sizes=(20, 20))), (4, 11))
    table = compare(a, b, measure="map_cosine")
    counts = {"images": 36, "of": 36, "lost": 4, "influence_of": 36, "people": [], "unmatched": []}
    # Both networks are one.
    assert table.attrs == {**counts, "at_end": []}
    (note,) = comparison_notes(table, "map_cosine")
    assert note.startswith("4 images are left out: one of the two has no")
    whole = compare(a, b)
    counts = {"images": 40, "of": 40, "lost": 0, "influence_of": 40, "people": [], "unmatched": []}
    assert whole.attrs == {**counts, "at_end": whole.attrs["at_end"]}
    assert not any("left out" in note for note in comparison_notes(whole, "gap_cosine"))
    kept = ~np.isin(a.table("held_out")["row"], (3, 4, 9, 11))
    _, changes = network_similarity(a, b, measure="map_cosine", k=3)
    assert set(changes["row"]) == set(a.table("held_out")["row"][kept])


def test_a_map_leaves_out_what_the_measure_cannot_read(tmp_path, make, write_features):
    from alike.analysis.report.map import _note

    features = lose(write_features(tmp_path / "s", make(sizes=(20, 20))), (3, 4, 9))
    table = make_map(features, MapSettings("map_cosine"))
    rows = features.table("held_out")["row"]
    assert list(table["row"]) == list(rows[~np.isin(rows, (3, 4, 9))])
    assert np.isfinite(table[["pca_x", "pca_y", "tsne_x", "tsne_y"]]).all(axis=None)
    assert "3 images left out, which lack what the measure reads" in _note(table)
    assert make_map(features).attrs["left_out"] == 0
    shown = CliRunner().invoke(
        app, ["map", "--store", features.store.url, "--measure", "map_cosine"]
    )
    assert "note: 3 images are left out" in shown.output


@pytest.mark.quick
def test_features_that_are_all_equal_are_a_warning(tmp_path, make, write_features):
    made = make(sizes=(10, 10))
    made.arrays["gap"][:] = 1.0
    features = write_features(tmp_path / "s", made)
    settings = AnalysisSettings(measures=["fc_cosine"], bootstrap=0)
    found = analyse(features, settings)
    assert found.settings["warnings"] == [
        "gap is the same for all 20 images looked at: it tells none of them apart"
    ]
