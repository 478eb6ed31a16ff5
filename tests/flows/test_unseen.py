"""What a network was trained on does not judge it unseen; no network is trained here."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from extract.errors import BadInput
from extract.store import Store
from flows.unseen import check_unseen, doubts, trained_on


@pytest.fixture
def made(tmp_path):
    """Features of ten images by weights that say that they were retrained; the images' ids."""
    weights = tmp_path / "run" / "weights.safetensors"
    weights.parent.mkdir()
    about = {"train_ids_hash": '"0"', "parent_weights": '"none"'}
    save_file({"w": np.zeros(1, np.float32)}, weights, about)
    ids = [hashlib.sha256(bytes([number])).hexdigest() for number in range(10)]
    store = Store.open(tmp_path / "store", create=True)
    store.list_images(
        pd.DataFrame({
            "image_id": ids, "path": [f"{n}.png" for n in range(10)], "label": list("ab") * 5,
            "size": 1, "state": "ok", "reason": "",
        })
    )  # fmt: skip
    known = {
        "network": "n", "weights": str(weights), "weights_hash": "0" * 16, "taps": ["gap"],
        "transform": {}, "precision": "float32",
    }  # fmt: skip
    features = store.create_features(known, "n-0-0", {"gap": ((2,), "float32")})
    features.write_unit(0, {"gap": np.ones((10, 2), np.float32)}, {}, run_id="t")
    return weights.parent, store.features(), ids


def test_trained_images_that_count_as_held_out_are_refused(made):
    folder, features, ids = made
    pd.DataFrame({"image_id": ids[:4]}).to_parquet(folder / "train_images.parquet")
    assert trained_on(features) == 4
    with pytest.raises(BadInput, match=r"4 of 10 held-out images .* were trained on by"):
        check_unseen(features)
    assert "--train-share" in doubts(features)[0]


def test_other_images_are_judged(made):
    folder, features, _ = made
    pd.DataFrame({"image_id": ["f" * 64]}).to_parquet(folder / "train_images.parquet")
    assert trained_on(features) == 0
    assert check_unseen(features) == []


def test_weights_without_their_list_are_judged_with_a_note(made):
    _, features, _ = made
    (note,) = check_unseen(features)
    assert "it is not known what" in note
