"""Objects on other grounds: against loops, and digits on grounds that go with their class."""

import json
import os
import sys
from functools import cache
from html import escape, unescape

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

import alike
from alike.analysis.background import (
    GAP,
    VARIANTS,
    Cutouts,
    _check_numbers,
    other_grounds,
    tiled_ground,
    variants_of,
)
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.report.explanations import explanations_section
from alike.analysis.report.words import number
from alike.extract.errors import BadInput
from alike.flows.cli import main

NETWORK = """
from torch import nn

def small():
    def block(a, b):
        return nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()
    return nn.Sequential(*block(3, 16), nn.MaxPool2d(2), *block(16, 32), nn.MaxPool2d(2),
                         *block(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
"""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FULL = os.environ.get("ALIKE_FULL") == "1"
CORRELATIONS = (0.0, 0.25, 0.5, 0.75, 1.0) if FULL else (0.0, 0.5, 1.0)


def on_grounds(correlation, count, seed):
    """Digits on textures of 4x4 pixels; a texture is that of the class with this probability.

    Returns:
        pixels (n, 24, 24, 3), masks (n, 24, 24), classes (n,).
    """
    digits, draw = load_digits(), np.random.default_rng(seed)
    chosen = draw.choice(len(digits.target), count, replace=False)
    classes = digits.target[chosen]
    textures = np.random.default_rng(1).integers(0, 200, (10, 4, 4, 3))
    which = np.where(draw.random(count) < correlation, classes, draw.integers(0, 10, count))
    pixels = np.tile(textures[which], (1, 6, 6, 1)) + draw.integers(0, 30, (count, 24, 24, 3))
    ink = digits.images[chosen].repeat(2, axis=1).repeat(2, axis=2)
    masks = np.zeros((count, 24, 24), bool)
    masks[:, 4:20, 4:20] = ink > 6
    return np.where(masks[..., None], 255, pixels).astype(np.uint8), masks, classes


def trained(pixels, classes, code):
    """A small network that has learned these images."""
    torch.manual_seed(0)
    space = {}
    exec(code, space)
    module = space["small"]()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    inputs = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    labels = torch.from_numpy(classes.astype(np.int64))
    optimiser = torch.optim.AdamW(module.parameters(), lr=5e-3)
    for _ in range(10):
        for at in torch.randperm(len(inputs)).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(inputs[at]), labels[at]).backward()
            optimiser.step()
    return module.eval()


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """Correlation to a store of 300 held-out images and the file of their masks."""

    @cache
    def study(correlation):
        place = tmp_path_factory.mktemp("grounds")
        (place / "net.py").write_text(NETWORK)
        pixels, _, classes = on_grounds(correlation, 700, 0)
        torch.save(trained(pixels, classes, NETWORK).state_dict(), place / "w.pt")
        pixels, masks, classes = on_grounds(correlation, 300, 1)
        np.savez(place / "set.npz", images=pixels, labels=classes)
        np.savez(place / "masks.npz", images=masks.astype(np.uint8), labels=classes)
        alike.extract_images(
            place / "set.npz", f"{place / 'net.py'}:small", place / "store",
            weights=place / "w.pt", train_share=0, threads=1, twins="ignore",
        )  # fmt: skip
        return place

    return study


def test_gap_grows_with_the_correlation_of_ground_and_class(studied):
    gaps, right, off = [], [], []
    for correlation in CORRELATIONS:
        place = studied(correlation)
        probe = alike.probe_background(place / "store", place / "masks.npz", trust=True)
        table = probe.table.set_index(["images", "score"])
        gaps.append(table.loc[GAP, "sameness"])
        right.append(table.loc[(GAP, "accuracy"), "value"])
        off.append(table.loc[("original", "likeness_less_area"), "value"])
        assert probe.record["images"] == 300
    values = [gap["value"] for gap in gaps]
    assert values == sorted(values)
    assert gaps[0]["low"] < 0 < gaps[0]["high"]
    assert gaps[1]["low"] > 0
    # With grounds that tell the class, all are right: an end, where the interval is wide.
    assert gaps[-1]["value"] > 0.2
    assert 0 < gaps[-1]["low"] < gaps[-1]["value"] < gaps[-1]["high"]
    assert "at an end of the score's range" in gaps[-1]["note"]
    assert right == sorted(right)
    assert abs(right[0]) < 0.1 < right[-1]
    assert off[-1] > off[0]


