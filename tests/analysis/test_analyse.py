"""The whole analysis on a real store: tables, default measures, resume, cluster, bad input."""

import json
from dataclasses import replace
from importlib.util import find_spec

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from typer.testing import CliRunner

from alike.analysis import analyse as module
from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks.evaluation_set import stored_evaluation_set
from alike.analysis.compare import compare
from alike.analysis.maps.maps import MapSettings
from alike.analysis.networks import network_similarity
from alike.analysis.report.answer import answer
from alike.analysis.scores.sets import all_pairs
from alike.analysis.scores.table import SCORES
from alike.analysis.stored import Analysis
from alike.extract.errors import BadInput
from alike.extract.measures.measures import MEASURES
from alike.extract.measures.sets import SET_MEASURES
from alike.extract.measures.stored import ready_measure
from alike.flows.cli import app

COLUMNS = {
    "scores": ["measure", "score", "value", "low", "high", "better", "note"],
    "class_pairs": [
        "measure", "class_a", "class_b", "mean", "std", "q05", "median", "q95", "n_pairs",
    ],
    "histograms": ["measure", "bin_low", "bin_high", "same", "different"],
    "per_class": [
        "measure", "class", "n", "auc", "sameness", "sameness_low", "sameness_high",
        "balanced_accuracy", "intra_mean", "inter_mean",
    ],
    "roc": ["measure", "far", "tar", "threshold"],
    "pairs_examples": ["measure", "kind", "row_a", "row_b", "distance"],
    "neighbours": ["measure", "row", "rank", "neighbour", "distance"],
    "twins": [
        "row_a", "row_b", "path_a", "path_b", "side_a", "side_b", "correlation", "how",
    ],
    "bayes": ["measure", "voters", "lower", "upper", "lower_low", "upper_high", "note"],
    "suspects": [
        "measure", "kind", "row", "label", "suggested", "score",
        *(["cleanlab"] if find_spec("cleanlab") else []),
    ],
    "sufficiency": ["measure", "score", "images", "value", "low", "high", "kind", "note"],
}  # fmt: skip


@pytest.fixture
def features(tmp_path, made, write_features):
    return write_features(tmp_path / "store", made)


def value(analysis, measure, score):
    rows = analysis.tables["scores"]
    return float(rows[(rows["measure"] == measure) & (rows["score"] == score)]["value"].iloc[0])


def test_tables_are_what_they_are_said_to_be_and_come_back(features):
    found = analyse(features, AnalysisSettings(bootstrap=20))
    assert {name: list(table.columns) for name, table in found.tables.items()} == COLUMNS
    left_out = set(found.settings["left_out"]) - {"cleanlab"}
    assert left_out == {"gap_cosine_centred", "lda_cosine", "probes"}
    again = Analysis.load(features.store, features.key)
    for name, table in found.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table, check_dtype=False)
    assert json.loads(json.dumps(dict(again.settings))) == json.loads(
        json.dumps(dict(found.settings))
    )
    assert set(found.tables["scores"]["score"]) <= set(SCORES)
    rows = found.tables["scores"].dropna(subset=["low"])
    head = rows[(rows["measure"] == "gap_cosine") & (rows["score"] == "sameness")].iloc[0]
    assert head["low"] < head["value"] < head["high"]
    assert not features.store.path("runs").exists()


def test_rows_follow_labels_not_order(features, made):
    found = analyse(features, AnalysisSettings(measures=["gap_euclid"], bootstrap=0))
    gap = made.arrays["gap"].astype(np.float64)
    distance = np.sqrt(((gap[:, None] - gap[None]) ** 2).sum(axis=2))
    table = features.table().set_index("row")
    near = found.tables["neighbours"]
    np.fill_diagonal(distance, np.inf)
    first = near[near["rank"] == 1].set_index("row")["neighbour"]
    by_row = table["path"].str.removesuffix(".png").astype(int)
    for row, neighbour in first.items():
        assert distance[by_row[row]].argmin() == by_row[neighbour]
    table = found.tables["pairs_examples"]
    same = made.codes[:, None] == made.codes
    for kind, sign in (("most alike different", 1), ("least alike same", -1)):
        rows = table[table["kind"] == kind]
        wanted = np.where(~same if sign == 1 else same, distance, sign * np.inf)
        np.fill_diagonal(wanted, sign * np.inf)
        best = wanted.min() if sign == 1 else wanted.max()
        assert rows["distance"].iloc[0] == pytest.approx(best, rel=1e-4)


