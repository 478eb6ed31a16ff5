"""What people bring as sets: subsets, several labels, several images a sample, other numbers."""

import io
import json
import math
import os
import tarfile
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import encoded, picture

from alike.extract.errors import BadImage, BadInput
from alike.extract.images.decoding import decode
from alike.extract.images.labels import LabelRule, shared_name
from alike.extract.images.listing import list_source
from alike.extract.images.source import notes_of
from alike.extract.images.sources import open_source

DATA = encoded(picture(0), "PNG")
TREES: dict[str, dict[str, tuple[str | None, str | None]]] = {
    "classes": {"cat/1.png": ("cat", None), "dog/1.png": ("dog", None)},
    "subsets": {
        "train/cat/1.png": ("cat", "train"),
        "train/dog/2.png": ("dog", "train"),
        "val/cat/3.png": ("cat", "val"),
    },
    "one subset": {"train/cat/1.png": ("cat", "train"), "train/dog/2.png": ("dog", "train")},
    "flat test": {"test/9.png": (None, "test"), "train/cat/1.png": ("cat", "train")},
    "a train is a class": {"bus/1.png": ("bus", None), "train/2.png": ("train", None)},
    "deep classes": {"bus/a/1.png": ("bus", None), "train/b/2.png": ("train", None)},
    "no class folders": {"test/1.png": ("test", None), "train/2.png": ("train", None)},
    "deep": {
        "cat/x/1.png": ("cat", None),
        "cat/y/2.png": ("cat", None),
        "dog/3.png": ("dog", None),
    },
    "loose": {"cat/1.png": ("cat", None), "loose.png": (None, None)},
    "in a folder of its own": {
        "set/train/cat/1.png": ("cat", "train"),
        "set/val/dog/2.png": ("dog", "val"),
    },
    "two folders deep": {"a/b/cat/1.png": ("cat", None), "a/b/dog/2.png": ("dog", None)},
    "one class in parts": {"cat/x/1.png": ("x", None), "cat/y/2.png": ("y", None)},
    "one class": {"cat/1.png": ("cat", None), "cat/2.png": ("cat", None)},
    "one subset alone": {"set/train/1.png": ("train", None)},
    "in a folder named as a subset": {
        "test/train/cat/1.png": ("cat", "train"),
        "test/val/cat/2.png": ("cat", "val"),
    },
    "other names": {
        "train2017/cat/1.png": ("cat", "train2017"),
        "Test_Set/cat/2.png": ("cat", "Test_Set"),
    },
    "folder names are not parsed": {"1.0/1.png": ("1.0", None), "a|b/2.png": ("a|b", None)},
}


def write_tree(root: Path, files: list[str]) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(DATA)
    return root


