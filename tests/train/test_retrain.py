import hashlib
import json
import logging
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from digit_images import Digits, write_network
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from alike.extract.errors import BadInput
from alike.extract.networks.capture import TappedNetwork
from alike.extract.networks.network import load_network
from alike.extract.networks.transform import Transform
from alike.train.losses import LOSSES, loss_named
from alike.train.prepare import prepare
from alike.train.retrain import Diverged, retrain
from alike.train.run_files import fingerprint_of, trained_images
from alike.train.run_log import checkpoint_of
from alike.train.settings import TrainSettings

FILES = {"log.csv", "run.json", "steps.csv", "train_images.parquet", "weights.safetensors"}


@pytest.fixture(scope="module")
def digits():
    return Digits()


@pytest.fixture(scope="module")
def parent(tmp_path_factory, digits):
    """A small network trained from scratch, (name, run)."""
    folder = tmp_path_factory.mktemp("parent")
    name = write_network(folder)
    run = retrain(
        load_network(name),
        digits.images,
        digits.read,
        loss="ce",
        epochs=30,
        lr=0.02,
        out=folder / "run",
    )
    return name, run


def again(parent, digits, out, **changes):
    name, run = parent
    settings = {"epochs": 2, "out": out, "device": "cpu"} | changes
    return retrain(load_network(name, str(run.weights)), digits.images, digits.read, **settings)


@pytest.mark.quick
def test_a_small_network_learns_from_scratch(parent):
    _, run = parent
    assert run.log["probe_accuracy"].iloc[-1] > 0.8
    assert run.log["loss"].iloc[-1] < run.log["loss"].iloc[0] / 2
    assert run.class_names == tuple("0123456789")


def test_only_the_folder_is_written_and_nothing_is_said(
    parent, digits, tmp_path, capfd, caplog, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    network = load_network(parent[0], str(parent[1].weights))
    before = torch.random.get_rng_state()
    with caplog.at_level(logging.INFO):
        out = tmp_path / "deep" / "run"
        run = retrain(network, digits.images, digits.read, epochs=2, out=out)
    assert {file.name for file in (tmp_path / "deep" / "run").iterdir()} == FILES
    assert [file.name for file in tmp_path.iterdir()] == ["deep"]
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(run.log) == 2


def test_weights_say_where_they_come_from(parent, digits, tmp_path):
    name, first = parent
    run = again(parent, digits, tmp_path, loss="gap_supcon", seed=3, weight=0.25)
    loaded = load_network(name, str(run.weights))
    assert loaded.weights_hash == run.weights_hash != first.weights_hash
    assert loaded.class_names == tuple("0123456789")
    said = json.loads((tmp_path / "run.json").read_text())
    assert said["parent_weights_hash"] == first.weights_hash
    assert (said["settings"]["loss"], said["settings"]["weight"]) == ("gap_supcon", 0.25)
    assert said["settings"]["seed"] == 3
    trained = pd.read_parquet(tmp_path / "train_images.parquet")
    assert len(trained) == len(digits.images)
    ids = [hashlib.sha256(digits.read(path)).hexdigest() for path, _ in digits.images]
    assert trained["image_id"].tolist() == ids
    assert trained_images(run.weights)["image_id"].tolist() == ids
    # Not of another place of the same network: a folder that is moved is not trained anew.
    assert fingerprint_of(loaded, TrainSettings(), "0", 1) == fingerprint_of(
        replace(loaded, name="/elsewhere/small.py:small"), TrainSettings(), "0", 1
    )


def test_a_run_proves_alone_what_its_network_saw(parent, digits, tmp_path):
    name, first = parent
    others = Digits(first=200, count=100)
    moved = shutil.copytree(first.weights.parent, tmp_path / "first") / "weights.safetensors"
    second = retrain(
        load_network(name, str(moved)), others.images, others.read, epochs=1, out=tmp_path / "b"
    )
    assert not [said for said in second.decisions if "not known" in said]
    seen = [
        hashlib.sha256(one.read(p)).hexdigest() for one in (others, digits) for p, _ in one.images
    ]
    shutil.rmtree(tmp_path / "first")
    (tmp_path / "b").rename(tmp_path / "moved")
    weights = tmp_path / "moved" / "weights.safetensors"
    assert trained_images(weights)["image_id"].tolist() == seen
    listing = weights.with_name("train_images.parquet")
    whole = pd.read_parquet(listing)
    for other in (whole[:250], whole.assign(image_id=whole["image_id"][::-1].to_numpy())):
        other.to_parquet(listing)
        with pytest.raises(BadInput, match=r"is not the list that .* was written with"):
            trained_images(weights)
    listing.unlink()
    with pytest.raises(BadInput, match="is gone: it is not known what"):
        trained_images(weights)
    with pytest.raises(BadInput, match="is gone: it is not known what"):
        trained_images(tmp_path / "b" / "weights.safetensors")
    third = retrain(
        load_network(name, str(weights)), others.images, others.read, epochs=1, out=tmp_path / "c"
    )
    assert [said for said in third.decisions if "is gone: it is not known what" in said]
    with pytest.raises(BadInput, match="weights whose own list of images was gone"):
        trained_images(third.weights)
    for foreign in ("none", "IMAGENET1K_V1", name.rpartition(":")[0]):
        assert trained_images(foreign).empty


OF_MEASURES = ["supcon:cam_pred_cosine", "supcon:fc_cosine", "triplet:softmax_dot"]


@pytest.mark.parametrize("loss", [*sorted(LOSSES), *OF_MEASURES])
def test_every_loss_trains(loss, parent, digits, tmp_path):
    run = again(parent, digits, tmp_path, loss=loss, epochs=1, warmup=0.0)
    assert run.log[["loss", "cross_entropy", "consistency"]].notna().all(axis=None)
    if loss_named(loss).make:
        assert run.steps["weight"].iloc[-1] > 0
    weights = load_file(run.weights)
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())


