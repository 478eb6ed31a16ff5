"""Two networks or two weights side by side."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.compare import compare, comparison_notes, unmatched
from alike.analysis.networks import network_similarity
from alike.extract.errors import BadInput


@pytest.fixture
def features(tmp_path, made, write_features):
    return write_features(tmp_path / "store", made)


def value(analysis, measure, score):
    rows = analysis.tables["scores"]
    return float(rows[(rows["measure"] == measure) & (rows["score"] == score)]["value"].iloc[0])


def test_images_and_labels_of_one_side_alone_are_said():
    def side(key, labels):
        table = pd.DataFrame({"image_id": list("abcde")[: len(labels)], "label": labels})
        return SimpleNamespace(key=key, store=SimpleNamespace(url=key), table=lambda _: table)

    one, other = side("one", ["x", "x", "y", None]), side("other", ["x", "z", None, "x", "y"])
    assert unmatched(one, one, "held_out") == []
    assert unmatched(one, other, "held_out") == [
        "images of one side alone are left out: 0 of one in one, 1 of other in other",
        "2 images have another label in other than in one, whose labels count: the first is b "
        "(x, z)",
    ]


class TestCompare:
    def test_better_features_win_and_the_difference_is_paired(self, tmp_path, make, write_features):
        made, noisy = make(sizes=(60, 60, 60)), make(sizes=(60, 60, 60))
        draw = np.random.default_rng(3)
        noise = draw.standard_normal(noisy.arrays["gap"].shape).astype(np.float32)
        noisy.arrays["gap"] = np.maximum(noisy.arrays["gap"] + 0.4 * noise, 0)
        a = write_features(tmp_path / "a", noisy)
        b = write_features(tmp_path / "b", made, key="net-1-0")
        table = compare(a, b, bootstrap=200).set_index("score")
        assert list(table.columns) == ["a", "b", "difference", "low", "high", "better"]
        row = table.loc["sameness"]
        assert row["difference"] == pytest.approx(row["b"] - row["a"])
        assert 0 < row["low"] < row["difference"] < row["high"]
        alone = analyse(a, AnalysisSettings(measures=["gap_cosine"], bootstrap=200))
        assert value(alone, "gap_cosine", "sameness") == pytest.approx(row["a"])

    def test_worst_class_and_collapse_are_compared(self, tmp_path, make, write_features):
        made, noisy = make(sizes=(60, 60, 60)), make(sizes=(60, 60, 60))
        draw = np.random.default_rng(3)
        noise = draw.standard_normal(noisy.arrays["gap"].shape).astype(np.float32)
        for name in ("gap", "fc"):
            noisy.arrays[name] = np.maximum(noisy.arrays[name] + 0.4 * noise, 0)
        a = write_features(tmp_path / "a", noisy)
        b = write_features(tmp_path / "b", made, key="net-1-0")
        table = compare(a, b, bootstrap=20).set_index("score")
        for features, side in ((a, "a"), (b, "b")):
            alone = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0))
            for measure, score in (("network", "nc1"), ("gap_cosine", "worst_class_sameness")):
                assert value(alone, measure, score) == pytest.approx(table.loc[score, side])
        low, high = table.loc["nc1", "low"], table.loc["nc1", "high"]
        assert low < table.loc["nc1", "difference"] < high < 0
        row = table.loc["worst_class_sameness"]
        assert row["low"] < row["difference"] < row["high"]
        bare = write_features(tmp_path / "c", made, taps=["gap"])
        assert "nc1" not in set(compare(a, bare, bootstrap=5)["score"])

    def test_classes_too_small_to_leave_an_image_out_have_no_interval(
        self, tmp_path, make, write_features
    ):
        features = write_features(tmp_path / "a", make(sizes=(2, 1)))
        table = compare(features, features, bootstrap=5).set_index("score")
        assert table.loc["nc1", ["low", "high"]].isna().all()
        assert table.loc["worst_class_sameness", ["low", "high"]].isna().all()

    def test_the_same_network_differs_by_nothing(self, tmp_path, made, write_features):
        made.labels = ["class 3" if name == "class 4" else name for name in made.labels]
        ids = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(len(made.labels))]
        a = write_features(tmp_path / "a", made, ids=ids)
        table = compare(a, a, bootstrap=50)
        # At the ends of a range too, where two networks may differ on other images.
        made.arrays["gap"] *= 0.1
        made.arrays["gap"][:, :4] += np.eye(4, dtype=np.float32)[np.minimum(made.codes, 3)]
        made.arrays["logits"] = made.arrays["gap"][:, :4] * np.ones(4, np.float32)
        perfect = write_features(tmp_path / "b", made, ids=ids)
        made.arrays = {name: values[::-1].copy() for name, values in made.arrays.items()}
        made.labels = made.labels[::-1]
        elsewhere = write_features(tmp_path / "c", made, ids=ids[::-1])
        at_end = compare(perfect, elsewhere)
        assert (at_end["a"] == 1).sum() > 3
        assert "at an end" not in " ".join(comparison_notes(at_end, "gap_cosine"))
        assert "accuracy" in set(at_end["score"])
        assert table["low"].notna().all()
        for rows in (table, at_end):
            assert (rows[["difference", "low", "high"]].fillna(0) == 0).all(axis=None)
        numbers, changes = network_similarity(a, a)
        assert numbers["linear_cka"] == pytest.approx(1.0)
        assert numbers["linear_cka_unbiased"] == pytest.approx(1.0)
        assert numbers["rsa"] == pytest.approx(1.0)
        assert (changes[["gained", "lost"]] == 0).all(axis=None)

    def test_images_are_matched_by_content(self, tmp_path, make, write_features):
        made, turned = make(sizes=(30, 30)), make(sizes=(30, 30))
        turned.arrays = {name: v[::-1].copy() for name, v in turned.arrays.items()}
        turned.labels = turned.labels[::-1]
        ids = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(60)]
        a = write_features(tmp_path / "a", made, ids=ids)
        b = write_features(tmp_path / "b", turned, ids=ids[::-1])
        table = compare(a, b, bootstrap=20)
        assert table["difference"].abs().max() < 1e-9
        strangers = write_features(tmp_path / "c", made, ids=[i[::-1] for i in ids])
        with pytest.raises(BadInput, match="no image in common"):
            compare(a, strangers)


@pytest.mark.quick
def test_set_measures_are_not_compared(tmp_path, make, write_features):
    features = write_features(tmp_path / "s", make(sizes=(20, 20)))
    with pytest.raises(BadInput, match="chamfer compares maps of few images, not vectors"):
        compare(features, features, measure="chamfer")


def test_large_sets_are_compared_on_the_same_sample(tmp_path, make, write_features, monkeypatch):
    features = write_features(tmp_path / "s", make(sizes=(60, 50, 40)), taps=["gap"])
    monkeypatch.setattr("alike.analysis.compare.MOST", 90)
    table = compare(features, features, bootstrap=20)
    assert (table.attrs["images"], table.attrs["of"]) == (90, 150)
    assert (table["difference"] == 0).all()
    assert (table["a"] == table["b"]).all()