def add(tar: tarfile.TarFile, name: str, data: bytes = DATA) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def shard(file: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            add(tar, name, data)
    return str(file)


@pytest.mark.parametrize("name", TREES)
def test_a_tree_has_the_same_classes_as_folder_and_as_tar(name: str, tmp_path: Path) -> None:
    tree = TREES[name]
    root = write_tree(tmp_path / "photos", list(tree))
    (root / "notes").mkdir()
    (root / "notes" / "annotations.json").write_text("{}")
    found = {one.path: (one.label, one.subset) for one in open_source(str(root))}
    assert found == tree
    for top in (".", "photos"):
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            tar.add(root, top)
        listed = list(open_source(str(tmp_path / "set.tar")))
        places = {
            one.path.split("set.tar/")[1].removeprefix("./").removeprefix("photos/"): one
            for one in listed
        }
        assert {path: (one.label, one.subset) for path, one in places.items()} == tree


def test_subsets_are_said_selected_and_can_be_switched_off(tmp_path: Path) -> None:
    root = write_tree(tmp_path, list(TREES["subsets"]))
    source = open_source(str(root))
    listing = list_source(source)
    assert listing["subset"].tolist() == ["train", "train", "val"]
    assert notes_of(source) == [
        "the folders train, val are subsets (--where subset=NAME), and the folder below is the "
        "class"
    ]
    chosen = open_source(str(root), where="subset=val")
    assert [one.path for one in chosen] == ["val/cat/3.png"]
    again = open_source(chosen.spec, **chosen.options)
    assert list(again) == list(chosen)
    assert again.read("val/cat/3.png") == DATA
    plain = open_source(str(root), subsets=False)
    assert [one.label for one in plain] == ["train", "train", "val"]
    with pytest.raises(BadInput, match="has no subset test; it has train, val"):
        list(open_source(str(root), where="subset=test"))
    with pytest.raises(BadInput, match="expected subset=NAME or label=NAME"):
        open_source(str(root), where="size>3")


def test_folders_that_are_no_classes_or_might_be_none_are_said(tmp_path: Path) -> None:
    trees = {
        "own": (["set/cat/1.png", "set/dog/2.png"], "all images lie in set: the folders below"),
        "other": (["train/cat/1.png", "val/cat/2.png", "extra/3.png"], "because extra is beside"),
        "flat": (["test/1.png", "train/2.png"], "because no folders of classes lie in them"),
    }
    for name, (files, says) in trees.items():
        root = write_tree(tmp_path / name, files)
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            for file in files:
                add(tar, f"./{file}")
        for spec in (root, tmp_path / "set.tar"):
            source = open_source(str(spec))
            assert all(one.label for one in source)
            (note,) = notes_of(source)
            assert says in note


def test_what_a_folder_leaves_out_is_counted(tmp_path: Path) -> None:
    write_tree(tmp_path, ["cat/1.png", "cat/a.JXL", "dog/b.JXL", "dog/c.svg", "notes.txt"])
    source = open_source(str(tmp_path))
    assert len(list_source(source)) == 1
    assert notes_of(source) == ["3 files with other suffixes are left out: .JXL 2, .svg 1"]


def test_one_image_of_a_sample_is_taken(tmp_path: Path) -> None:
    members = {
        f"{number}.{ending}": encoded(picture(seed), "PNG")
        for seed, (number, ending) in enumerate(
            (number, ending) for number in "01" for ending in ("seg.png", "png", "depth.png")
        )
    } | {"0.cls": b"3", "1.cls": b"4"}
    spec = shard(tmp_path / "set.tar", members)
    source = open_source(spec)
    listing = list_source(source)
    assert listing["path"].tolist() == ["set.tar/0.png", "set.tar/1.png"]
    assert listing["label"].tolist() == ["3", "4"]
    assert notes_of(source) == [
        "4 images beside the image of their sample are left out: .depth.png 2, .seg.png 2; "
        "--source-option image=depth.png takes these instead"
    ]
    masks = open_source(spec, image="seg.png")
    assert [one.path for one in masks] == ["set.tar/0.seg.png", "set.tar/1.seg.png"]
    assert [one.label for one in masks] == ["3", "4"]
    with pytest.raises(BadInput, match=r"no image ends in \.mask\.png"):
        list(open_source(spec, image="mask.png"))


def test_numbers_after_a_dot_belong_to_the_name(tmp_path: Path) -> None:
    members = {f"cat/photo.2021.{number}.png": DATA for number in "123"}
    assert len(list(open_source(shard(tmp_path / "set.tar", members)))) == 3


@pytest.mark.quick
def test_a_pipe_named_tar_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.tar")
    with pytest.raises(BadInput, match="not a regular file"):
        list(open_source(str(tmp_path / "fifo.tar")))


VALUES: list[tuple[Any, str | None]] = [
    (3, "3"), (3.0, "3"), (np.float32(3), "3"), (np.float32(0.1), "0.1"), (np.float16(0.1), "0.1"),
    (np.array([0.1], np.float32), "0.1"), (np.float32("nan"), None), (np.int64(3), "3"),
    ("3.0", "3"), ("-2.00", "-2"),
    (2.5, "2.5"), ("03", "03"), ("NA", "NA"), (True, "true"), (np.bool_(False), "false"),
    ("True", "true"), ("", None), ("  ", None), (None, None), (math.nan, None), ("nan", None),
    ("NaN", None), ([], None), ([7], "7"), (b" owl\n", "owl"), ("v1.0.0", "v1.0.0"),
    ("[7]", "7"), ("['owl']", "owl"), ("[]", None), ("[null]", None), ("[owl]", "[owl]"),
    ("(3)", "(3)"), ("[", "["), ("f(x)", "f(x)"), ("['one 2 3']", "one 2 3"),
    # As a number it would be the nanoseconds since 1970.
    (np.datetime64("2026-01-02", "ns"), "2026-01-02T00:00:00.000000000"),
    (np.datetime64("NaT", "ns"), None),
]  # fmt: skip


@pytest.mark.parametrize(("value", "label"), VALUES)
def test_the_rule_of_labels(value: Any, label: str | None) -> None:
    assert LabelRule("set")(value) == label


SEVERAL = (
    [3, 1], (3, 1), np.array([3, 1]), "cat|animal", {"name": "cat"}, "[3, 1]", "(3, 1)", "[3 1]",
    "['cat', 'dog']", "['cat' 'dog']", '["cat", null]', "{'name': 'cat'}", b"[3, 1]\n",
)  # fmt: skip


@pytest.mark.parametrize("value", SEVERAL, ids=str)
def test_several_labels_are_refused_with_a_way_out(value: Any) -> None:
    # A mapping has no first.
    mapping = isinstance(value, dict) or str(value).startswith("{")
    way = r"--label-column$" if mapping else r"--label-column.*--first-label$"
    with pytest.raises(BadInput, match=way):
        LabelRule("set")(value)


def test_the_first_of_several_labels_and_a_text_as_a_whole() -> None:
    assert LabelRule("set", True)([3, 1]) == "3"
    assert LabelRule("set", True)("cat|animal") == "cat"
    assert LabelRule("set", False)("cat|animal") == "cat|animal"
    assert LabelRule("set", True)("['cat', 'dog']") == "cat"
    assert LabelRule("set", False)("[3, 1]") == "[3, 1]"
    with pytest.raises(BadInput, match="expected true or false"):
        LabelRule("set", "yes")  # type: ignore[arg-type]


def labelled(kind: str, root: Path, values: list[Any]) -> str:
    """A set of two images with the labels of a column."""
    write_tree(root, ["0.png", "1.png"])
    paths = ["0.png", "1.png"]
    if kind == "csv":
        pd.DataFrame({"path": paths, "label": values}).to_csv(root / "set.csv", index=False)
        return str(root / "set.csv")
    if kind == "parquet":
        pq.write_table(pa.table({"path": paths, "label": values}), root / "set.parquet")
        return str(root / "set.parquet")
    if kind == "embedded":
        pq.write_table(pa.table({"image": [DATA, DATA], "label": values}), root / "set.parquet")
        return str(root / "set.parquet")
    if kind == "npz":
        images = np.zeros((2, 4, 4, 3), np.uint8)
        np.savez(root / "set.npz", X=images, Y=np.array(values, dtype=float))
        return str(root / "set.npz")
    if kind == "h5":
        with h5py.File(root / "set.h5", "w") as file:
            file["X"], file["Y"] = np.zeros((2, 4, 4, 3), np.uint8), np.array(values, dtype=float)
        return str(root / "set.h5")
    members = dict.fromkeys(paths, DATA)
    members |= {
        f"{row}.json": json.dumps({"label": value}).encode() for row, value in enumerate(values)
    }
    return shard(root / "set.tar", members)


KINDS = ("csv", "parquet", "embedded", "npz", "h5", "tar")


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_gaps_name_the_same_classes_in_every_source(kind: str, tmp_path: Path) -> None:
    source = open_source(labelled(kind, tmp_path, [3.0, None]))
    assert [one.label for one in source] == ["3", None]


@pytest.mark.parametrize("kind", ["csv", "parquet", "embedded", "tar"])
def test_lists_of_labels_are_refused_in_every_source(kind: str, tmp_path: Path) -> None:
    spec = labelled(kind, tmp_path, [[3, 1], [2]])
    with pytest.raises(BadInput, match="--label-column"):
        list(open_source(spec))
    assert [one.label for one in open_source(spec, first_label=True)] == ["3", "2"]


def test_a_label_column_by_name(tmp_path: Path) -> None:
    spec = labelled("csv", tmp_path, ["a", "b"])
    pd.DataFrame({"path": ["0.png"], "kind": ["owl"]}).to_csv(spec, index=False)
    source = open_source(spec)
    assert [one.label for one in source] == [None]
    assert notes_of(source) == [
        "no column 'label', so no image has a class; columns are path, kind; --label-column names "
        "one"
    ]
    assert [one.label for one in open_source(spec, label="kind")] == ["owl"]
    with pytest.raises(BadInput, match="none is 'sort'"):
        open_source(spec, label="sort")
    with pytest.raises(BadInput, match="--source-option path=COLUMN"):
        open_source(spec, path="file")


def test_columns_of_subsets(tmp_path: Path) -> None:
    spec = labelled("csv", tmp_path, ["a", "b"])
    table = pd.DataFrame({"path": ["0.png", "1.png"], "label": "a", "subset": ["train", ""]})
    table.to_csv(spec, index=False)
    assert [one.subset for one in open_source(spec)] == ["train", None]
    np.savez(tmp_path / "two.npz", x_train=np.zeros((1, 4, 4), np.uint8), y_train=[1])
    assert [one.subset for one in open_source(str(tmp_path / "two.npz"))] == ["train"]


def test_names_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    spec = labelled("csv", tmp_path, ["a", "b"])
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    pd.DataFrame({"path": ["0.png", "1.png"], "label": forms}).to_csv(spec, index=False)
    source = open_source(spec)
    assert [one.label for one in source] == [forms[0]] * 2
    (note,) = notes_of(source)
    assert note == f"1 class name(s) in two forms of Unicode are one class each: {forms[0]}"


def test_arrays_of_other_numbers_name_the_option(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 4, 4, 3)).astype(np.float32)
    np.savez(tmp_path / "set.npz", images=values, target=[1, 2, 3])
    spec = str(tmp_path / "set.npz")
    with pytest.raises(BadInput, match=r"holds float32 from 0\.\d+ to .*scale=255 multiplies"):
        open_source(spec)
    source = open_source(spec, scale=255)
    found = decode(source.read("images/0000001")).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, np.rint(values[1].astype(np.float64) * 255))
    assert [one.label for one in source] == [None] * 3
    (note,) = notes_of(source)
    assert "--label-column target" in note
    assert [one.label for one in open_source(spec, scale=255, label="target")] == ["1", "2", "3"]
    with pytest.raises(BadImage, match="after scale"):
        open_source(spec, scale=1000).read("images/0000001")
    with pytest.raises(BadInput, match="a number above 0"):
        open_source(spec, scale=-1)