def test_class_pairs_hold_both_ways_and_a_class_of_one_is_nan(features):
    table = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0)).tables[
        "class_pairs"
    ]
    assert len(table) == 25
    square = table.pivot(index="class_a", columns="class_b", values="mean").to_numpy()
    np.testing.assert_allclose(square, square.T)
    assert np.isnan(square[4, 4])
    assert np.isfinite(np.delete(square.ravel(), 24)).all()


@pytest.mark.parametrize("measure", ["gap_cosine", "gap_euclid"])
def test_quantiles_of_class_pairs_are_those_of_their_distances(measure, features, made):
    table = analyse(features, AnalysisSettings(measures=[measure], bootstrap=0)).tables[
        "class_pairs"
    ]
    gap = made.arrays["gap"].astype(np.float64)
    distance = cdist(gap, gap, "cosine" if measure == "gap_cosine" else "euclidean")
    for a, b in ((0, 1), (2, 2), (1, 4)):
        chosen = distance[np.ix_(made.codes == a, made.codes == b)]
        chosen = chosen[np.triu_indices(len(chosen), 1)] if a == b else chosen.ravel()
        row = table.query(f"class_a == 'class {b}' and class_b == 'class {a}'").iloc[0]
        ranks = [(np.sort(chosen) <= row[name] + 1e-4).mean() for name in ("q05", "median", "q95")]
        assert ranks == pytest.approx([0.05, 0.5, 0.95], abs=0.02 + 1 / len(chosen))
        assert row["n_pairs"] == len(chosen)
    assert table.query("class_a == 'class 4' and class_b == 'class 4'")["median"].isna().all()


def test_s6_shuffled_labels_are_at_chance(tmp_path, make, write_features):
    made = make(sizes=(60, 60, 60))
    made.labels = list(np.random.default_rng(1).permutation(made.labels))
    found = analyse(
        write_features(tmp_path / "s", made),
        AnalysisSettings(measures=["gap_cosine"], bootstrap=100),
    )
    row = found.tables["scores"].query("score == 'auc'").iloc[0]
    error = (row["high"] - row["low"]) / (2 * 1.96)
    assert abs(row["value"] - 0.5) <= 3 * error + 0.01
    assert value(found, "gap_cosine", "r_precision") == pytest.approx(59 / 179, abs=0.03)
    # A rank holds a kin with chance p, and each rank before it does by chance q given that.
    p, q, rank = 59 / 179, 58 / 178, np.arange(1, 60)
    chance = (p * (1 + (rank - 1) * q) / rank).sum() / 59
    assert value(found, "gap_cosine", "map_at_r") == pytest.approx(chance, abs=0.03)
    assert value(found, "gap_cosine", "silhouette") <= 0
    assert value(found, "network", "nc1") > 5


def test_fitted_measures_never_evaluate_what_they_saw(tmp_path, make, write_features):
    features = write_features(tmp_path / "s", make(sizes=(60, 60, 60)), share=0.5)
    found = analyse(features, AnalysisSettings(measures=["lda_cosine", "gap_cosine"], bootstrap=0))
    seen = ready_measure(features, "lda_cosine").fitted_rows
    images = found.tables["neighbours"].query("measure == 'lda_cosine'")["row"]
    assert len(seen) > 0
    assert not np.isin(images, seen).any()
    with pytest.raises(BadInput, match="must not evaluate"):
        analyse(features, AnalysisSettings(measures=["lda_cosine"], split="train", bootstrap=0))


