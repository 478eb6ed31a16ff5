"""The comparison says what accuracy did, with the uncertainty of the paired difference."""

from copy import copy

import numpy as np
import pytest
from scipy.stats import beta

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks import stored_evaluation_set
from alike.analysis.compare import compare
from alike.analysis.ranking import rank_networks
from alike.analysis.scores import named_rightly


@pytest.mark.quick
def test_accuracy_is_paired(digits):
    table = compare(digits.before, digits.after, bootstrap=200).set_index("score")
    held = digits.before.table("held_out")
    logits = digits.before.read("logits", held["row"].to_numpy())
    right = logits.argmax(1) == held["label"].astype(int).to_numpy()
    row = table.loc["accuracy"]
    assert row["a"] == pytest.approx(right.mean())
    # Both sides have the same first choices here: on other images they may differ by chance.
    most = beta.ppf(0.975, 1, len(held))
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((0, -most, most))
    np.testing.assert_equal(row["better"], "up")


def test_near_copies_are_right_or_wrong_together(tmp_path, make, write_features):
    """Four copies of each image say no more of accuracy and NC1 than one."""
    sides, firsts = [], {}
    for number in range(2):
        made = make(sizes=(30, 30), seed=5)
        noise = np.random.default_rng(number).standard_normal(made.arrays["gap"].shape)
        for name in ("gap", "fc"):
            made.arrays[name] = made.arrays[name] + (0.6 * noise).astype(np.float32)
        made.arrays["logits"] = made.arrays["gap"] @ made.weight.T
        made.arrays = {name: np.repeat(made.arrays[name], 4, axis=0) for name in ("gap", "logits")}
        more = np.random.default_rng(number).standard_normal(made.arrays["gap"].shape)
        made.arrays["gap"] = made.arrays["gap"] + (1e-3 * more).astype(np.float32)
        made.arrays["fc"] = made.arrays["gap"]
        first = firsts[f"net-{number}-0"] = copy(made)
        first.arrays = {name: values[::4] for name, values in made.arrays.items()}
        made.codes, made.labels = np.repeat(made.codes, 4), np.repeat(made.labels, 4).tolist()
        sides.append(write_features(tmp_path / f"{number}", made, key=f"net-{number}-0"))
    measures = ["softmax_dot", "gap_cosine"]
    rows = analyse(sides[0], AnalysisSettings(measures=measures)).tables["scores"]
    assert rows["measure"].unique().tolist() == [*measures, "network"]
    # Inner products tell no copies: those of the other measure.
    for measure in measures:
        row = rows[(rows["measure"] == measure) & (rows["score"] == "map_at_r")].iloc[0]
        assert "240 images are near copies of others" in row["note"]
    # Also if the analysis has no other measure.
    alone = analyse(sides[1], AnalysisSettings(measures=["softmax_dot"])).tables["scores"]
    alone = alone.set_index("score")
    for score in ("map_at_r", "balanced_accuracy", "accuracy"):
        assert "240 images are near copies of others" in alone.loc[score, "note"]
    rows = rows[rows["measure"] == "network"].set_index("score")
    for score in ("accuracy", "nc1"):
        assert "240 images are near copies of others" in rows.loc[score, "note"]
    p = rows.loc["accuracy", "value"]
    width = rows.loc["accuracy", "high"] - rows.loc["accuracy", "low"]
    assert width > 0.8 * 3.92 * (p * (1 - p) / 60) ** 0.5
    images = stored_evaluation_set(sides[0], "held_out")
    a, b = (named_rightly(side, images).astype(float) for side in sides)
    row = compare(*sides).set_index("score").loc["accuracy"]
    apart = (b - a)[np.argsort(images.rows)].reshape(60, 4)
    assert (apart == apart[:, :1]).all()
    assert row["high"] - row["low"] > 0.8 * 3.92 * apart[:, 0].std() / 60**0.5
    by_inner = compare(*sides, measure="softmax_dot").set_index("score")
    ranked = rank_networks(sides, measure="softmax_dot").table.set_index(["network", "score"])
    once = [write_features(tmp_path / f"1 {key}", one, key=key) for key, one in firsts.items()]
    row = compare(*once, measure="softmax_dot").set_index("score").loc["sameness"]
    wanted = row["high"] - row["low"]
    assert by_inner.loc["sameness", "high"] - by_inner.loc["sameness", "low"] > 0.8 * wanted
    apart = ranked[ranked.index.get_level_values(1) == "sameness"].dropna().iloc[0]
    assert apart["difference_high"] - apart["difference_low"] > 0.8 * wanted
    assert "240 images are near copies of others" in apart["note"]


def test_a_network_beside_itself_differs_in_nothing(tmp_path, make, write_features):
    """Accuracy and the probes of the same numbers: 0 [0, 0], as `compare` says."""
    for key in ("net-0-0", "same-0-0", "other-0-0"):
        made = make(sizes=(30, 30), seed=2)
        if key == "other-0-0":
            # Right of the same images, by other numbers.
            made.arrays["logits"] = made.arrays["logits"] * 2
            made.arrays["gap"] = made.arrays["gap"] * 2
        one = write_features(tmp_path / "store", made, key=key, share=0.4)
    networks = [one.store.features(key) for key in ("net-0-0", "same-0-0", "other-0-0")]
    table = rank_networks(networks).table.set_index(["network", "score"])
    columns = ["difference", "difference_low", "difference_high"]
    best = table[table["difference"].isna()].index[0][0]
    assert best == "net-0-0"
    for score in ("sameness", "map_at_r", "knn_probe", "linear_probe", "accuracy", "nc1"):
        assert table.loc[("same-0-0", score), columns].tolist() == [0, 0, 0]
        assert "end of the score's range" not in table.loc[("same-0-0", score), "note"]
    for score in ("knn_probe", "accuracy"):
        low, high = table.loc[("other-0-0", score), columns[1:]]
        assert low < 0 < high