@pytest.mark.parametrize(
    ("values", "way"),
    [
        (np.linspace(0, 1, 16), "scale=255 "),
        (np.linspace(0, 255, 16), "scale=1 "),
        (np.linspace(0, 65535, 16).astype(np.uint16), "scale=0.003891050584 "),
        (np.linspace(-1, 1, 16), "values below 0 have no fixed meaning"),
        (np.linspace(0, 5000, 16), "values beyond 255 have no fixed meaning"),
    ],
)
def test_the_option_for_other_numbers_decodes_or_is_not_offered(
    values: np.ndarray, way: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "set.npz", images=values.reshape(1, 4, 4))
    with pytest.raises(BadInput, match="uint8 from 0 to 255 is expected") as caught:
        open_source(str(tmp_path / "set.npz"))
    assert way in str(caught.value)
    if way.startswith("scale"):
        scale = float(way.removeprefix("scale="))
        source = open_source(str(tmp_path / "set.npz"), scale=scale)
        pixels = decode(source.read("images/0000000"))[0].numpy()
        np.testing.assert_array_equal(pixels.ravel(), np.rint(values / values.max() * 255))


@pytest.mark.parametrize("kind", ["h5", "npz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
def test_one_hot_labels_are_one_class_and_said(kind: str, dtype: type, tmp_path: Path) -> None:
    truth = np.array([2, 0, 1])
    arrays = {"X": np.zeros((3, 4, 4, 3), np.uint8), "Y": np.eye(4)[truth].astype(dtype)}
    spec = str(tmp_path / f"set.{kind}")
    if kind == "npz":
        np.savez(spec, **arrays)
    else:
        with h5py.File(spec, "w") as file:
            file.update(arrays)
    # The first of the columns would be a class "0" for nearly all images.
    for options in ({}, {"first_label": True}):
        source = open_source(spec, **options)
        assert [one.label for one in source] == ["2", "0", "1"]
        assert notes_of(source) == [
            "the labels in Y are one-hot (3 x 4): the place of the 1 is the class"
        ]
    arrays["Y"][0, 0] = 1
    np.savez(tmp_path / "several.npz", **arrays)
    with pytest.raises(BadInput, match=r"labels \[0, 2\].*--first-label"):
        list(open_source(str(tmp_path / "several.npz")))
    first = open_source(str(tmp_path / "several.npz"), first_label=True)
    assert [one.label for one in first] == ["0", "0", "1"]
    assert notes_of(first) == [
        "the labels in Y are multi-hot (3 x 4): the places of the 1s are the classes"
    ]


def test_a_json_that_is_a_label_by_itself(tmp_path: Path) -> None:
    whole = {"0.png": DATA, "0.json": b"true", "1.png": DATA, "1.json": b"3.0"}
    source = open_source(shard(tmp_path / "whole.tar", whole))
    assert [one.label for one in source] == ["true", "3"]
    several = shard(tmp_path / "several.tar", {"0.png": DATA, "0.json": b"[3, 1]"})
    with pytest.raises(BadInput, match=r"labels \[3, 1\].*--label-column"):
        list(open_source(several))
    boxes = shard(tmp_path / "boxes.tar", {"0.png": DATA, "0.json": b'[{"box": 1}]'})
    source = open_source(boxes)
    assert [one.label for one in source] == [None]
    assert any("1 of them cannot be read as a mapping" in note for note in notes_of(source))


@pytest.mark.parametrize(
    "metadata",
    [b"null", b"[]", b"5", b"{", b'{"info": null}', b'{"info": {"features": {"label": 3}}}'],
)
def test_names_that_a_damaged_description_lost_are_refused(metadata: bytes, tmp_path: Path) -> None:
    table = pa.table({"image": [DATA], "label": [1]})
    file = tmp_path / "s.parquet"
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), file)
    with pytest.raises(BadInput, match=r"\(huggingface\) is damaged"):
        open_source(str(file))
    # Labels that are names themselves lose nothing.
    named = pa.table({"image": [DATA], "label": ["cat"]})
    pq.write_table(named.replace_schema_metadata({b"huggingface": metadata}), file)
    assert [one.label for one in open_source(str(file))] == ["cat"]
    whole = {b"huggingface": b'{"info": {"features": {"label": {"dtype": "int64"}}}}'}
    for good in (whole, {b"huggingface": b'{"info": {}}'}, {b"pandas": b"{}"}):
        pq.write_table(table.replace_schema_metadata(good), tmp_path / "s.parquet")
        source = open_source(str(tmp_path / "s.parquet"))
        assert [one.label for one in source] == ["1"]
        assert not notes_of(source)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    "names",
    [("store.json", "manifest/0"), ("steps.json", "store/x"), (".alike-output", "prefect/0.db")],
)
def test_what_was_made_of_images_is_none_of_them(
    names: tuple[str, ...], remote: bool, tmp_path: Path
) -> None:
    """A store or the outputs of a run in the folder of a set change nothing."""
    memory, root = fsspec.filesystem("memory"), f"outputs{tmp_path.name}{len(names[1])}"

    def write(name: str) -> None:
        memory.pipe_file(f"/{root}/{name}", DATA)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(DATA)

    for name in ("cat/0.png", "dog/1.png", "dog/steps.json"):
        write(name)
    spec = f"memory://{root}/" if remote else str(tmp_path)
    source = open_source(spec)
    before = list(source), notes_of(source)
    assert [one.label for one in before[0]] == ["cat", "dog"]
    for name in (*names, "pictures/0.png", "explained/ape/1.png"):
        write(f"alike-out/{name}")
    source, line = open_source(spec), "stores and outputs of runs are no images and are left out: "
    assert (list(source), notes_of(source)) == (before[0], [*before[1], f"{line}alike-out"])


