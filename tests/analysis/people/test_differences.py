"""Two networks against people: paired differences, raters of triplets, and where they are shown."""

import json
import os
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.compare import compare
from alike.analysis.people.answers import HumanAnswers, check_answers, read_answers
from alike.analysis.people.correlation import KINDS
from alike.analysis.people.scores import human_differences, human_scores
from alike.analysis.people.triplets import shared_spread
from alike.analysis.ranking import Ranking
from alike.analysis.report.networks import networks_section
from alike.analysis.report.people import people_section
from alike.analysis.report.subject import Subject
from alike.extract.errors import BadInput
from alike.flows.cli import main

FULL = os.environ.get("ALIKE_FULL") == "1"
NONE = np.empty((0, 3), np.int64)


@pytest.mark.quick
def test_spread_is_the_sum_over_triplets_that_share_something():
    draw = np.random.default_rng(0)
    own = np.array([draw.choice(12, 3, replace=False) for _ in range(40)])
    raters = draw.integers(6, size=40)
    values = draw.random(40) + 0.3 * raters + own.sum(axis=1) / 10
    e, sums, shared = values - values.mean(), 0.0, 0
    for s in range(40):
        for t in range(40):
            if set(own[s]) & set(own[t]) or raters[s] == raters[t]:
                sums, shared = sums + e[s] * e[t], shared + 1
    wanted = (sums / (1 - shared / 40**2)) / 40**2
    least = values.var(ddof=1) / 40
    assert wanted > 0
    assert shared_spread(values, own, raters) ** 2 == pytest.approx(max(wanted, least))
    # Answers that share nothing are independent.
    apart = np.arange(120).reshape(40, 3)
    spread = shared_spread(values, apart, np.arange(40))
    assert spread == pytest.approx(values.std(ddof=1) / 40**0.5)