def test_the_same_seed_gives_the_same_weights(parent, digits, tmp_path):
    hashes = {
        again(parent, digits, tmp_path / name, seed=seed, epochs=1).weights_hash
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    }
    assert len(hashes) == 2


def test_held_out_images_must_not_be_trained_on(parent, digits, tmp_path):
    with pytest.raises(BadInput, match=r"3 held-out images are among .* 7\.npy"):
        again(parent, digits, tmp_path, held_out=digits.images[7:10])
    others = Digits(first=200, count=100)
    run = again(parent, digits, tmp_path, held_out=others.images)
    assert run.log["probe_sameness"].between(-1, 1).all()


def test_head_of_other_size_is_replaced_and_loads_back(digits, tmp_path):
    network = load_network("mobilenet_v2", transform=Transform(resize=(32, 32)), seed=4)
    few = [image for image in digits.images if image[1] in "012"]
    run = retrain(network, few, digits.read, epochs=1, out=tmp_path, head_warmup=0.5)
    assert "head classifier.1: 1000 outputs replaced by 3 with new weights" in run.decisions
    loaded = load_network("mobilenet_v2", str(run.weights))
    assert loaded.class_names == ("0", "1", "2")
    assert loaded.weights_hash == run.weights_hash
    assert loaded.transform == network.transform
    plain = models.mobilenet_v2(num_classes=3)
    plain.load_state_dict(load_file(run.weights))


def test_the_body_waits_for_a_new_head(parent, digits, tmp_path):
    two = [(path, f"digit {label}") for path, label in digits.images if label in "01"]
    name, first = parent
    network = load_network(name, str(first.weights))
    before = network.module.state_dict()["0.weight"]

    def moved(share):
        out = tmp_path / str(share)
        changes = {"loss": "ce", "epochs": 10, "lr": 1e-3, "weight_decay": 0.0}
        run = retrain(network, two, digits.read, out=out, head_warmup=share, **changes)
        after = load_file(run.weights)
        assert after["10.weight"].shape == (2, 32)
        return (after["0.weight"] - before).abs().max().item()

    # One step of AdamW moves a weight by about the learning rate: here 1 of 10 steps was allowed.
    assert moved(0.9) == pytest.approx(1e-3, rel=0.05)
    assert moved(0.0) > 2e-3