def test_table_is_that_of_loops(studied, monkeypatch, capsys):
    place = studied(1.0)
    argv = ["alike", "probe", "background", "--store", str(place / "store"), "--trust"]
    argv += ["--masks", str(place / "masks.npz"), "--limit", "60", "--seed", "3", "--json"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    answer = json.loads(capsys.readouterr().out)
    said = {(row["images"], row["score"]): row for row in answer["scores"]}
    store = alike.open_store(place / "store")
    kept, record = store.read_table(f"tables/{store.groups()[0]}/background.parquet")
    assert kept["value"].tolist() == [row["value"] for row in answer["scores"]]
    assert record["seed"] == 3

    features = store.features()
    # Turns by id, whatever the order of the files.
    table = features.table("held_out").sort_values("image_id")
    turn = table.groupby("label").cumcount()
    table = table.iloc[np.lexsort((table["image_id"], turn))[:60]]
    images = evaluation_set_of(table["row"].to_numpy(), table["label"].tolist(), table["image_id"])
    paths = table.set_index("row").loc[images.rows, "path"]
    at = [int(path.rpartition("/")[2]) for path in paths]
    pixels, masks, classes = on_grounds(1.0, 300, 1)
    pixels, masks, classes = pixels[at], masks[at], classes[at]
    space = {}
    exec(NETWORK, space)
    module = space["small"]().eval()
    module.load_state_dict(torch.load(place / "w.pt", weights_only=True))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def passed(frames):
        inputs = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - mean) / std
        with torch.no_grad():
            maps = module[:-3](inputs).double().numpy()
            return maps, module(inputs).argmax(1).numpy()

    def sameness(maps):
        gap = maps.mean(axis=(2, 3))
        unit = gap / np.linalg.norm(gap, axis=1, keepdims=True)
        i, j = np.triu_indices(len(unit), 1)
        same, counts = classes[i] == classes[j], np.bincount(classes)
        n = counts[classes]
        weight = np.where(same, 1 / (n[i] * (n[i] - 1)), 1 / (n[i] * n[j]))
        return 2 * roc_auc_score(same, (unit[i] * unit[j]).sum(1), sample_weight=weight) - 1

    grounds = np.stack([
        tiled_ground(frame.transpose(2, 0, 1), mask).transpose(1, 2, 0)
        for frame, mask in zip(pixels, masks, strict=True)
    ])  # fmt: skip
    values = {}
    for variant, partners in other_grounds(images, 3).items():
        frames = grounds[partners].copy()
        for one, (frame, mask) in enumerate(zip(pixels, masks, strict=True)):
            frames[one][mask] = frame[mask]
        maps, first = passed(frames)
        values[variant] = sameness(maps)
        assert said[variant, "sameness"]["value"] == pytest.approx(values[variant], abs=2e-3)
        assert said[variant, "accuracy"]["value"] == pytest.approx((first == classes).mean())
    apart = values["mixed_same"] - values["mixed_random"]
    assert said[GAP, "sameness"]["value"] == pytest.approx(apart, abs=3e-3)
    gap = said[GAP, "sameness"]
    # Six images: all are right on grounds of their class.
    assert max(values.values()) == pytest.approx(1, abs=1e-12)
    assert gap["low"] < gap["value"] <= gap["high"]
    assert "at an end" in gap["note"]

    maps, _ = passed(pixels)
    means = maps.mean(axis=(2, 3))
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    shares = []
    for one, own in enumerate(classes):
        kin = (classes == own) & (np.arange(60) != one)
        cells = np.einsum("chw,c->hw", maps[one], unit[kin].mean(axis=0))
        off = 1 - masks[one].reshape(6, 4, 6, 4).mean(axis=(1, 3))
        shares.append((cells * off).sum() / cells.sum())
    shown = said["original", "likeness_off_object"]["value"]
    assert shown == pytest.approx(np.mean(shares), abs=2e-3)
    area = said["original", "area_off_object"]["value"]
    assert area == pytest.approx(1 - masks.mean(), abs=1e-6)

    section = explanations_section({"network": features.key}, store)
    assert "What does the network take from backgrounds?" in section
    for images in (*VARIANTS, GAP):
        assert f"({escape(images)})" in section
        assert number(said[images, "sameness"]["value"]) in section
    assert f"{number(shown)} of an image's likeness to its class lies off its object" in unescape(
        section
    )
    assert "have changed since" not in section
    name = f"tables/{features.key}/background.parquet"
    store.write_table(name, kept, {**record, "digest": "of other features"})
    assert "have changed since" in explanations_section({"network": features.key}, store)
    store.write_table(name, kept, record)


