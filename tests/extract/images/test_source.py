import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import class_folders, encoded, picture

import alike.extract.images.source
from alike.extract.errors import BadImage, BadInput
from alike.extract.images.decoding import decode
from alike.extract.images.listing import list_source
from alike.extract.images.source import Listed
from alike.extract.images.sources import open_source
from alike.extract.images.split import image_id

FILES = {f"{label}/{number}.png": label for label in ("cat", "dog") for number in range(3)}


def file_bytes(name: str) -> bytes:
    return encoded(picture(sum(name.encode())), "PNG")


def as_arrays() -> dict[str, np.ndarray]:
    images = np.stack([np.array(picture(sum(name.encode()))) for name in FILES])
    truth = np.array([["cat", "dog"].index(label) for label in FILES.values()])
    return {"x_test": images, "y_test": truth, "classes": np.array(["cat", "dog"])}


def write_folder(root: Path) -> str:
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(file_bytes(name))
    return str(root)


def write_csv(root: Path) -> str:
    write_folder(root)
    pd.DataFrame({"path": FILES.keys(), "label": FILES.values()}).to_csv(root / "set.csv")
    return str(root / "set.csv")


def write_manifest(root: Path) -> str:
    write_folder(root)
    rows = {"path": list(FILES), "label": list(FILES.values())}
    pq.write_table(pa.table(rows), root / "set.parquet")
    return str(root / "set.parquet")


def write_embedded(root: Path) -> str:
    images = [{"bytes": file_bytes(name), "path": name} for name in FILES]
    truth = [["cat", "dog"].index(label) for label in FILES.values()]
    names = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    table = pa.table({"image": images, "label": truth})
    table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(table, root / "set.parquet", row_group_size=2)
    return str(root / "set.parquet")


def write_memory(root: Path) -> str:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in FILES:
        memory.pipe_file(f"/{root.name}/{name}", file_bytes(name))
    text = "path,label\n" + "\n".join(f"{name},{label}" for name, label in FILES.items())
    memory.pipe_file(f"/{root.name}/set.csv", text.encode())
    return f"memory://{root.name}/set.csv"


def write_remote(root: Path) -> str:
    import fsspec

    for name in FILES:
        fsspec.filesystem("memory").pipe_file(f"/{root.name}/{name}", file_bytes(name))
    return f"memory://{root.name}/"


def write_npz(root: Path) -> str:
    np.savez(root / "set.npz", **as_arrays())
    return str(root / "set.npz")


def write_h5(root: Path) -> str:
    with h5py.File(root / "set.h5", "w") as file:
        for name, array in as_arrays().items():
            file[name] = array.astype("S") if array.dtype.kind == "U" else array
    return str(root / "set.h5")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_shards(root: Path) -> str:
    names = list(FILES)
    for shard in range(2):
        with tarfile.open(root / f"set-{shard:04d}.tar", "w") as tar:
            for number, name in enumerate(names[shard * 3 : shard * 3 + 3]):
                add(tar, f"{number:04d}.png", file_bytes(name))
                said = json.dumps({"label": FILES[name]}).encode()
                add(
                    tar,
                    f"{number:04d}.{'json' if shard else 'cls'}",
                    said if shard else FILES[name].encode(),
                )
    return str(root / "set-{0000..0001}.tar")


def write_remote_shards(root: Path) -> str:
    import fsspec

    write_shards(root)
    for shard in root.glob("*.tar"):
        fsspec.filesystem("memory").pipe_file(f"/{root.name}/{shard.name}", shard.read_bytes())
    return f"memory://{root.name}/set-*.tar"


def write_tar(root: Path) -> str:
    with tarfile.open(root / "set.tar", "w") as tar:
        for name in FILES:
            add(tar, f"top/{name}", file_bytes(name))
    return str(root / "set.tar")