def test_raters_who_answer_much_widen_the_interval():
    """Each rater is right throughout or wrong throughout: there are as many numbers as raters."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((200, 3)).astype(np.float32)
    images = evaluation_set_of(np.arange(200), ["a"] * 100 + ["b"] * 100)
    vectors, own, raters = held_vectors(x, "euclidean"), [], []
    for rater in range(20):
        for _ in range(20):
            a, b, c = draw.choice(200, 3, replace=False)
            near, far = np.linalg.norm(x[a] - x[b]), np.linalg.norm(x[a] - x[c])
            own.append((a, b, c) if (near < far) == (rater % 2 == 0) else (a, c, b))
            raters.append(rater)

    def row(who):
        rows, none = np.empty(0, np.int64), np.empty((0, 0))
        said = HumanAnswers("triplets", rows, none, np.array(own), False, "0", (), np.array(who))
        return human_scores(said, vectors, images).iloc[0]

    one, other = row(raters), row([])
    assert one["value"] == other["value"] == 0.5
    assert "images and raters" in one["note"]
    assert "no column names raters" in other["note"]
    assert one["high"] - one["low"] > 3 * (other["high"] - other["low"])
    # 20 means of 0 or 1.
    assert one["high"] - one["low"] == pytest.approx(2 * 2.09 * (1 / 4 / 19) ** 0.5, rel=0.1)


def test_column_of_raters(tmp_path):
    images = pd.DataFrame({
        "row": range(4), "image_id": list("abcd"), "path": [f"{n}.png" for n in range(4)],
        "subset": [None] * 4,
    })  # fmt: skip
    file = tmp_path / "t.csv"
    head = "a,b,odd,rater\n"
    file.write_text(f"{head}a,b,c,ann\nb,c,z,bob\nb,c,d,eve\nb,d,c,ann\n")
    said = read_answers(file, images)
    assert said.triplets.tolist() == [[0, 1, 2], [1, 2, 3], [1, 3, 2]]
    assert said.raters.tolist() == [0, 1, 0]
    file.write_text(f"{head}a,b,c,ann\nb,c,d,\n")
    with pytest.raises(BadInput, match="1 of 2 answers have no rater"):
        read_answers(file, images)
    assert check_answers(file) == (0, 0)
    file.write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="its columns are a, b"):
        check_answers(file)


def test_differences_are_those_of_both_scores():
    draw = np.random.default_rng(0)
    images = evaluation_set_of(np.arange(40), [f"{n // 10}" for n in range(40)])
    hidden = np.eye(4)[images.codes] + 0.5 * draw.standard_normal((40, 4))
    p = np.exp(2 * hidden) / np.exp(2 * hidden).sum(axis=1, keepdims=True)
    counts = draw.multinomial(50, p).astype(float)
    said = HumanAnswers("votes", np.arange(40), counts, NONE, False, "0", ())
    views = [
        held_vectors((hidden + s * draw.standard_normal((40, 4))).astype(np.float32), "euclidean")
        for s in (0.1, 1.5)
    ]
    first, second = human_differences(said, views, images, draws=40)
    i, j = np.triu_indices(40, 1)
    # Whole numbers: agreement that is equal ties.
    voted = (counts @ counts.T)[i, j]
    values = []
    for view, table in zip(views, (first, second), strict=True):
        z = view.rows(np.arange(40))[0].astype(float)
        values.append(spearmanr(-np.linalg.norm(z[i] - z[j], axis=1), voted).statistic)
        alone = human_scores(said, view, images, draws=0, splits=0)
        assert table["value"].to_numpy() == pytest.approx(alone["value"].to_numpy())
    row = second.set_index("score").loc["all_pairs"]
    assert row["difference"] == pytest.approx(values[1] - values[0], abs=1e-6)
    assert row["difference_low"] < row["difference"] < row["difference_high"] < 0
    assert first["difference"].isna().all()
    # The same network twice differs by nothing, and has no interval of that.
    same = human_differences(said, [views[0]] * 2, images, draws=30)[1]
    assert (same["difference"] == 0).all()
    assert same["difference_low"].isna().all()


@pytest.mark.parametrize("people", ["votes", "triplets"])
def test_intervals_hold(people, benchmark):
    simulated = benchmark("human_coverage")
    assert set(simulated.OF_PAIRS) == set(KINDS)
    case, least = {
        "votes": (
            simulated.Case("", ("all_pairs", "rho_a", "pearson"), 24, simulated.votes(10)), 0.88
        ),
        "triplets": (simulated.Case("", ("triplets",), 40, simulated.triplets(15, 15)), 0.84),
    }[people]  # fmt: skip
    judged = simulated.coverage(case, 0.5, 150 if FULL else 25)
    assert (judged[:, :2] >= least).all()


def test_compare_and_ranking_show_them(tmp_path, make, write_features, monkeypatch, capsys):
    for number, noise in enumerate((0.0, 1.0)):
        made = make(sizes=(12, 12, 12))
        draw = np.random.default_rng(number)
        more = noise * draw.standard_normal(made.arrays["gap"].shape).astype(np.float32)
        made.arrays["gap"] = made.arrays["gap"] + more
        features = write_features(tmp_path / "store", made, key=f"net-{number}-0")
    store, table = features.store, features.table("all")
    p = np.abs(made.arrays["logits"]) + 0.1
    votes_file = tmp_path / "votes.npz"
    np.savez(
        votes_file, image_id=table["image_id"].to_numpy(str),
        counts=np.random.default_rng(0).multinomial(30, p / p.sum(axis=1, keepdims=True))[
            table["row"]
        ],
    )  # fmt: skip
    said = read_answers(votes_file, table)
    one, other = store.features("net-0-0"), store.features("net-1-0")
    apart = compare(one, other, human=said).set_index("score")
    for side, of in (("a", one), ("b", other)):
        settings = AnalysisSettings(measures=["gap_cosine"], bootstrap=0)
        alone = analyse(of, settings, human=said).tables["human"].set_index("score")
        for name in ("all_pairs", "class_pairs", "same_class"):
            assert apart.loc[f"human_{name}", side] == pytest.approx(alone.loc[name, "value"])

    def ran(*options, human=True):
        words = ["alike", "compare", *options, "--store", store.url, "--json"]
        words += ["--human", str(votes_file)] if human else []
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        said = capsys.readouterr()
        assert ("this replaces the table with what people said" in said.err) == (not human)
        return json.loads(said.out)

    shown = {row["score"]: row for row in ran("net-0-0", "net-1-0")["scores"]}
    assert shown["human_all_pairs"]["low"] == pytest.approx(apart.loc["human_all_pairs", "low"])
    document = ran("--all")
    assert document["human"]["kind"] == "votes"
    ranked = Ranking.load(store).table.set_index(["network", "score"])
    best = document["best"]
    wanted = compare(store.features(best), other, human=said).set_index("score")
    names = ["difference", "difference_low", "difference_high"]
    assert best == "net-0-0"
    row = ranked.loc[("net-1-0", "human_all_pairs"), names].to_numpy(float)
    assert row == pytest.approx(wanted.loc["human_all_pairs", ["difference", "low", "high"]])

    analyses = [
        analyse(each, AnalysisSettings(measures=["gap_cosine"], bootstrap=0), human=said)
        for each in (one, other)
    ]
    subject = Subject(*analyses, compare(one, other, human=said), "gap_cosine")
    section = people_section(subject)
    assert "same draws of images and raters" in section
    shift = apart.loc["human_class_pairs", "difference"]
    assert f"{shift:+.3f}".replace("-", "\N{MINUS SIGN}") in section
    page = networks_section(subject, store)
    assert "Alike to people, all pairs" in page
    assert "Alike to people, pairs of classes" in page
    ran("--all", human=False)