@pytest.mark.parametrize("loss", ["ce", "gap_supcon"])
def test_statistics_of_batchnorm_follow_the_batches(loss, parent, digits, tmp_path):
    """Lightning leaves a network in the mode it is in: in eval mode nothing here would move."""
    before = load_file(parent[1].weights)
    after = load_file(again(parent, digits, tmp_path, loss=loss, batch_size=40).weights)
    for name in ("1.running_mean", "1.running_var", "5.running_mean"):
        assert not torch.equal(after[name], before[name])
    steps = after["1.num_batches_tracked"] - before["1.num_batches_tracked"]
    assert steps == 2 * 5, "2 epochs of 200 images in batches of 40"


def test_dropout_drops(parent, digits, tmp_path):
    name, first = parent
    hashes = set()
    for share in (0.0, 0.9):
        network = load_network(name, str(first.weights), args={"dropout": share})
        run = retrain(network, digits.images, digits.read, epochs=1, out=tmp_path / str(share))
        hashes.add(hashlib.sha256(load_file(run.weights)["10.weight"].numpy().tobytes()).digest())
    assert len(hashes) == 2


@pytest.mark.parametrize("name", ["densenet121", "efficientnet_b0", "mobilenet_v3_small"])
def test_the_same_map_is_tapped_while_a_network_trains(name):
    network = load_network(name, transform=Transform(resize=(64, 64)))
    prepared = prepare(network, ["a", "b"], (64, 64), LOSSES["cam_supcon"], 0)
    module, start = prepared.module, prepared.start
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    captured = TappedNetwork(module, list(start.taps.values()))(torch.randn(4, 3, 64, 64))
    assert captured["last_conv"].shape[1:] == start.taps["last_conv"].shape
    if start.linear:
        made = start.head.layer(captured["last_conv"].mean((2, 3)))
        torch.testing.assert_close(made, captured["logits"])


def test_fixed_simplex_head_stays(parent, digits, tmp_path):
    run = again(parent, digits, tmp_path, loss="etf_head", epochs=1)
    rows = load_file(run.weights)["10.weight"]
    cosines = (rows @ rows.T).fill_diagonal_(-1 / 9)
    torch.testing.assert_close(cosines, torch.full((10, 10), -1 / 9), atol=1e-5, rtol=0)


def test_a_fixed_head_names_the_classes(parent, digits, tmp_path):
    found = {
        loss: again(parent, digits, tmp_path / loss, loss=loss, epochs=20, lr=0.02)
        for loss in ("etf_head", "ce")
    }
    accuracy = {loss: run.log["probe_accuracy"].iloc[-1] for loss, run in found.items()}
    assert accuracy["etf_head"] > accuracy["ce"] - 0.1


def test_networks_without_a_linear_head_get_grad_cam(digits, tmp_path):
    network = load_network("squeezenet1_1", transform=Transform(resize=(64, 64)))
    few = [image for image in digits.images if image[1] in "01"]
    run = retrain(network, few, digits.read, loss="cam_supcon", epochs=1, out=tmp_path)
    assert any(decision.startswith("mask: Grad-CAM") for decision in run.decisions)


def test_early_stop_keeps_the_best_weights(parent, digits, tmp_path):
    run = again(parent, digits, tmp_path, loss="ce", epochs=30, patience=2, lr=1e-5)
    assert len(run.log) < 30
    assert any("no better than epoch" in decision for decision in run.decisions)


def test_collapse_is_noticed_and_said(parent, digits, tmp_path):
    changes = {"warmup": 0.0, "collapse_steps": 3, "weight": 50.0, "lr": 0.05}
    run = again(parent, digits, tmp_path, loss="map_pair_raw", epochs=15, **changes)
    assert any("halved" in decision for decision in run.decisions)


