"""An image that a network was trained on is no held-out image of it; no network is trained here."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from alike.extract.errors import BadInput
from alike.extract.store.store import Store
from alike.flows.trained_images import check_held_out, held_out_notes, keep_trained, trained_on
from alike.train.run_files import write_train_images
from alike.train.trained_images import LabelledImage, snapshot_hash, trained_images


@pytest.fixture
def made(tmp_path):
    """Features of ten images, the folder of the run that made their network, the images' ids."""
    folder = tmp_path / "out" / "run"
    folder.mkdir(parents=True)
    ids = [hashlib.sha256(bytes([number])).hexdigest() for number in range(10)]
    store = Store.open(tmp_path / "out" / "store", create=True)
    store.list_images(
        pd.DataFrame({
            "image_id": ids, "path": [f"{n}.png" for n in range(10)], "label": list("ab") * 5,
            "size": 1, "state": "ok", "reason": "",
        })
    )  # fmt: skip
    known = {
        "network": "n", "weights": str(folder / "weights.safetensors"), "weights_hash": "0" * 16,
        "taps": ["gap"], "transform": {}, "precision": "float32", "place": store.place,
    }  # fmt: skip
    features = store.create_features(known, "n-0-0", {"gap": ((2,), "float32")})
    features.write_unit(0, {"gap": np.ones((10, 2), np.float32)}, {}, run_id="t")
    return folder, store.features(), ids


def trained(folder, ids):
    """Write weights that say that they were trained on some images, and the list of these."""
    images = [LabelledImage(f"{number}.png", "a", one) for number, one in enumerate(ids)]
    snapshot = snapshot_hash(images)
    about = {"train_ids_hash": json.dumps(snapshot), "earlier_ids_hashes": "[]"}
    save_file({"w": np.zeros(1, np.float32)}, folder / "weights.safetensors", about)
    write_train_images(folder, images, snapshot, trained_images("none"))


def test_trained_images_that_count_as_held_out_are_refused(made):
    folder, features, ids = made
    trained(folder, ids[:4])
    assert trained_on(features) == 4
    with pytest.raises(BadInput, match=r"4 of 10 held-out images .* were trained on by"):
        check_held_out(features)
    assert "--train-share" in held_out_notes(features)[0]


def test_other_images_are_evaluated(made):
    folder, features, _ = made
    trained(folder, ["f" * 64])
    assert trained_on(features) == 0
    assert check_held_out(features) == []


def test_weights_without_their_list_are_evaluated_with_a_note(made):
    folder, features, ids = made
    trained(folder, ids[:4])
    (folder / "train_images.parquet").unlink()
    keep_trained(features)
    (note,) = check_held_out(features)
    assert "it is not known what" in note
    (folder / "weights.safetensors").unlink()
    (note,) = check_held_out(features)
    assert "is gone: it is not known what" in note


@pytest.mark.quick
def test_the_store_proves_alone_what_was_seen(made):
    folder, features, ids = made
    trained(folder, ids[:4])
    keep_trained(features)
    shutil.rmtree(folder)
    keep_trained(features)
    with pytest.raises(BadInput, match=r"4 of 10 held-out images"):
        check_held_out(features)


def test_weights_that_moved_with_the_store_are_found(made):
    folder, features, ids = made
    trained(folder, ids[:4])
    moved = folder.parent.rename(folder.parent.with_name("elsewhere"))
    features = Store.open(moved / "store").features()
    assert features.attrs["weights"] == str(moved / "run" / "weights.safetensors")
    assert trained_on(features) == 4