def test_labels_that_no_file_can_hold_are_refused(tmp_path: Path) -> None:
    """JSON and NumPy can name half a character; a table cannot."""
    half = {"0.png": DATA, "0.json": b'{"label": "\\ud800"}'}
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=["a", "\ud800"])
    for spec in (shard(tmp_path / "half.tar", half), str(tmp_path / "set.npz")):
        with pytest.raises(BadInput, match=r"label '\\ud800' holds half a character"):
            list(open_source(spec))


def test_a_json_nested_beyond_any_reader_is_no_label(tmp_path: Path) -> None:
    source = open_source(shard(tmp_path / "a.tar", {"0.png": DATA, "0.json": b"[" * 100_000}))
    assert [one.label for one in source] == [None]
    assert any("1 of them cannot be read as a mapping" in note for note in notes_of(source))


def test_a_tar_of_absolute_names_has_the_classes_of_its_folders(tmp_path: Path) -> None:
    members = {"/data/cat/0.png": DATA, "/data/dog/1.png": DATA, "../data/ant/2.png": DATA}
    source = open_source(shard(tmp_path / "a.tar", members))
    assert sorted(one.label or "" for one in source) == ["ant", "cat", "dog"]
    assert all(source.read(one.path) == DATA for one in source)


def test_labels_that_are_no_utf8_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not UTF-8"):
        list(open_source(shard(tmp_path / "set.tar", {"0.png": DATA, "0.cls": b"caf\xe9"})))
    (tmp_path / "dataset_dict.json").write_text("[]")
    with pytest.raises(BadInput, match="names no splits"):
        open_source(str(tmp_path))


