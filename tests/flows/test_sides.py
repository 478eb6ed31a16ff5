"""Three sides: what networks are chosen by is neither trained on nor reported."""

import hashlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from alike.analysis.stored import Analysis
from alike.extract.errors import BadInput
from alike.extract.images.split import split_of, splits_of
from alike.extract.store.store import Store
from alike.flows import steps
from alike.flows.settings import read_pipeline
from alike.flows.steps import (
    NO_VALIDATION,
    PipelineRun,
    decision_scores,
    evaluate_group,
    named_scores,
    sides_of,
    split_store,
)

TEXT = """
[images]
source = "photos"
{images}
[network]
name = "resnet18"
{rest}
"""
N = 600


def run_of(folder, images="", rest="[retrain]\n"):
    file = folder / "pipeline.toml"
    file.write_text(TEXT.format(images=images, rest=rest), encoding="utf-8")
    return PipelineRun(read_pipeline(file))


def stored(run, seed=0, labels=None):
    """Features whose validation images are far better separated than the others."""
    store = run.store()
    ids = [hashlib.sha256(bytes([seed, n // 256, n % 256])).hexdigest() for n in range(N)]
    store.list_images(
        pd.DataFrame({
            "image_id": ids, "path": [f"{n}.png" for n in range(N)],
            "label": labels or list("abc") * 200, "size": 1, "state": "ok", "reason": "",
        })
    )  # fmt: skip
    known = {
        "network": "n", "weights": "none", "weights_hash": "0" * 16, "taps": ["gap"],
        "transform": {}, "precision": "float32", "place": store.place,
    }  # fmt: skip
    features = store.create_features(known, "n-0-0", {"gap": ((8,), "float32")})
    sides = splits_of(ids, 0.5, "", 0.25)
    rng = np.random.default_rng(seed)
    noise = np.where(sides == "validation", 0.1, 3.0)[:, None] * rng.normal(size=(N, 8))
    gap = np.eye(3, 8)[np.arange(N) % 3] + noise
    features.write_unit(0, {"gap": gap.astype(np.float32)}, {}, run_id="t")
    return features


def test_sides_follow_from_the_hash_in_order():
    ids = [hashlib.sha256(bytes([n])).hexdigest() for n in range(256)]
    uniform = np.array([int(one[:16], 16) / 2.0**64 for one in ids])
    expected = np.where(uniform < 0.5, "train", np.where(uniform < 0.75, "validation", "held_out"))
    np.testing.assert_array_equal(splits_of(ids, 0.5, "", 0.25), expected)
    assert [split_of(one, 0.5, "", 0.25) for one in ids] == expected.tolist()
    # Without validation nothing is another than it was.
    np.testing.assert_array_equal(splits_of(ids, 0.5) == "train", expected == "train")
    assert set(splits_of(ids, 0.0, "", 1.0)) == {"validation"}
    assert set(splits_of(ids, 1.0)) == {"train"}


def test_a_new_store_with_retraining_has_validation_images(tmp_path):
    run = run_of(tmp_path)
    split_store(run, run.store())
    assert vars(run.store().split()) == {
        "train_share": 0.5, "salt": "", "validation_share": 0.25,
    }  # fmt: skip
    assert run.decisions == []
    split_store(run_of(tmp_path), run.store())
    assert run.store().split().validation_share == 0.25


def test_a_store_that_trained_without_stays_so_and_says_what_it_means(tmp_path):
    run = run_of(tmp_path)
    run.store()._set("split", {"train_share": 0.5, "salt": ""})
    split_store(run, run.store())
    assert run.store().split().validation_share == 0.0
    assert run.decisions == [NO_VALIDATION]
    run = run_of(tmp_path, "validation_share = 0.2\ntwins = 'ignore'")
    split_store(run, run.store())
    assert run.store().split().validation_share == 0.2
    assert run.store().twins() == "ignore"


@pytest.mark.quick
def test_shares_that_leave_nothing_to_evaluate_are_refused(tmp_path):
    with pytest.raises(BadInput, match="so that images are held out"):
        _ = run_of(tmp_path, "train_share = 0.8\nvalidation_share = 0.2").pipeline.validation_share
    assert run_of(tmp_path, "train_share = 0.8").pipeline.validation_share == pytest.approx(0.1)


def test_validation_images_decide_and_held_out_ones_are_reported(tmp_path):
    run = run_of(tmp_path)
    split_store(run, run.store())
    features = stored(run)
    counts = features.table("all")["split"].value_counts()
    assert counts.sum() == N
    assert counts["validation"] > 100
    nothing = Analysis("k", 0, (), {}, {})
    side, scores = decision_scores(run, features.key, "network", nothing)
    assert side == "validation"
    assert scores["sameness"] > 0.95, "the held-out images are noise"
    again = run_of(tmp_path)
    assert decision_scores(again, features.key, "network", nothing) == (side, scores)
    assert again.reused == ["validate network"]
    assert not features.store.files.listing(f"tables/{features.key}"), "nothing is reported"


@pytest.mark.parametrize("side", ["held_out", "validation"])
def test_a_network_that_saw_one_image_of_a_side_is_not_evaluated_by_it(tmp_path, side):
    run = run_of(tmp_path)
    split_store(run, run.store())
    features = stored(run)
    table = features.table()
    leaked = table[table["split"] == side].head(1)
    place = f"tables/{features.key}/trained_images.parquet"
    features.store.write_table(place, leaked[["image_id"]])
    count = (table["split"] == side).sum()
    nothing = Analysis("k", 0, (), {}, {})
    scored_by = {
        "held_out": partial(evaluate_group, run, features.key, "network"),
        "validation": partial(decision_scores, run, features.key, "network", nothing),
    }
    with pytest.raises(BadInput, match=rf"1 of {count} {side.replace('_', '-')} images .* trained"):
        scored_by[side]()
    assert run.seconds == {}


def test_only_labelled_images_of_the_train_side_are_trained_on(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    split_store(run, run.store())
    features = stored(run, labels=[*"abc", None] * (N // 4))
    given = {}

    def retrain(network, images, read, validation, **_):
        given.update(images=images, validation=validation)
        raise KeyboardInterrupt

    monkeypatch.setattr("alike.train.retrain.retrain", retrain)
    monkeypatch.setattr(steps, "load", lambda *_: None)
    monkeypatch.setattr(steps, "source_of", lambda _: SimpleNamespace(read=None))
    with pytest.raises(KeyboardInterrupt):
        steps.retrain_network(run, "none", features.key, "ce")
    table = features.table().set_index("path")
    for name, side in (("images", "train"), ("validation", "validation")):
        wanted = table[(table["split"] == side) & table["label"].notna()]["label"]
        assert given[name] == list(wanted.items())
    train = table[table["split"] == "train"]["label"]
    told = f"{train.isna().sum()} of {len(train)} training images have no label: left out"
    assert run.decisions == [told]


def test_without_validation_images_the_analysis_decides(tmp_path):
    run = run_of(tmp_path, rest="")
    table = pd.DataFrame({"measure": ["gap_cosine"], "score": ["sameness"], "value": [0.25]})
    analysis = Analysis("k", 1, (), {}, {"scores": table})
    side, scores = decision_scores(run, "k", "network", analysis)
    assert (side, scores) == ("held_out", named_scores(table, "gap_cosine"))


def test_decisions_are_counted_for_ever(tmp_path):
    store = Store.open(tmp_path / "s", create=True)
    assert store.decisions() == {}
    store.count_decision("validation")
    store.count_decision("validation", 2)
    store.count_decision("held_out")
    assert Store.open(tmp_path / "s").decisions() == {"validation": 3, "held_out": 1}


def test_an_analysis_follows_the_sides_of_twins(tmp_path):
    run = run_of(tmp_path)
    split_store(run, run.store())
    features = stored(run)
    store = features.store
    before = sides_of(store)
    table = features.table()
    a = int(table["row"][table["split"] == "train"].iloc[0])
    b = int(table["row"][table["split"] == "held_out"].iloc[0])
    links = {"row_a": [min(a, b)], "row_b": [max(a, b)], "correlation": [1.0], "symmetry": [0]}
    store.keep_links(pd.DataFrame(links), np.arange(N))
    store.assign_sides()
    after = features.table().set_index("row")["split"]
    assert after[a] == after[b]
    assert sides_of(store) != before
    store.set_twins("ignore")
    assert sides_of(store) == before