def test_floor_ceiling_and_untrained(tmp_path, make, write_features):
    made = make(sizes=(40, 40, 40))
    features = write_features(tmp_path / "s", made)
    blind = make(sizes=(40, 40, 40), seed=9)
    blind.arrays = {k: np.random.default_rng(0).permutation(v) for k, v in blind.arrays.items()}
    untrained = write_features(tmp_path / "u", blind)
    found = analyse(features, AnalysisSettings(bootstrap=0), untrained=untrained)
    floor, middle = value(found, "pixel_euclid", "sameness"), value(found, "gap_cosine", "sameness")
    none = value(found, "untrained_gap_cosine", "sameness")
    ceiling = value(found, "softmax_dot", "sameness")
    assert max(floor, none) < 0.2 < middle < ceiling


def test_the_default_set_leaves_out_what_does_not_fit_and_says_why(tmp_path, make, write_features):
    made = make(sizes=(40, 40))
    made.weight = np.ones((2, 99), np.float32)
    features = write_features(tmp_path / "s", made, share=0.5)
    left_out = analyse(features, AnalysisSettings(bootstrap=0)).settings["left_out"]
    assert set(left_out) - {"cleanlab"} == {"cam_pred_cosine", "gap_wpred_cosine"}
    assert "99 inputs but the map has 12 channels" in left_out["cam_pred_cosine"]
    left_out = analyse(features, AnalysisSettings(bootstrap=0, split="train")).settings["left_out"]
    assert "must not evaluate" in left_out["lda_cosine"]
    with pytest.raises(BadInput, match="99 inputs"):
        analyse(features, AnalysisSettings(measures=["cam_pred_cosine"]))


def test_accuracy_needs_labels_that_the_network_knows(tmp_path, make, write_features):
    made = make(sizes=(40, 40))
    known = analyse(
        write_features(tmp_path / "a", made), AnalysisSettings(measures=["gap_cosine"], bootstrap=0)
    )
    right = (made.arrays["logits"].argmax(axis=1) == made.codes).mean()
    assert value(known, "network", "accuracy") == pytest.approx(right)
    assert value(known, "network", "nc3") > 0
    other = write_features(tmp_path / "b", made, names=["cat", "dog"])
    rows = analyse(other, AnalysisSettings(measures=["gap_cosine"], bootstrap=0)).tables["scores"]
    assert "accuracy" not in set(rows["score"])
    assert "nc1" in set(rows["score"])


def test_beyond_the_budget_a_sample_is_evaluated_and_said_so(tmp_path, make, write_features):
    made = make(sizes=(900, 700))
    features = write_features(tmp_path / "s", made, taps=["gap"])
    found = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=10, budget=1.0))
    whole = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=10))
    notes = found.tables["scores"].query("measure == 'gap_cosine'")["note"]
    assert notes.str.count("sample of 1000 of 1600 images").eq(1).all()
    assert (found.n_images, found.settings["n_images_before_sampling"]) == (1000, 1600)
    assert (
        "on a sample of 1\u202f000 of 1\u202f600 images of 2"
        in answer(found, None, None, "gap_cosine").sentences[0]
    )
    low, high = found.tables["scores"].query("score == 'sameness'")[["low", "high"]].iloc[0]
    wide = 2 * (high - low)
    assert low - wide < value(whole, "gap_cosine", "sameness") < high + wide


def test_influences_of_many_images_are_of_a_sample(tmp_path, make, write_features, monkeypatch):
    from alike.analysis.pairs import influence

    features = write_features(tmp_path / "s", make(sizes=(300, 300)), taps=["gap"])
    whole = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=100)).tables[
        "scores"
    ]
    monkeypatch.setattr(influence, "INFLUENCE_ROWS", 200)
    small = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=100)).tables[
        "scores"
    ]
    one, other = (t.query("score == 'auc'").iloc[0] for t in (whole, small))
    assert one["low"] != other["low"]
    assert one["value"] == other["value"]
    ratio = (other["high"] - other["low"]) / (one["high"] - one["low"])
    assert 0.4 < ratio < 2.5


@pytest.mark.parametrize("name", [n for n in MEASURES if n not in ("gap_cosine", "softmax_dot")])
def test_every_measure_goes_through(name, tmp_path, make, write_features):
    features = write_features(tmp_path / "s", make(sizes=(40, 40)), share=0.5)
    found = analyse(features, AnalysisSettings(measures=[name], bootstrap=3))
    assert 0 <= value(found, name, "auc") <= 1
    assert len(found.tables["per_class"]) == 2


