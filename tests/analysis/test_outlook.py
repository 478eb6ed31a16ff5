"""Before a long analysis one line says what it will do; a sample is called a sample everywhere."""

import json
import re
import time
from collections.abc import Callable

import numpy as np
import pytest
from typer.testing import CliRunner

from alike.analysis import outlook as module
from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks import (
    Jobs,
    best_product,
    evaluation_set_of,
    held_vectors,
    one_thread_each,
)
from alike.analysis.compare import compare, compared_images, comparison_notes
from alike.analysis.export import read_result
from alike.analysis.outlook import Load, most_images, outlook, seconds_a_pair
from alike.analysis.pairs import count_pairs, influence
from alike.analysis.report import write_report
from alike.analysis.report.answer import answer
from alike.analysis.stored import Analysis
from alike.flows.cli import app
from alike.flows.console import _lines


def told(features, settings, *, how: Callable = analyse, **more) -> list[str]:
    """The sentences that come before the first block."""
    lines: list[tuple[str, int, str]] = []
    how(
        features,
        settings,
        progress=lambda stage, _, total, note="": lines.append((stage, total, note)),
        **more,
    )
    first = [note for stage, total, note in lines if stage == "analysis" and total == 0]
    assert not first or lines[0][2] == first[0]
    return first


@pytest.mark.quick
def test_a_short_analysis_is_not_announced(tmp_path, make, write_features):
    features = write_features(tmp_path / "s", make(sizes=(20, 20)), taps=["gap"])
    assert told(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0)) == []


def test_a_long_one_says_images_pairs_time_and_budget(tmp_path, make, write_features, monkeypatch):
    made = make(sizes=(700, 500))
    dim = made.arrays["gap"].shape[1]
    features = write_features(tmp_path / "s", made, taps=["gap"])
    # A machine on which a pair takes a millisecond: 1200 images have 719,400 pairs.
    monkeypatch.setattr(module, "seconds_a_pair", lambda _dim, _pairs: 1e-3)
    settings = AnalysisSettings(measures=["gap_cosine"], bootstrap=0)
    (line,) = told(features, settings, jobs=Jobs(None, 2))
    assert line.startswith("1,200 images, 719,400 pairs: about ")
    minutes = int(re.search(r"about (\d+) min, guessed", line)[1])
    assert minutes == round(719_400 * 1e-3 * module.PASSES / 2 / 60)
    budget, sample = re.search(
        r"a budget of (\S+) .* would take a sample of ([\d,]+):", line
    ).groups()
    few = analyse(features, AnalysisSettings(measures=["gap_cosine"], budget=float(budget)))
    assert (
        few.n_images == int(sample.replace(",", "")) == max(1000, most_images(float(budget), dim))
    )
    # And of a sample it says what takes every image; that budget does.
    settings = AnalysisSettings(measures=["gap_cosine"], bootstrap=0, budget=1.0)
    (line,) = told(features, settings)
    assert line.startswith("a stratified sample of 1,000 of 1,200 images, 499,500 pairs: about ")
    wider = re.search(r"a budget of (\S+) .* would take every image: about", line)[1]
    assert most_images(float(wider), dim) >= 1200


def test_the_guess_grows_with_pairs_measures_and_threads():
    one, many = Load(200_000, 512, 200_000), Load(400_000, 512, 400_000)
    assert 0 < seconds_a_pair(512) < 1e-4
    once = one.seconds(intervals=False)
    # Four times as many pairs, twice as many images.
    grown = many.seconds(intervals=False) - 4 * once
    assert grown == pytest.approx(-2 * 200_000 * module.SECONDS_AN_IMAGE, rel=0.01)
    assert one.seconds(intervals=True) > once
    line = outlook([one, many], Jobs(None, 1), intervals=True, budget=1e15)
    assert "400,000 images, 79,999,800,000 pairs for each of 2 measures" in line
    assert outlook([one], Jobs(None, 10**9), intervals=True, budget=1e15) == ""
    assert "budget" not in outlook([one], Jobs(None, 1), intervals=True, budget=None)
    # Each measure has the budget to itself: one of longer vectors takes fewer images.
    long = Load(200_000, 4096, 200_000)
    line = outlook([one, long], Jobs(None, 1), intervals=True, budget=1e15)
    budget, fewest, most = re.search(
        r"of (\S+) \(.* samples of ([\d,]+) to ([\d,]+):", line
    ).groups()
    assert int(fewest.replace(",", "")) == most_images(float(budget), 4096)
    assert (
        int(most.replace(",", "")) == one.within(float(budget)).n > 2 * long.within(float(budget)).n
    )
    assert "--budget, in settings [analyse] budget" in line