@pytest.mark.parametrize("loss", ["ce", "gap_supcon"])
def test_a_network_that_diverged_is_not_written(loss, parent, digits, tmp_path):
    with pytest.raises(Diverged, match=r"training diverged: .* give a rate below 1e\+30"):
        again(parent, digits, tmp_path, loss=loss, lr=1e30, epochs=30)
    assert not (tmp_path / "weights.safetensors").exists()
    # It ends at once: nothing is gained by more steps.
    assert len(pd.read_csv(tmp_path / "log.csv")) < 10


def test_bad_images_are_left_out_and_said(parent, digits, tmp_path):
    name, first = parent

    def read(path):
        return b"no image" if path == "3.npy" else digits.read(path)

    network = load_network(name, str(first.weights))
    run = retrain(network, digits.images, read, epochs=1, out=tmp_path)
    assert any(decision.startswith("left out 3.npy: unreadable") for decision in run.decisions)
    trained = pd.read_parquet(tmp_path / "train_images.parquet")
    assert (trained["train_ids_hash"] == run.train_ids_hash).sum() == len(digits.images) - 1


def test_what_is_left_out_of_training_and_of_watching_is_said(parent, digits, tmp_path):
    def read(path):
        return b"no image" if path == "150.npy" else digits.read(path)

    network = load_network(parent[0], str(parent[1].weights))
    unlabelled = [(path, None) for path, _ in digits.images[:7]]
    train = [(path, label) for path, label in digits.images[7:100] if label in "012"]
    held_out = [*digits.images[145:151], ("151.npy", "a cat"), ("160.npy", None)]
    run = retrain(network, [*unlabelled, *train], read, held_out=held_out, epochs=1, out=tmp_path)
    said = [
        f"7 of {len(train) + 7} training images have no label: left out",
        "1 of 8 held-out images have no label: left out",
        "left out 150.npy: unreadable",
        "1 of 6 held out images are not evaluated after each epoch: no training image is of their "
        "classes, a cat",
    ]
    for sentence in said:
        assert any(sentence in one for one in run.decisions), (sentence, run.decisions)
    trained = pd.read_parquet(tmp_path / "train_images.parquet")
    assert (trained["train_ids_hash"] == run.train_ids_hash).sum() == len(train)


@pytest.mark.parametrize("name", ["weights.safetensors", "log.csv", "steps.csv", "run.json"])
def test_a_finished_run_that_was_altered_is_made_again(parent, digits, tmp_path, name):
    first = again(parent, digits, tmp_path, epochs=1)
    file = tmp_path / name
    data = bytearray(file.read_bytes())
    place = data.rindex(b"1") if name.endswith((".csv", "json")) else len(data) - 1
    data[place] ^= 2
    file.write_bytes(data)
    if name == "weights.safetensors":
        with pytest.raises(BadInput, match="differs from its own seal"):
            load_network(parent[0], str(file))
    second = again(parent, digits, tmp_path, epochs=1)
    assert not any(one.startswith("already trained") for one in second.decisions)
    assert second.weights_hash == first.weights_hash
    third = again(parent, digits, tmp_path, epochs=1)
    assert third.decisions[-1].startswith("already trained")