def test_set_measures_evaluate_a_sample(tmp_path, make, write_features, monkeypatch):
    features = write_features(tmp_path / "s", make(sizes=(200, 150)))
    # Fewer sinkhorn pairs than the default: the test would take a minute.
    monkeypatch.setitem(SET_MEASURES, "sinkhorn", replace(SET_MEASURES["sinkhorn"], sample=40))
    found = analyse(features, AnalysisSettings(measures=["chamfer", "sinkhorn"], bootstrap=20))
    scores = found.tables["scores"]
    for name, size in (("chamfer", 300), ("sinkhorn", 40)):
        assert value(found, name, "auc") > 0.6
        notes = scores[scores["measure"] == name]["note"]
        assert (notes == f"all pairs of a stratified sample of {size} of 350 images").all()
    assert value(found, "gap_cosine", "auc") > 0.6
    images = stored_evaluation_set(features, "held_out")
    few = images.sample(300, 0)
    assert few.counts.tolist() == [171, 129]
    distances = all_pairs(features, SET_MEASURES["chamfer"], few.rows)
    same = few.codes[:, None] == few.codes[None]
    upper = np.triu(np.ones_like(same), 1)
    assert value(found, "chamfer", "intra_mean") == pytest.approx(distances[same & upper].mean())
    assert value(found, "chamfer", "inter_mean") == pytest.approx(distances[~same & upper].mean())
    bare = write_features(tmp_path / "t", make(sizes=(30, 30)), taps=["gap"])
    with pytest.raises(BadInput, match=r"--taps last_conv"):
        analyse(bare, AnalysisSettings(measures=["chamfer"]))


def test_maps_of_a_set_measure_are_read_where_they_are_compared(tmp_path, make, write_features):
    features = write_features(tmp_path / "s", make(sizes=(40, 40)))
    rows, travelled = np.arange(80), []

    def elsewhere(function, items):
        travelled.append(cloudpickle.dumps(function))
        return map(cloudpickle.loads(travelled[0]), items)

    measure = SET_MEASURES["chamfer"]
    found = all_pairs(features, measure, rows, elsewhere)
    assert np.array_equal(found, all_pairs(features, measure, rows))
    # Names and row numbers; the maps are 80 x 12 x 9 numbers of 2 bytes.
    assert len(travelled[0]) < rows.nbytes + 2000


def test_a_tap_that_was_not_stored_is_named_with_its_command(tmp_path, made, write_features):
    features = write_features(tmp_path / "s", made, taps=["gap"])
    with pytest.raises(BadInput, match=r"alike extract .* --taps last_conv"):
        analyse(features, AnalysisSettings(measures=["map_cosine"]))
    found = analyse(features, AnalysisSettings(bootstrap=0))
    assert "map_cosine" in found.settings["left_out"]


def test_nan_features_are_named_by_row(tmp_path, made, write_features):
    made.arrays["gap"][17] = np.nan
    features = write_features(tmp_path / "s", made)
    with pytest.raises(BadInput, match=r"row.* 17 "):
        analyse(features, AnalysisSettings(measures=["gap_cosine"]))


@pytest.mark.parametrize(("measure", "wrong"), [("chamfer", np.nan), ("sinkhorn", np.inf)])
def test_maps_that_are_no_numbers_are_named_by_row(measure, wrong, tmp_path, made, write_features):
    made.arrays["last_conv"][17, 3, 1, 1] = wrong
    features = write_features(tmp_path / "s", made)
    with pytest.raises(BadInput, match=r"last_conv is NaN or infinite in rows 17 of net-0-0"):
        analyse(features, AnalysisSettings(measures=[measure], bootstrap=0))