def test_labels_beside_the_images_of_a_tar_that_are_not_found_are_said(tmp_path: Path) -> None:
    members = {
        "0.jpg": DATA, "0.CLS": b"3", "1.jpg": DATA + b"1", "1.json": b'{"class": 3, "by": "x"}',
        "2.jpg": DATA + b"2", "2.json": b"{cut", "3.jpg": DATA + b"3", "3.json": b'{"label": 4}',
    }  # fmt: skip
    source = open_source(shard(tmp_path / "a.tar", members))
    assert [one.label for one in source] == ["3", None, None, "4"]
    assert notes_of(source) == [
        "2 images have no class: their .json has no 'label'; they have by, class: --label-column "
        "names one; 1 of them cannot be read as a mapping"
    ]
    named = open_source(shard(tmp_path / "b.tar", members), label="class")
    assert [one.label for one in named] == [None, "3", None, None]


@pytest.mark.parametrize("kind", ["csv", "parquet", "embedded", "saved"])
def test_a_gap_in_the_column_of_groups_is_no_group(kind: str, tmp_path: Path) -> None:
    """NaN as the text ``nan`` would set all images without a group on one side of the split."""
    groups = [1.0, math.nan, math.nan, 1.0]
    table = pa.table({"image": [{"bytes": DATA}] * 4, "label": list("abab"), "group": groups})
    spec = tmp_path / f"set.{'csv' if kind == 'csv' else 'parquet'}"
    if kind == "csv":
        spec.write_text("path,label,group\n0.png,a, 1\n1.png,b\n2.png,a,nan\n3.png,b,1.0\n")
    elif kind == "parquet":
        paths = [f"{row}.png" for row in range(4)]
        pq.write_table(table.drop_columns("image").append_column("path", [paths]), spec)
    elif kind == "embedded":
        pq.write_table(table, spec)
    else:
        spec = saved(tmp_path / "set", table)
    assert [one.group for one in open_source(str(spec), group="group")] == ["1", None, None, "1"]


