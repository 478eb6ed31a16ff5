"""Many networks on the same images: against analyse, compare and scipy."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from alike.analysis import ranking, similarity
from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks.evaluation_set import evaluation_set_of, stored_evaluation_set
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.compare import compare
from alike.analysis.pairs.counts import count_pairs
from alike.analysis.pairs.influence import units_of
from alike.analysis.pairs.movements import auc_movements
from alike.analysis.ranking import Ranking, common_images, rank_correlation
from alike.analysis.report.networks import networks_section
from alike.analysis.report.parts import text
from alike.extract.errors import BadInput
from alike.extract.identity import network_titles
from alike.flows.cli import main

NOISE = (0.0, 0.3, 0.6, 1.0, 1.6)


@pytest.fixture
def store(tmp_path, make, write_features):
    """One store with networks whose features are noisier and noisier, and one without gap."""
    for number, noise in enumerate(NOISE):
        made = make(sizes=(40, 30, 30))
        draw = np.random.default_rng(number)
        for name in ("gap", "fc", "logits"):
            more = draw.standard_normal(made.arrays[name].shape).astype(np.float32)
            made.arrays[name] = made.arrays[name] + noise * more
        features = write_features(tmp_path / "store", made, key=f"net-{number}-0", share=0.4)
    write_features(tmp_path / "store", made, key="bare-0-0", share=0.4, taps=["pixels"])
    return features.store


def test_table_is_that_of_analyse_and_compare(store, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["alike", "compare", "--all", "--store", store.url, "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    said = json.loads(capsys.readouterr().out)
    assert said["best"] == "net-0-0"
    assert len(said["pairs"]) == 4 * 10
    assert len(said["map"]) == 5
    kept = Ranking.load(store)
    assert [row["value"] for row in said["networks"]] == pytest.approx(list(kept.table["value"]))
    table = kept.table.set_index(["network", "score"])
    assert list(dict.fromkeys(kept.table["network"])) == [f"net-{i}-0" for i in range(5)]
    assert "gap" in kept.record["left_out"]["bare-0-0"]
    one = store.features("net-2-0")
    scores = analyse(one, AnalysisSettings(measures=["gap_cosine"])).tables["scores"]
    scores = scores.set_index("score")
    probes = ("knn_probe", "linear_probe")
    for score in ("sameness", "worst_class_sameness", "map_at_r", *probes, "accuracy", "nc1"):
        shown = table.loc[("net-2-0", score), ["value", "low", "high"]].to_numpy(float)
        assert shown == pytest.approx(scores.loc[score, ["value", "low", "high"]].to_numpy(float))
        assert np.isfinite(shown).all()
    apart = compare(store.features("net-0-0"), one).set_index("score")
    for score in ("sameness", "map_at_r", "accuracy", "nc1"):
        names = ["difference", "difference_low", "difference_high"]
        shown = table.loc[("net-2-0", score), names].to_numpy(float)
        wanted = apart.loc[score, ["difference", "low", "high"]].to_numpy(float)
        assert shown == pytest.approx(wanted, nan_ok=True)
        assert np.isfinite(shown).all()
        # The best network names every image rightly.
        assert ("at an end of the score's range" in table.loc[("net-2-0", score), "note"]) == (
            score == "accuracy"
        )
    probes = table.loc[("net-4-0", "linear_probe")]
    assert probes["difference_low"] < probes["difference"] < probes["difference_high"] < 0
    of = kept.correlation.set_index("of").loc["accuracy"]
    wide = kept.wide()
    assert of["value"] == pytest.approx(spearmanr(wide["sameness"], wide["accuracy"]).statistic)
    assert of["low"] < of["value"] <= of["high"]
    assert of["networks"] == 5

    page = networks_section(SimpleNamespace(last=SimpleNamespace(key="net-2-0")), store)
    titles = network_titles({key: store.features(key).attrs for key in kept.record["digests"]})
    assert titles["net-2-0"] == "net, random weights of seed 0 · net-2-0"
    assert said["titles"] == titles
    assert all(f"net-{i}-0" in page for i in range(5))
    assert all(title in page for title in titles.values())
    assert "Rank correlation of sameness with accuracy" in page
    assert "network-map" in page
    for method in ("linear-cka", "procrustes", "mutual-knn", "rsa"):
        assert f'id="networks-by-{method}"' in page
    assert networks_section(SimpleNamespace(last=SimpleNamespace(key="bare-0-0")), store) == ""
    assert "came or changed since" not in page
    kept.record["images_digest"] = "of other labels"
    kept.save(store)
    page = networks_section(SimpleNamespace(last=SimpleNamespace(key="net-2-0")), store)
    assert "Images, their labels or sides came or changed since" in page


def test_what_is_not_there_is_said_with_its_reason(
    tmp_path, make, write_features, monkeypatch, capsys
):
    """Two networks without train images: no probes, no rank correlation, and a sample of images."""
    monkeypatch.setattr(ranking, "MOST", 60)
    monkeypatch.setattr(similarity, "NULL_COST", 1)
    monkeypatch.setattr(similarity, "LEAST_COST", 1)
    for number in range(2):
        made = make(sizes=(40, 30, 30), seed=number)
        taps = ["gap", "fc", "logits"] if number else ["gap", "logits"]
        features = write_features(tmp_path / "two", made, key=f"net-{number}-0", taps=taps)
    url = features.store.url

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["alike", "compare", "--all", "--store", url, *more])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr()

    left_out = json.loads(run("--json").out)["left_out"]
    for key in ("net-0-0 probes", "net-1-0 probes"):
        assert "--train-share" in left_out[key]
    assert "fc" in left_out["net-0-0 nc1"]
    assert "net-1-0 nc1" not in left_out
    assert "2, expected 3" in left_out["rank correlation with accuracy"]
    every = "label=class 0,class 1,class 2"
    said = run("--where", every)
    kept = Ranking.load(features.store)
    for row in kept.table.itertuples():
        # Every number with its interval, in tables of at most 120 columns.
        assert f"{row.value:.3f}" in said.out
        assert f"{row.low:.3f}, {row.high:.3f}" in said.out or row.score == "worst_class_sameness"
    tables, _, _ = said.out.partition("note:")
    assert max(map(len, tables.splitlines())) <= 120
    assert "difference to network 1" in tables
    assert "nan" not in said.out
    page = networks_section(SimpleNamespace(last=SimpleNamespace(key="net-0-0")), features.store)
    for key in left_out:
        assert f"left out: {key}: " in said.err + said.out
        network, _, part = key.partition(" ")
        title = kept.record["titles"].get(network)
        assert f"Left out: {f'{title}: {part}' if title else key}: " in page
    assert f"a stratified sample of 60 of 100 images, held_out, only {every}" in page
    assert "note: procrustes, 1 of 1 pairs: no null" in said.out
    assert "no null: permutations would take too long" in page
    title = kept.record["titles"]["net-1-0"]
    assert f"NC1 ({title}): the interval is too narrow where" in page


@pytest.mark.parametrize(("size", "shown"), [(4, False), (6, True)])
def test_neighbours_that_are_all_others_are_no_comparison(
    size, shown, tmp_path, make, write_features, monkeypatch, capsys
):
    for number in range(2):
        made = make(sizes=(size, size), seed=number)
        features = write_features(tmp_path / "few", made, key=f"net-{number}-0")
    arguments = ["alike", "compare", "--all", "--store", features.store.url, "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    said = json.loads(capsys.readouterr().out)
    (row,) = (row for row in said["pairs"] if row["method"] == "mutual_knn")
    page = networks_section(SimpleNamespace(last=SimpleNamespace(key="net-0-0")), features.store)
    assert all((row[name] is not None) == shown for name in ("value", "null_mean", "z"))
    assert ("nearest of 8 images are all others: it takes 12" in row["note"]) != shown
    assert (text(row["note"]) in page) or shown
    assert ("networks-by-mutual-knn" in page) == shown
    assert ">nan" not in page


def test_one_network_is_no_ranking(store):
    with pytest.raises(BadInput, match="can measure: 1, expected two"):
        common_images([store.features("net-0-0"), store.features("bare-0-0")], "held_out",
                      "gap_cosine")  # fmt: skip


def test_images_are_those_that_all_have(store):
    networks = [store.features(f"net-{i}-0") for i in range(3)]
    sets, left_out = common_images(networks, "held_out", "gap_cosine")
    assert not left_out
    wanted = stored_evaluation_set(networks[0], "held_out")
    for images in sets.values():
        assert (images.rows == wanted.rows).all()
        assert (images.codes == wanted.codes).all()


@pytest.mark.quick
def test_movements_foretell_the_auc_of_fewer_images(clustered):
    """The AUC without an image, counted anew, is near what its movement says."""
    x, images = clustered(n=120, dim=6, classes=3, spread=1.5)
    vectors = held_vectors(x, "euclidean")
    counts = count_pairs(vectors, images)
    units = units_of(images)
    moved = auc_movements(vectors, counts, images, units)
    whole = counts.area().value
    told, seen = [], []
    for left in range(0, 120, 7):
        at = np.delete(np.arange(120), left)
        fewer = count_pairs(vectors.take(at), images.take(at)).area().value
        seen.append(fewer - whole)
        told.append(-moved[units.named[left]])
    assert np.corrcoef(told, seen)[0, 1] > 0.98
    assert np.abs(np.array(told) - seen).max() < 0.15 * np.abs(seen).max()


@pytest.mark.parametrize(("networks", "rho"), [(6, 0.9), (8, 0.98), (23, 0.98)])
def test_interval_of_the_rank_correlation_holds(networks, rho, monkeypatch):
    """Networks from a normal law; both scores move with the images a little."""
    monkeypatch.setattr(ranking, "DRAWS", 300)
    truth = 6 / np.pi * np.arcsin(rho / 2)
    images = evaluation_set_of(np.arange(20), ["a"] * 10 + ["b"] * 10)
    units, draw = units_of(images), np.random.default_rng(0)
    held = []
    for _ in range(120):
        x = draw.standard_normal(networks)
        y = rho * x + (1 - rho**2) ** 0.5 * draw.standard_normal(networks)
        moved = 0.01 * draw.standard_normal((2, networks, 20)) / 20**0.5
        value, (low, high) = rank_correlation(x, y, *moved, units)
        assert value == pytest.approx(spearmanr(x, y).statistic)
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.92


def test_few_networks_have_no_interval():
    units = units_of(evaluation_set_of(np.arange(6), ["a"] * 3 + ["b"] * 3))
    x = np.array([0.1, 0.2, 0.3])
    value, span = rank_correlation(x, x, np.zeros((3, 6)), np.zeros((3, 6)), units)
    assert value == 1.0
    assert np.isnan(span).all()