@pytest.mark.parametrize(
    "evaluate",
    [
        lambda f: analyse(f, AnalysisSettings(measures=["gap_cosine"], bootstrap=1)),
        lambda f: compare(f, f, bootstrap=1),
    ],
)
def test_logits_that_are_no_numbers_are_named_by_row(evaluate, tmp_path, made, write_features):
    made.arrays["logits"][17, 2] = np.nan
    features = write_features(tmp_path / "s", made)
    with pytest.raises(BadInput, match=r"logits is NaN or infinite in rows 17 of net-0-0"):
        evaluate(features)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m, "labels", ["one"] * 100), "one class"),
        (lambda m: setattr(m, "labels", [str(i) for i in range(100)]), "single image"),
        (lambda m: setattr(m, "labels", [None] * 100), "no labelled image"),
    ],
)
def test_labels_that_make_no_pairs(change, message, tmp_path, made, write_features):
    change(made)
    features = write_features(tmp_path / "s", made, names=["a"])
    with pytest.raises(BadInput, match=message):
        analyse(features)


def test_splits_and_names_that_do_not_exist(features):
    with pytest.raises(BadInput, match="held_out, validation, train or all"):
        analyse(features, AnalysisSettings(split="test"))
    with pytest.raises(BadInput, match="empty"):
        analyse(features, AnalysisSettings(split="train"))
    with pytest.raises(BadInput, match="unknown measure 'cosine'"):
        analyse(features, AnalysisSettings(measures=["cosine"]))
    with pytest.raises(BadInput, match="no features 'other'"):
        Analysis.load(features.store, "other")


def test_a_class_of_one_is_told_wherever_it_counts_otherwise(features):
    scores = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0)).tables[
        "scores"
    ]
    told = scores[scores["note"].str.contains("1 classes of one image")]
    assert set(told["score"]) == {
        "one_nn", "purity_at_10", "recall_at_10", "r_precision", "map_at_r",
        "silhouette", "simplified_silhouette", "davies_bouldin", "calinski_harabasz",
        "fisher", "cdnv", "nearest_mean_accuracy",
        "nc1", "nc2_norm", "nc2_angle", "nc3", "nc4",
    }  # fmt: skip


def test_dimension_is_that_of_distances_not_of_inner_products(features):
    found = analyse(
        features, AnalysisSettings(measures=["logits_cosine", "softmax_dot"], bootstrap=0)
    )
    assert value(found, "logits_cosine", "two_nn") > 0
    assert np.isnan(value(found, "softmax_dot", "two_nn"))
    rows = found.tables["scores"].query("measure == 'softmax_dot' and score == 'two_nn'")
    assert rows["note"].iloc[0].startswith("undefined: the measure's distance is 1 - an inner")


@pytest.mark.parametrize("bins", [-2, 0, 1, 1000])
def test_a_wrong_number_of_bins_is_refused_before_anything_is_read(bins, features):
    with pytest.raises(BadInput, match=f"{bins} bins: expected a power of two"):
        analyse(features, AnalysisSettings(split="no such", bins=bins))


def test_a_seed_below_zero_is_refused(features):
    for asked in (
        lambda: analyse(features, AnalysisSettings(seed=-1)),
        lambda: compare(features, features, seed=-1),
        lambda: network_similarity(features, features, seed=-1),
        lambda: MapSettings(seed=-1),
    ):
        with pytest.raises(BadInput, match="seed -1: expected a whole number from 0"):
            asked()


@pytest.mark.parametrize("size", [1e20, 1e-21, 1e-30])
def test_distances_beyond_float32_are_refused(size, tmp_path, made, write_features):
    made.arrays["gap"] = made.arrays["gap"] * np.float32(size)
    features = write_features(tmp_path / "s", made, taps=["gap"])
    for asked in (
        lambda: analyse(features, AnalysisSettings(measures=["gap_euclid"], bootstrap=0)),
        lambda: compare(features, features, measure="gap_euclid", bootstrap=1),
    ):
        with pytest.raises(BadInput, match="overflow float32 or vanish in it"):
            asked()


def test_constant_features_are_at_chance_not_an_error(tmp_path, made, write_features):
    made.arrays["gap"][:] = 1.0
    features = write_features(tmp_path / "s", made, taps=["gap"])
    found = analyse(features, AnalysisSettings(measures=["gap_cosine", "gap_euclid"], bootstrap=5))
    assert value(found, "gap_cosine", "auc") == pytest.approx(0.5)
    assert value(found, "gap_euclid", "auc") == pytest.approx(0.5)