def saved(folder: Path, table: pa.Table, info: str = "{}") -> Path:
    """A folder as Hugging Face `datasets` saves it."""
    folder.mkdir()
    with (
        pa.OSFile(str(folder / "data.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (folder / "dataset_info.json").write_text(info)
    return folder


def test_what_names_no_class_or_group_is_refused(tmp_path: Path) -> None:
    for value in (1j, np.array([1j])[0], object()):
        with pytest.raises(BadInput, match=r"label .* is of the type .*expected"):
            LabelRule("set")(value)
    for value, fault in (
        ([1, 2], "is of the type list"), ({"a": 1}, "is of the type dict"),
        (b"\xff", "is not UTF-8"), ("\ud800", "holds half a character"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=f"set: group .*{fault}"):
            shared_name(value, "set", "group")
    # The bytes of an image as a label are one line too.
    with pytest.raises(BadInput) as caught:
        LabelRule("set")(b"\xff" * 10_000)
    assert len(str(caught.value)) < 300


def test_names_of_integer_labels(tmp_path: Path) -> None:
    named = LabelRule("set", names=["cat", "dog", "cat", ""])
    # True is 1 where numbers have names; an empty name is no label, as elsewhere.
    assert [named(value) for value in (0, 1.0, True, 2, 3, -1)] == [
        "cat", "dog", "dog", "cat", None, None,
    ]  # fmt: skip
    assert named.notes == [
        "1 class name(s) stand for several numbers, and each is one class: cat (0, 2)"
    ]
    for value in (0.5, 4, -2, math.inf):
        with pytest.raises(BadInput, match=f"label {value}, but there are 4 classes"):
            named(value)
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["images"] = np.zeros((2, 4, 4, 3), np.uint8)
        kinds = h5py.enum_dtype({"cat": 0, "dog": 1}, np.uint8)
        file.create_dataset("labels", data=[1, 0], dtype=kinds)
    source = open_source(str(tmp_path / "set.h5"))
    assert [one.label for one in source] == ["dog", "cat"]


@pytest.mark.parametrize(
    "info", ["[" * 100_000, '{"features": {"label": {"names": ["a", 3]}}}', '{"features": []}']
)
def test_a_description_that_lost_the_names_is_refused(info: str, tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": DATA}], "label": [0]})
    with pytest.raises(BadInput, match=r"save (it|the data set) again"):
        open_source(str(saved(tmp_path / "set", table, info)))
    (tmp_path / "set" / "dataset_dict.json").write_text(info)
    with pytest.raises(BadInput, match=r"names no splits"):
        open_source(str(tmp_path / "set"))
    described = {b"huggingface": b'{"info": %s}' % info.encode()}
    pq.write_table(table.replace_schema_metadata(described), tmp_path / "s.parquet")
    with pytest.raises(BadInput, match="is damaged, so the names of its classes are lost"):
        open_source(str(tmp_path / "s.parquet"))


def test_columns_of_one_name_and_texts_of_no_utf8_are_one_line(tmp_path: Path) -> None:
    data, twice = pa.array([{"bytes": DATA}]), [pa.array(["a"]), pa.array(["b"])]
    image = pa.Table.from_arrays([data, *twice], names=["image", "label", "label"])
    path = pa.Table.from_arrays([pa.array(["0.png"]), *twice], names=["path", "label", "label"])
    pq.write_table(image, tmp_path / "image.parquet")
    pq.write_table(path, tmp_path / "path.parquet")
    (tmp_path / "set.csv").write_text("path,label,label\n0.png,a,b\n")
    for spec in ("image.parquet", "path.parquet", "set.csv"):
        with pytest.raises(BadInput, match="2 columns named 'label'"):
            open_source(str(tmp_path / spec))
    with pytest.raises(BadInput, match="2 columns named 'label'"):
        open_source(str(saved(tmp_path / "set", image)))
    ends, letter = pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")
    bad = pa.Array.from_buffers(pa.string(), 1, [None, ends, letter])
    embedded = pa.table({"image": data, "label": bad})
    pq.write_table(embedded, tmp_path / "bad.parquet")
    for place in (tmp_path / "bad.parquet", saved(tmp_path / "bad", embedded)):
        with pytest.raises(BadInput, match=r"column 'label' holds .* not UTF-8"):
            list(open_source(str(place)))


def test_lines_and_paths_of_a_manifest_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Pandas would take the first of too many values for the number of a row, and shift them."""
    manifest = tmp_path / "set.csv"
    for lines in ("0.png,cat,\n1.png,dog,\n", "0.png,cat,x\n1.png,dog\n"):
        manifest.write_text(f"path,label\n{lines}")
        with pytest.raises(BadInput, match=r"^manifest .* names 2 columns, but its lines have 3"):
            list(open_source(str(manifest)))
    manifest.write_text("label,path\ncat,0.png\ndog\n")
    with pytest.raises(BadInput, match="its row 2 has no path"):
        list(open_source(str(manifest)))
    pq.write_table(pa.table({"path": ["0.png", None], "label": ["a", "b"]}), tmp_path / "s.parquet")
    with pytest.raises(BadInput, match="its row 2 has no path"):
        list(open_source(str(tmp_path / "s.parquet")))
    pq.write_table(pa.table({"path": [b"0.png"], "label": ["a"]}), tmp_path / "s.parquet")
    assert [one.path for one in open_source(str(tmp_path / "s.parquet"))] == ["0.png"]
    # A name that a command line takes for a number is a name.
    manifest.write_text("0,1\n0.png,cat\n")
    assert [one.label for one in open_source(str(manifest), path=0, label=1)] == ["cat"]
    with pytest.raises(BadInput, match=r"option path \['path'\]: a name expected"):
        open_source(str(manifest), path=["path"])


def test_array_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    np.savez_compressed(tmp_path / "set.npz", images=images, labels=np.arange(6))
    whole = (tmp_path / "set.npz").read_bytes()
    np.save(tmp_path / "one.npy", images)
    (tmp_path / "one.npz").write_bytes((tmp_path / "one.npy").read_bytes())
    (tmp_path / "empty.npz").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as file:
        file.writestr("a.txt", "no array")
    # 0x08: the method of compression, in the directory of the archive.
    at = whole.index(b"PK\x01\x02") + 10
    (tmp_path / "method.npz").write_bytes(whole[:at] + b"\x0d" + whole[at + 1 :])
    middle = 30 + len("images.npy") + 24
    (tmp_path / "torn.npz").write_bytes(whole[:middle] + b"\xff" * 8 + whole[middle + 8 :])
    for name in ("one", "empty", "text", "method", "torn"):
        with pytest.raises(BadInput, match=f"{name}.npz cannot be read as arrays"):
            open_source(str(tmp_path / f"{name}.npz"))
    with pytest.raises(BadInput, match="no array 'kinds' of class names; it has images, labels"):
        open_source(str(tmp_path / "set.npz"), classes="kinds")
    np.savez(tmp_path / "nan.npz", images=np.full((1, 4, 4, 3), np.nan), labels=[0])
    with pytest.raises(BadInput, match="holds float64 with NaN"):
        open_source(str(tmp_path / "nan.npz"))
    np.savez(tmp_path / "two.npz", X=images, x=images, Y=np.arange(6))
    source = open_source(str(tmp_path / "two.npz"))
    assert len(list(source)) == 6
    assert any("left out: x (6, 8, 8, 3)" in note for note in notes_of(source))


@pytest.mark.quick
def test_spaces_and_separators_of_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "spaces.csv").write_text("path, label\n1.jpg, cat\n")
    assert [one.label for one in open_source(str(tmp_path / "spaces.csv"))] == ["cat"]
    # Pandas tells two columns of one name apart, but not if a space does.
    (tmp_path / "twice.csv").write_text("path,label, label,other, other\n1.jpg,cat,dog,x,y\n")
    with pytest.raises(BadInput, match="2 columns named 'label'"):
        open_source(str(tmp_path / "twice.csv"))
    twice = open_source(str(tmp_path / "twice.csv"), label="path", subset="none")
    assert [one.path for one in twice] == ["1.jpg"]
    for mark in ";\t":
        (tmp_path / "other.csv").write_text(f"path{mark}label\n1.jpg{mark}cat\n")
        with pytest.raises(BadInput, match=r"has one column, .*: it is separated by .*commas"):
            open_source(str(tmp_path / "other.csv"))


@pytest.mark.quick
def test_folders_of_the_system_are_no_classes_and_are_said(tmp_path: Path) -> None:
    files = ["cat/1.png", "cat/@eaDir/1.png", "dog/2.png"]
    files += ["@eaDir/3.png", "__MACOSX/cat/4.png", ".thumbnails/5.png", "lost+found/6.png"]
    root = write_tree(tmp_path / "set", files)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in files:
            add(tar, f"./{name}")
    for spec in (root, tmp_path / "set.tar"):
        source = open_source(str(spec))
        assert [one.label for one in source] == ["cat", "dog"]
        assert notes_of(source) == [
            "hidden folders and folders of the system are left out: .thumbnails 1, @eaDir 2, "
            "__MACOSX 1, lost+found 1"
        ]


def test_folders_of_the_system_do_not_hide_subsets(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["train/cat/1.png", "val/cat/2.png", "@eaDir/3.png"])
    assert [(one.label, one.subset) for one in open_source(str(root))] == [
        ("cat", "train"),
        ("cat", "val"),
    ]


def test_of_files_of_one_name_in_a_tar_the_last_counts_and_is_said(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name, data in (
            ("a/1.png", b"old"), ("a/1.json", b'{"label": "old"}'), ("a/2.png", DATA),
            ("./a/1.png", DATA), ("a/1.json", b'{"label": "new"}'),
        ):  # fmt: skip
            add(tar, name, data)
    source = open_source(str(tmp_path / "set.tar"))
    listing = list_source(source)
    assert listing["label"].tolist() == ["new", "a"]
    assert listing["image_id"].nunique() == 1
    assert notes_of(source) == [
        "2 files of a name that comes again in their tar are left out: the last one counts"
    ]


def test_classes_that_differ_in_case_or_blanks_stay_apart_and_are_said(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set", ["Cat/1.png", "cat/2.png", "cat /3.png", "dog/4.png"])
    source = open_source(str(root))
    assert [one.label for one in source] == ["Cat", "cat", "cat ", "dog"]
    assert notes_of(source) == [
        "3 classes differ from another only in case or blanks, and stay apart: 'Cat', 'cat', 'cat '"
    ]
    (tmp_path / "set.csv").write_text("path,label\n1.png,Big cat\n2.png,big  cat\n3.png,dog\n")
    table = open_source(str(tmp_path / "set.csv"))
    assert len({one.label for one in table}) == 3
    assert "'Big cat', 'big  cat'" in notes_of(table)[0]


def test_a_manifest_of_another_encoding_is_read_or_says_where(tmp_path: Path) -> None:
    text = "path,label\n1.png,ok\n2.png,Bär\n"
    file = tmp_path / "set.csv"
    for encoding in ("utf-16", "utf-8-sig"):
        file.write_text(text, encoding=encoding)
        assert [one.label for one in open_source(str(file))] == ["ok", "Bär"]
    file.write_text(text, encoding="latin-1")
    with pytest.raises(
        BadInput, match=r"set\.csv is not UTF-8: line 3 has the byte 0xe4 after '2\.png,B'; save"
    ):
        open_source(str(file))
    file.write_text(text, encoding="utf-16-le")
    with pytest.raises(BadInput, match=r"set\.csv is not UTF-8: line 3 .*; save it as UTF-8"):
        open_source(str(file))


def test_paths_of_windows_in_a_manifest(tmp_path: Path) -> None:
    write_tree(tmp_path, ["cat/1.png", "own\\name.png"])
    (tmp_path / "set.csv").write_text(
        "path,label\ncat\\1.png,cat\nown\\name.png,own\nC:\\photos\\3.png,cat\ncat\\gone.png,cat\n"
    )
    source = open_source(str(tmp_path / "set.csv"))
    listing = list_source(source)
    assert listing["state"].tolist() == ["ok", "ok", "unreadable", "unreadable"]
    assert source.read("cat\\1.png") == source.read("own\\name.png") == DATA
    assert notes_of(source) == [
        "1 paths are written with \\ and read with /, for no file has the name as written: "
        "cat\\1.png",
        "1 paths begin with a drive of Windows, the first is C:\\photos\\3.png: write them without "
        "it, and name their folder by --source-option root=FOLDER",
    ]
