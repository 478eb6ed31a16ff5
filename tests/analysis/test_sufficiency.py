"""What more images would change: against drawing, against larger sets, and its interval."""

import os

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.sufficiency import (
    first_chances,
    neighbour_errors,
    power_law,
    sufficiency,
    sufficiency_sentences,
)

FULL = bool(os.environ.get("ALIKE_FULL"))
KINDS = {"easy": (10, 16, 0.9), "hard": (10, 16, 1.6), "two": (2, 8, 1.2), "low": (5, 3, 0.7)}


def drawn(kind, draw, n):
    classes, dim, spread = KINDS[kind]
    centres = np.random.default_rng(7).standard_normal((classes, dim))
    codes = np.arange(n) % classes
    return centres[codes] + spread * draw.standard_normal((n, dim)), codes


def lists(x, k):
    distance = cdist(x, x)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1)[:, :k]


def error_of(x, codes):
    return float((codes[lists(x, 1)[:, 0]] != codes).mean())


def curve_of(x, codes, **more):
    images = evaluation_set_of(np.arange(len(x)), [f"{code:03d}" for code in codes])
    x = x[images.rows]
    places = lists(x, min(64, len(x) - 1))
    same = (images.codes[places] == images.codes[:, None]).astype(float)
    return sufficiency("m", places, same, images, (0.9, 0.88, 0.92), **more)


def test_chances_and_errors_are_those_of_drawing():
    draw = np.random.default_rng(0)
    x, codes = drawn("hard", draw, 60)
    near = lists(x, 59)
    wrong = (codes[near] != codes[:, None]).astype(float)
    stays = np.arange(60) % 6 != 0
    got = neighbour_errors(near, wrong, stays, np.array([10, 50]))
    kept = np.flatnonzero(stays)
    assert got[1] == pytest.approx(error_of(x[kept], codes[kept]))
    errors = []
    for _ in range(4000):
        some = draw.choice(kept, 10, replace=False)
        errors.append(error_of(x[some], codes[some]))
    assert got[0] == pytest.approx(np.mean(errors), abs=4 * np.std(errors) / 4000**0.5)
    assert first_chances(59, 9, 59).sum() == pytest.approx(1)


@pytest.mark.quick
def test_power_law_finds_its_numbers():
    n = np.array([50, 100, 200, 400])
    assert power_law(n, 3 * n**-0.6 + 0.05, np.array([800]))[0] == pytest.approx(
        3 * 800**-0.6 + 0.05, abs=1e-4
    )
    # More images do no harm, and no error is below 0.
    assert power_law(n, np.array([0.1, 0.11, 0.12, 0.13]), n[:1])[0] == pytest.approx(0.115)
    assert power_law(n, np.zeros(4), n[:1])[0] == 0


@pytest.mark.parametrize("kind", KINDS if FULL else ["easy", "two"])
def test_interval_of_the_prediction_contains_the_error_of_larger_sets(kind):
    draw = np.random.default_rng(3)
    n, repeats = 150, 200 if FULL else 40
    truth = [
        np.mean([1 - error_of(*drawn(kind, draw, n * times)) for _ in range(60 // times)])
        for times in (2, 4)
    ]
    inside = []
    for seed in range(repeats):
        table = curve_of(*drawn(kind, draw, n), seed=seed)
        of = table[(table["score"] == "one_nn") & (table["kind"] == "predicted")]
        assert of["images"].tolist() == [300, 600]
        inside.append((of["low"].to_numpy() <= truth) & (truth <= of["high"].to_numpy()))
    # 95 % less three deviations of so few repeats.
    assert np.mean(inside, axis=0).min() >= 0.95 - 3 * (0.95 * 0.05 / repeats) ** 0.5


def test_no_interval_where_it_does_not_cover():
    """Three images named wrongly say little of larger sets."""
    draw = np.random.default_rng(0)
    codes = np.arange(150) % 10
    x = 9 * np.eye(16)[codes] + draw.standard_normal((150, 16))
    table = curve_of(x, codes)
    of = table[(table["score"] == "one_nn") & (table["kind"] == "predicted")]
    assert of["low"].isna().all()
    assert of["note"].str.contains("fewer than 10 images").all()
    few = curve_of(x[:90], codes[:90])
    assert few.empty
    assert sufficiency_sentences(few) == []


def test_curve_of_an_analysis(tmp_path, make, write_features):
    made = make(sizes=(60, 60, 60))
    analysis = analyse(
        write_features(tmp_path / "store", made), AnalysisSettings(measures=["gap_cosine"])
    )
    table = analysis.tables["sufficiency"]
    scores = analysis.tables["scores"].set_index(["measure", "score"])
    of = table[(table["score"] == "one_nn") & (table["kind"] == "measured")]
    assert of["images"].tolist()[-1] == 180
    assert of["value"].iloc[-1] == pytest.approx(scores.loc[("gap_cosine", "one_nn"), "value"])
    same = table[table["score"] == "sameness"].set_index("images")
    wanted = scores.loc[("gap_cosine", "sameness"), ["value", "low", "high"]].to_numpy(float)
    assert same.loc[180, ["value", "low", "high"]].to_numpy(float) == pytest.approx(wanted)
    width = same["high"] - same["low"]
    assert width[720] == pytest.approx(width[180] / 2)
    said = sufficiency_sentences(table)
    assert "predicted among 360" in said[0]
    # In per cent, as the same score stands in every other place.
    assert f": {100 * of['value'].iloc[-1]:.1f} % among 180 images" in said[0]
    assert "± 0.01 takes about" in said[1]
    assert sufficiency_sentences(None) == []
    more = make(sizes=(240, 240, 240))
    larger = analyse(
        write_features(tmp_path / "more", more), AnalysisSettings(measures=["gap_cosine"])
    )
    row = larger.tables["scores"].set_index(["measure", "score"]).loc[("gap_cosine", "sameness")]
    assert row["high"] - row["low"] == pytest.approx(width[720], rel=0.3)