def write_saved(root: Path) -> str:
    """What `datasets.Dataset.save_to_disk` writes, in two Arrow streams."""
    names = list(FILES)
    schema = pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()}
    )
    for part in range(2):
        chosen = names[part * 3 : part * 3 + 3]
        rows = [{"bytes": file_bytes(name), "path": None} for name in chosen]
        truth = [["cat", "dog"].index(FILES[name]) for name in chosen]
        table = pa.table({"image": rows, "label": truth}, schema=schema)
        with pa.ipc.new_stream(str(root / f"data-{part}.arrow"), schema) as stream:
            stream.write_table(table)
    files = [{"filename": f"data-{part}.arrow"} for part in range(2)]
    (root / "state.json").write_text(json.dumps({"_data_files": files}))
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    (root / "dataset_info.json").write_text(json.dumps({"features": features}))
    return str(root)


WRITERS = {
    write.__name__[6:]: write
    for write in (
        *(write_folder, write_csv, write_manifest, write_embedded, write_memory, write_npz),
        write_remote,
        *(write_h5, write_shards, write_remote_shards, write_tar, write_saved),
    )
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_gives_the_same_images_and_labels(kind: str, tmp_path: Path) -> None:
    spec = WRITERS[kind](tmp_path)
    source = open_source(spec)
    listed = list(source)
    assert list(source) == listed
    assert [one.label for one in listed] == list(FILES.values())
    for one, name in zip(listed, FILES, strict=True):
        expected = np.array(picture(sum(name.encode())))
        assert np.array_equal(decode(source.read(one.path)).permute(1, 2, 0).numpy(), expected)
    # A later step opens it again by what the store remembers.
    again = open_source(source.spec, **source.options)
    assert again.read(listed[-1].path) == source.read(listed[-1].path)
    with pytest.raises(BadImage):
        source.read("gone.png")


def test_folder_labels_order_and_what_is_left_out(tmp_path: Path) -> None:
    class_folders(tmp_path, {"b": 1, "a": 2})
    (tmp_path / "a" / "deep").mkdir()
    (tmp_path / "a" / "deep" / "x.PNG").write_bytes(b"")
    (tmp_path / "loose.jpeg").write_bytes(b"")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_bytes(b"")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    assert list(open_source(str(tmp_path))) == [
        *(Listed("a/0000.jpg", "a"), Listed("a/0001.jpg", "a"), Listed("a/deep/x.PNG", "a")),
        *(Listed("b/0000.jpg", "b"), Listed("loose.jpeg", None)),
    ]


def test_names_that_are_no_text_and_links_to_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "caf\xe9 ü"
    folder.mkdir()
    (folder / "plain.png").write_bytes(b"1")
    try:
        (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"2")
    except OSError:
        pytest.skip("this filesystem takes names of UTF-8 alone")
    (folder / "loop.png").symlink_to("loop.png")
    source = open_source(str(tmp_path))
    listing = list_source(source).set_index("path")
    assert list(listing.index) == [
        f"{folder.name}/{name}" for name in ("caf\\xe9.png", "loop.png", "plain.png")
    ]
    assert list(listing["state"]) == ["ok", "unreadable", "ok"]
    assert source.read(f"{folder.name}/caf\\xe9.png") == b"2"


@pytest.mark.quick
def test_pipe_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(BadImage, match="not a regular file"):
        open_source(str(tmp_path)).read("pipe.jpg")


def test_large_file_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big.jpg").write_bytes(bytes(1001))
    monkeypatch.setattr(alike.extract.images.source, "MAX_BYTES", 1000)
    with pytest.raises(BadImage, match="too large: 1001 bytes"):
        open_source(str(tmp_path)).read("big.jpg")


def test_listing_hashes_contents_and_keeps_the_unreadable(tmp_path: Path) -> None:
    spec = write_folder(tmp_path)
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    listing = list_source(open_source(spec))
    assert len(listing) == len(FILES) + 1
    good = listing[listing["state"] == "ok"].set_index("path")
    assert {path: good["image_id"][path] for path in FILES} == {
        path: image_id(file_bytes(path)) for path in FILES
    }
    (bad,) = listing[listing["state"] != "ok"].to_dict("records")
    assert (bad["path"], bad["state"], bad["image_id"]) == ("cat/gone.png", "unreadable", "")


def test_names_that_look_like_numbers_or_nothing_stay_text(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("file,kind\na.png,01\nb.png,NA\nc.png,\n")
    source = open_source(str(tmp_path / "set.csv"), path="file", label="kind")
    assert [one.label for one in source] == ["01", "NA", None]
    assert source.options == {"path": "file", "label": "kind"}


def test_a_damaged_page_of_embedded_images_is_bad_images(tmp_path: Path) -> None:
    file = Path(write_embedded(tmp_path))
    group = pq.ParquetFile(file).metadata.row_group(0).column(0)
    data = bytearray(file.read_bytes())
    start = group.dictionary_page_offset or group.data_page_offset
    data[start : start + 40] = bytes(40)
    file.write_bytes(data)
    listing = list_source(open_source(str(file)))
    assert listing["state"].tolist() == ["unreadable"] * 2 + ["ok"] * 4


def test_splits_of_arrays_and_of_saved_datasets(tmp_path: Path) -> None:
    arrays = as_arrays()
    np.savez(tmp_path / "two.npz", x_train=arrays["x_test"][:2], y_train=[1, 0], **arrays)
    assert len(list(open_source(str(tmp_path / "two.npz")))) == 8
    train = open_source(str(tmp_path / "two.npz"), split="train")
    assert [one.label for one in train] == ["dog", "cat"]
    (tmp_path / "saved" / "test").mkdir(parents=True)
    write_saved(tmp_path / "saved" / "test")
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["test"]}))
    assert len(list(open_source(str(tmp_path / "saved"), split="test"))) == 6
    with pytest.raises(BadInput, match="has splits test"):
        open_source(str(tmp_path / "saved"))