@pytest.mark.parametrize("cut", [0, 50, None])
def test_a_damaged_checkpoint_is_none(tmp_path, cut):
    log = {"fingerprint": "f", "rows": [], "best": {}}
    whole = {"callbacks": {"log": log}, "alike": {"watch": {}, "steps": []}}
    torch.save(whole, tmp_path / "checkpoint.ckpt")
    assert checkpoint_of(tmp_path, "f") is not None
    data = (tmp_path / "checkpoint.ckpt").read_bytes()
    (tmp_path / "checkpoint.ckpt").write_bytes(b"[]" if cut is None else data[:cut])
    assert checkpoint_of(tmp_path, "f") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "contrast"}, "'contrast' is not known"),
        ({"loss": "supcon:gap_euclid"}, "gap_euclid cannot be trained"),
        ({"augment": "cutmix"}, "'cutmix' is not known"),
        ({"epoch": 3}, "no such setting: epoch"),
        ({"epochs": 0}, "epochs = 0"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"warmup": 1.0}, "warmup = 1.0"),
        ({"optimiser": "adam"}, "'adam'"),
        ({"precision": "8"}, "'8'"),
        ({"weight": -1.0}, "weight = -1.0"),
        ({"device": "tpu"}, "'tpu'"),
        ({"device": "cuda:99x"}, "'cuda:99x'"),
    ],
)
def test_bad_settings_are_named(changes, message, parent, digits, tmp_path):
    with pytest.raises(BadInput, match=message):
        again(parent, digits, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_one_class_is_refused(digits, parent, tmp_path):
    name, first = parent
    ones = [image for image in digits.images if image[1] == "1"]
    with pytest.raises(BadInput, match="two are needed"):
        retrain(load_network(name, str(first.weights)), ones, digits.read, out=tmp_path / "run")


def test_mixed_precision_trains(parent, digits, tmp_path):
    changes = {"loss": "cam_supcon", "warmup": 0.0}
    run = again(parent, digits, tmp_path / "mixed", precision="bf16-mixed", **changes)
    full = again(parent, digits, tmp_path / "full", **changes)
    assert run.weights_hash != full.weights_hash
    assert run.log["loss"].tolist() == pytest.approx(full.log["loss"].tolist(), rel=0.02)
    weights = load_file(run.weights)
    assert {value.dtype for value in weights.values()} == {torch.float32, torch.int64}


def test_statistics_are_measured_again_after_batches_of_few_classes(parent, digits, tmp_path):
    few = again(parent, digits, tmp_path / "few", batch_size=16, per_class=8)
    told = [decision for decision in few.decisions if decision.startswith("statistics of 2")]
    assert len(told) == 1
    all_ = again(parent, digits, tmp_path / "all", batch_size=40)
    assert not any(decision.startswith("statistics") for decision in all_.decisions)


def test_a_cache_too_small_changes_nothing(parent, digits, tmp_path, monkeypatch):
    plenty = again(parent, digits, tmp_path / "plenty", epochs=1)
    monkeypatch.setattr("alike.train.retrain.CACHE_BYTES", 10_000)
    little = again(parent, digits, tmp_path / "little", epochs=1)
    assert little.weights_hash == plenty.weights_hash


def test_head_warmup_leaves_the_statistics_of_the_body_alone(parent, digits, tmp_path, monkeypatch):
    """If all steps are warm-up, the BatchNorm statistics of the body are those of before."""
    name, run = parent
    network = load_network(name, str(run.weights))
    two = [(path, f"digit {label}") for path, label in digits.images if label in "01"]
    before = network.module.state_dict()
    statistics = [key for key in before if "running_" in key]
    assert statistics

    def after(steps):
        monkeypatch.setattr("alike.train.step.frozen_steps", lambda *_: steps)
        out = tmp_path / str(steps)
        found = retrain(network, two, digits.read, out=out, loss="ce", epochs=2)
        return load_file(found.weights)

    held = after(1000)
    assert all(torch.equal(held[key], before[key]) for key in statistics)
    moved = after(0)
    assert not any(torch.equal(moved[key], before[key]) for key in statistics)


def test_validation_images_stop_a_training(parent, digits, tmp_path):
    """They are looked at instead of the held-out ones, and all training images are trained on."""
    name, run = parent
    network = load_network(name, str(run.weights))
    train, validation, held_out = digits.images[:60], digits.images[60:90], digits.images[90:]
    found = retrain(
        network, train, digits.read, out=tmp_path, held_out=held_out, validation=validation,
        patience=1, epochs=3, device="cpu", lr=1e-9, loss="ce",
    )  # fmt: skip
    assert any("stopped" in decision for decision in found.decisions)
    written = pd.read_parquet(tmp_path / "train_images.parquet")
    assert len(written) >= 60
    with pytest.raises(BadInput, match="are among the training images"):
        retrain(network, train, digits.read, out=tmp_path / "c", validation=train[:3])