@pytest.mark.quick
def test_ground_is_tiled_with_the_largest_strip():
    frame = np.arange(3 * 6 * 8, dtype=np.uint8).reshape(3, 6, 8)
    covered = np.zeros((6, 8), bool)
    covered[2, 4] = covered[4, 6] = True
    ground = tiled_ground(frame, covered)
    wanted = frame.copy()
    for down in range(2, 5):
        for right in range(4, 7):
            # The strip on the left, 6 x 4, is larger than the one above, 2 x 8.
            wanted[:, down, right] = frame[:, down - 2, right - 4]
    assert (ground == wanted).all()
    assert tiled_ground(frame, np.ones((6, 8), bool)) is None


@pytest.mark.quick
def test_grounds_are_used_once_and_never_by_their_own_object():
    labels = ["a"] * 5 + ["b"] * 3 + ["c"]
    images = evaluation_set_of(np.arange(9), labels)
    grounds = other_grounds(images, 0)
    for places in grounds.values():
        assert sorted(places) == list(range(9))
    assert (images.codes[grounds["mixed_same"]] == images.codes).all()
    alone = grounds["mixed_same"] == np.arange(9)
    assert alone.tolist() == [False] * 8 + [True]
    assert (grounds["mixed_random"] != np.arange(9)).all()
    frames = np.zeros((9, 3, 4, 4), np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None, None]
    objects = np.zeros((9, 4, 4), bool)
    objects[:, 1, 1] = True
    variants = dict(variants_of(Cutouts(frames, objects, images), 0))
    assert (variants["mixed_same"][:, 0, 1, 1] == np.arange(9)).all()
    assert (variants["mixed_same"][:, 0, 0, 0] == grounds["mixed_same"]).all()
    assert (variants["only_object"][:, 0, 0, 0] == 4).all()
    assert (variants["only_ground"] == frames).all()


def test_masks_that_do_not_fit_are_refused_or_counted(studied, tmp_path):
    place = studied(0.0)
    store = alike.open_store(place / "store")
    _, masks, classes = on_grounds(0.0, 300, 1)
    np.savez(tmp_path / "few.npz", images=masks[:200].astype(np.uint8) * 255, labels=classes[:200])
    probe = alike.probe_background(store, tmp_path / "few.npz", limit=1000, trust=True)
    assert probe.record["images"] == 200
    assert probe.record["left_out"] == {"no mask": 100}
    masks[:20] = False
    masks[20:30] = True
    np.savez(tmp_path / "odd.npz", images=masks.astype(np.uint8), labels=classes)
    probe = alike.probe_background(store, tmp_path / "odd.npz", limit=1000)
    assert probe.record["left_out"] == {"no object": 20, "no ground": 10}
    np.savez(tmp_path / "full.npz", images=np.ones((300, 24, 24), np.uint8), labels=classes)
    with pytest.raises(BadInput, match="strip of ground beside it"):
        alike.probe_background(store, tmp_path / "full.npz")
    np.savez(tmp_path / "small.npz", images=masks[:, ::2, ::2].astype(np.uint8), labels=classes)
    with pytest.raises(BadInput, match="is 12x12, its image 24x24"):
        alike.probe_background(store, tmp_path / "small.npz")
    folder = tmp_path / "sizes"
    listed = store.images().sort_values("path")
    for one, row in enumerate(listed.itertuples()):
        side = 12 if one < 2 else 24
        mask = np.zeros((side, side), np.uint8)
        mask[4:9, 4:9] = 255
        at = (folder / row.path).with_suffix(".png")
        at.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(at)
    first = f"{listed['path'].iloc[0].rpartition('.')[0] or listed['path'].iloc[0]}.png"
    left_out = alike.probe_background(store, folder, limit=1000).record["left_out"]
    assert left_out == {f"mask of another size ('{first}' is 12x12, its image 24x24)": 2}
    (folder / first).write_bytes((folder / first).read_bytes()[:60])
    left_out = alike.probe_background(store, folder, limit=1000).record["left_out"]
    assert sorted(left_out.values()) == [1, 1]
    assert any(f"mask that cannot be read ('{first}': " in reason for reason in left_out)
    Image.new("L", (24, 24)).save((folder / first).with_suffix(".bmp"))
    with pytest.raises(BadInput, match="are masks of one image: keep one"):
        alike.probe_background(store, folder)
    with pytest.raises(BadInput, match=r"--limit 4 leaves fewer than two classes .* give 20 or"):
        alike.probe_background(store, place / "masks.npz", limit=4)
    for row in listed.itertuples():
        if row.label != listed["label"].iloc[0]:
            (folder / row.path).with_suffix(".png").unlink()
    (folder / first).with_suffix(".bmp").unlink()
    with pytest.raises(BadInput, match=r"of the images with an object and a ground: .* one class"):
        alike.probe_background(store, folder)
    (tmp_path / "other" / "a").mkdir(parents=True)
    Image.fromarray(masks[0]).save(tmp_path / "other" / "a" / "1.png")
    with pytest.raises(BadInput, match="but for the suffix"):
        alike.probe_background(store, tmp_path / "other")
    with pytest.raises(BadInput, match="compares maps of few images"):
        alike.probe_background(store, place / "masks.npz", measure="chamfer")