def refuse(tmp_path: Path, kind: str) -> tuple[str, dict[str, Any]]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "data_batch_1").write_bytes(b"\x80")
    (tmp_path / "set.csv").write_text("file\na.png\n")
    (tmp_path / "set.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    (tmp_path / "set.npz").write_bytes(b"zip")
    (tmp_path / "notes.txt").write_text("")
    np.savez(tmp_path / "flat.npz", values=np.zeros(4))
    arrays = as_arrays()
    np.savez(tmp_path / "short.npz", x_test=arrays["x_test"], y_test=[1])
    np.savez(tmp_path / "wild.npz", **(arrays | {"y_test": np.arange(6)}))
    for name, state in (("half", None), ("torn", '{"_data_files": [{"filename": "x.arrow"}]}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset_info.json").write_text("{}")
        if state:
            (tmp_path / name / "state.json").write_text(state)
            (tmp_path / name / "x.arrow").write_bytes(b"torn")
    spec = kind if "://" in kind else str(tmp_path / kind)
    return spec, {"colour": 1} if kind == "" else {}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nowhere", "do not exist"),
        ("", "no option colour for a folder"),
        ("empty", "no images"),
        ("half", r"is not what save_to_disk wrote .*state\.json"),
        ("torn", "is not what save_to_disk wrote"),
        ("cifar", "reading a pickle runs the code in it"),
        ("set.csv", "has columns file; none is 'path'"),
        ("nobody://knows/set.csv", "cannot be read: .*Protocol not known: nobody"),
        ("nobody://knows/set.tar", "cannot be read .*Protocol not known: nobody"),
        ("nobody://knows/set-*.tar", "cannot be listed: .*Protocol not known: nobody"),
        ("nobody://knows/set.npz", "from a local file; copy it first"),
        ("memory://nowhere/set.csv", "cannot be read: FileNotFoundError"),
        ("https://nowhere/set.csv?signature=a/b", "set.csv.*is another one every day; give"),
        ("memory://nowhere/set-*.tar", "no file fits"),
        ("set.tar", "uncompressed tar"),
        ("set-*.tar", "no file fits"),
        ("set.npz", "cannot be read as arrays"),
        ("flat.npz", r"values \(4,\)"),
        ("short.npz", "6 images in x_test, 1 labels"),
        ("wild.npz", "label 2, but there are 2 classes"),
        ("notes.txt", "not a kind that is read"),
    ],
)
def test_what_is_no_source_is_one_clear_line(kind: str, says: str, tmp_path: Path) -> None:
    spec, options = refuse(tmp_path, kind)
    with pytest.raises(BadInput, match=says) as caught:
        list_source(open_source(spec, **options))
    assert "\n" not in str(caught.value)


def test_path_listed_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("path\na.png\na.png\n")
    with pytest.raises(BadInput, match="1 paths twice"):
        list_source(open_source(str(tmp_path / "set.csv")))