def test_coarser_products_say_what_they_do(tmp_path, make, write_features):
    features = write_features(tmp_path / "s", make(sizes=(60, 50)), taps=["gap"])
    exact = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0))
    rough = analyse(
        features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0, precision="bfloat16")
    )
    assert value(rough, "gap_cosine", "auc") == pytest.approx(
        value(exact, "gap_cosine", "auc"), abs=2e-3
    )
    note = rough.tables["scores"].query("score == 'auc'")["note"].iloc[0]
    assert "bfloat16 products, which move the AUC of 110 images by" in note
    with pytest.raises(BadInput, match="power of two"):
        analyse(features, AnalysisSettings(bins=1000))


class TestCommands:
    def test_analyse_and_compare_print_json(self, tmp_path, make, write_features):
        write_features(tmp_path / "s", make(sizes=(30, 30)), key="net-a")
        write_features(tmp_path / "s", make(sizes=(30, 30), seed=1), key="net-b")
        store = str(tmp_path / "s")
        run = CliRunner().invoke
        said = run(app, [
            "analyse", "--store", store, "--features", "net-a", "--measures", "gap_cosine",
            "--bootstrap", "5", "--json",
        ])  # fmt: skip
        assert said.exit_code == 0, said.output
        told = json.loads(said.stdout)
        assert told["scores"][0]["score"] == "sameness"
        said = run(
            app, ["compare", "net-a", "net-b", "--store", store, "--bootstrap", "5", "--json"]
        )
        assert said.exit_code == 0, said.output
        assert set(json.loads(said.stdout)) >= {"scores", "likeness"}
        said = run(app, ["analyse", "--store", store, "--features", "net-a", "--bootstrap", "5"])
        assert "left out: lda_cosine" in said.stdout


@pytest.mark.quick
def test_default_measures_are_measures():
    assert set(module.DEFAULT_MEASURES) <= set(MEASURES)


def test_distances_too_small_for_float32_are_not_called_certain(tmp_path, make, write_features):
    """A collapsed network: what is left of its distances is rounding."""
    made = make(sizes=(30, 25), channels=16)
    made.arrays["gap"] = made.arrays["gap"].astype(np.float32) + np.float32(3000.0)
    features = write_features(tmp_path / "s", made, taps=["gap"])
    found = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0))
    note = found.tables["scores"].query("score == 'auc'")["note"].iloc[0]
    assert "where float32 rounds them too: not certain" in note


def test_few_images_and_fitted_measures_say_so(tmp_path, make, write_features):
    features = write_features(tmp_path / "few", make(sizes=(3, 2)), taps=["gap"])
    scores = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0)).tables[
        "scores"
    ]
    notes = scores.set_index("score")["note"]
    assert "k cut to 4, since there are 5 images" in notes["purity_at_10"]
    assert notes["balanced_accuracy"] == "no fold has pairs of both kinds: too few images"
    features = write_features(tmp_path / "half", make(sizes=(60, 60)), taps=["gap"], share=0.5)
    measures = ["gap_cosine", "lda_cosine", "lda_cosine"]
    found = analyse(features, AnalysisSettings(measures=measures, split="all", bootstrap=0)).tables[
        "scores"
    ]
    assert found.groupby("measure")["score"].apply(lambda names: names.is_unique).all()
    rest = len(features.table("held_out"))
    notes = found[found["measure"] == "lda_cosine"]["note"]
    assert notes.str.contains(f"{rest} of 120 images: the others fitted the measure").all()


@pytest.mark.quick
def test_images_without_a_label_among_others_are_left_out(tmp_path, make, write_features):
    """Pandas keeps them missing as text: the digest of the images ended the analysis."""
    made = make(sizes=(8, 6))
    made.labels[3] = None
    features = write_features(tmp_path / "store", made, names=["class 0", "class 1"])
    analysis = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0))
    assert (analysis.n_images, analysis.settings["unlabelled"]) == (13, 1)
    assert analysis.outdated(features) == ""
    view = features.store.images()
    features.store.list_images(view.assign(label=view["label"].fillna("class 0")))
    assert "their labels" in analysis.outdated(features.store.features(features.key))