@pytest.fixture
def dark(tmp_path):
    """12 images of two classes, one of them black, and one image that is alone in its class."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(150, 255, (13, 64, 64, 3)).astype(np.uint8)
    pixels[3] = 0
    masks = np.zeros((13, 64, 64), np.uint8)
    masks[:, 16:40, 16:40] = 1
    labels = np.array([0, 1] * 6 + [2])
    np.savez(tmp_path / "set.npz", images=pixels, labels=labels)
    np.savez(tmp_path / "masks.npz", images=masks, labels=labels)
    return tmp_path


def test_what_does_not_count_is_said(dark, monkeypatch, capsys):
    """Weights above zero give a black image a map below zero, so its likeness has no shares."""
    (dark / "net.py").write_text(
        "from torch import nn\n\ndef small():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 1, bias=False),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))\n"
    )
    draw = torch.Generator().manual_seed(0)
    state = {"0.weight": torch.rand(4, 3, 1, 1, generator=draw), "3.weight": torch.ones(10, 4),
             "3.bias": torch.zeros(10)}  # fmt: skip
    torch.save(state, dark / "w.pt")
    alike.extract_images(
        dark / "set.npz", f"{dark / 'net.py'}:small", dark / "store", weights=dark / "w.pt",
        train_share=0, threads=1, twins="ignore", resize="none",
    )  # fmt: skip
    words = ["alike", "probe", "background", "--store", str(dark / "store"), "--trust"]
    words += ["--masks", str(dark / "masks.npz"), "--measure", "gap_euclid"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    shown = capsys.readouterr().out
    store = alike.open_store(dark / "store")
    table, record = store.read_table(f"tables/{store.groups()[0]}/background.parquet")
    assert record["scores_left_out"] == {"accuracy": "labels are not classes of the network"}
    notes = table.set_index(["images", "score"])["note"]
    own, counted = "; 1 alone in a class, on their own ground", "; of 11 of 13 images: 1 alone"
    for images in ("mixed_same", GAP):
        assert notes[images, "sameness"].endswith(own)
    assert own not in notes["mixed_random", "sameness"]
    for score in ("likeness_off_object", "area_off_object", "likeness_less_area"):
        assert counted in notes["original", score]
    for line in (own, counted, "left out: accuracy (labels are not classes of the network)"):
        assert line in shown
    section = unescape(explanations_section({"network": store.groups()[0]}, store))
    assert "Accuracy is left out: labels are not classes of the network." in section
    assert own in section
    assert counted in section


def test_scores_that_cannot_be_had_are_left_out_with_the_reason(dark):
    """After a ReLU the black image has no features, and no logits are stored."""
    (dark / "net.py").write_text(
        "from torch import nn\n\ndef small():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))\n"
    )
    draw = torch.Generator().manual_seed(0)
    state = {"0.weight": torch.rand(4, 3, 1, 1, generator=draw), "4.weight": torch.ones(10, 4),
             "4.bias": torch.zeros(10)}  # fmt: skip
    torch.save(state, dark / "w.pt")
    alike.extract_images(
        dark / "set.npz", f"{dark / 'net.py'}:small", dark / "store", weights=dark / "w.pt",
        train_share=0, threads=1, twins="ignore", resize="none", taps=["last_conv", "fc"],
    )  # fmt: skip
    probe = alike.probe_background(
        dark / "store", dark / "masks.npz", measure="pixel_euclid", trust=True
    )
    reasons = probe.record["scores_left_out"]
    assert reasons["accuracy"].startswith("the store has no logits")
    # One image that is like nothing takes no number from the others.
    off = probe.table.set_index("score").loc["likeness_off_object"]
    assert 0 < off["value"] < 1
    assert "of 11 of 13 images: 1 alone in a class, 1 without likeness to theirs" in off["note"]


@pytest.mark.quick
def test_numbers_that_are_none_are_told_with_their_ground():
    """Composites are not stored, so that no command repairs them."""
    vectors, logits = np.ones((3, 2), np.float32), np.zeros((3, 0))
    vectors[1, 0] = np.nan
    with pytest.raises(BadInput, match=r"1 of 3 images of only_ground .* row 8"):
        _check_numbers("only_ground", vectors, logits, np.array([7, 8, 9]))