def test_a_pair_is_timed_as_pairs_of_many_images_are_counted():
    """By the product that they are multiplied with, and without what every count does once."""
    n, dim = 8192, 512
    made = np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32)
    images = evaluation_set_of(np.arange(n), ["a"] * (n // 2) + ["b"] * (n // 2))
    vectors = held_vectors(made, "euclidean")
    pairs = n * (n - 1) / 2
    best_product(dim, pairs * dim)
    started = time.thread_time()
    with one_thread_each():
        count_pairs(vectors, images)
    took = (time.thread_time() - started) / pairs
    assert took / 3 < seconds_a_pair(dim, pairs) < 3 * took


def test_a_comparison_is_announced_too(tmp_path, make, write_features, monkeypatch):
    a = write_features(tmp_path / "a", make(sizes=(30, 20)), taps=["gap"])
    b = write_features(tmp_path / "b", make(sizes=(30, 20)), taps=["gap"])
    monkeypatch.setattr(module, "seconds_a_pair", lambda _dim, _pairs: 1.0)
    lines = []
    compare(a, b, progress=lambda *args: lines.append(args))
    stage, done, total, sentence = lines[0]
    assert (stage, done, total) == ("comparison", 0, 0)
    assert sentence.startswith("50 images, 1,225 pairs: about ")


def test_the_sentence_is_printed_at_once(capsys):
    _lines()("analysis", 0, 0, "1,200 images: about 4 min")
    assert capsys.readouterr().err == "analysis: 1,200 images: about 4 min\n"


def test_a_sample_is_called_a_sample_on_every_path(tmp_path, make, write_features):
    features = write_features(tmp_path / "s", make(sizes=(900, 700)), taps=["gap"])
    url = features.store.url
    options = ["--store", url, "--measures", "gap_cosine", "--budget", "1", "--bootstrap", "0"]
    run = CliRunner()
    shown = run.invoke(app, ["analyse", *options])
    assert "a sample of 1,000 of 1,600 images (--budget takes more) of 2 classes" in shown.output
    record = json.loads(run.invoke(app, ["analyse", *options, "--json"]).stdout)
    assert (record["n_images"], record["n_images_before_sampling"]) == (1000, 1600)
    analysis = Analysis.load(features.store, features.key)
    assert "a sample of 1,000 of 1,600 images" in str(analysis)
    page = write_report(tmp_path / "r.html", before=analysis).read_text()
    assert "on a sample of 1\u202f000 of 1\u202f600 images" in page
    assert analysis.sample_notes == [
        f"the scores of {features.key} are of a sample of 1,000 of 1,600 images"
    ]
    written = run.invoke(app, ["export", "--store", url, "--to", str(tmp_path / "t.parquet")])
    assert "are of a sample of 1,000 of 1,600 images" in written.output
    assert "no column of neighbours is written" in written.output
    for name in ("t.parquet", "t.scores.parquet"):
        manifest = read_result(tmp_path / name).attrs
        of = manifest.get("analysis", manifest)
        assert of["n_images_before_sampling"] == 1600
        assert of["evaluated"] == {"gap_cosine": 1000}


def test_influences_of_a_sample_are_said(tmp_path, make, write_features, monkeypatch):
    a = write_features(tmp_path / "a", make(sizes=(150, 150)), taps=["gap"])
    other = make(sizes=(150, 150))
    other.arrays["gap"][:, 0] *= 1.001
    b = write_features(tmp_path / "b", other, taps=["gap"])
    note = "influence of a stratified sample of 100 of 300 images"
    settings = AnalysisSettings(measures=["gap_cosine"])
    whole = analyse(a, settings).tables["scores"].set_index("score")["note"]
    assert not whole.str.contains("influence").any()
    (at_end,) = comparison_notes(compare(a, b), "gap_cosine")
    assert at_end.startswith("one_nn, purity_at_10: one side is at an end")
    monkeypatch.setattr(influence, "INFLUENCE_ROWS", 100)
    monkeypatch.setattr("alike.analysis.compare.INFLUENCE_ROWS", 100)
    notes = analyse(a, settings).tables["scores"].set_index("score")["note"]
    said = notes.str.contains(note)
    assert said[["sameness", "auc", "eer", "tar_at_far_1pct", "sameness_all_pairs"]].all()
    # Neighbour scores leave every image out, and what has no interval needs no note.
    assert not said[["map_at_r", "one_nn", "d_prime", "worst_class_sameness"]].any()
    table = compare(a, b)
    assert compared_images(table) == "300 images"
    same, sentence = comparison_notes(table, "gap_cosine")
    assert (same, note in sentence) == (at_end, True)


def test_the_report_of_two_says_that_a_sample_was_compared(
    tmp_path, make, write_features, monkeypatch
):
    a = write_features(tmp_path / "a", make(sizes=(40, 30)), taps=["gap"])
    b = write_features(tmp_path / "b", make(sizes=(40, 30)), taps=["gap"])
    settings = AnalysisSettings(measures=["gap_cosine"], bootstrap=0)
    before, after = (analyse(side, settings) for side in (a, b))
    monkeypatch.setattr("alike.analysis.compare.MOST", 50)
    first = answer(before, after, compare(a, b), "gap_cosine").sentences[0]
    n = compare(a, b).attrs["images"]
    assert n < 70
    assert f"on a sample of {n} of 70 images of 2 classes" in first
