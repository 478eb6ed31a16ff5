"""Images in one file are remembered by the stamp of that file, and read again when it changes."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import past_of

from alike.extract.images import open_source
from alike.extract.images.listing import list_source
from alike.extract.images.remembered import TURNS, is_due, same_listing
from alike.extract.images.selection import Selection
from alike.extract.images.source import read_with

N = 150


def pictures(changed: int | None) -> list[bytes]:
    """Bytes of N images, of which one may be another of the same length."""
    return [b"%03d%d" % (number, number == changed) for number in range(N)]


def write_tar(root: Path, images: list[bytes]) -> str:
    with tarfile.open(root / "set-0.tar", "w") as tar:
        for number, data in enumerate(images):
            info = tarfile.TarInfo(f"cat/{number:03}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    # Of another shard, which does not change.
    if not (root / "set-1.tar").exists():
        with tarfile.open(root / "set-1.tar", "w") as tar:
            info = tarfile.TarInfo("dog/0.png")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"dog"))
    return f"{root}/set-{{0..1}}.tar"


def as_rows(images: list[bytes]) -> np.ndarray:
    return np.stack([np.resize(np.frombuffer(data, np.uint8), (4, 4, 3)) for data in images])


def write_npz(root: Path, images: list[bytes]) -> str:
    np.savez(root / "set.npz", images=as_rows(images), labels=np.arange(N) % 2)
    return f"{root}/set.npz"


def write_h5(root: Path, images: list[bytes]) -> str:
    with h5py.File(root / "set.h5", "w") as file:
        file["images"], file["labels"] = as_rows(images), np.arange(N) % 2
    return f"{root}/set.h5"


def write_parquet(root: Path, images: list[bytes]) -> str:
    table = pa.table({"image": images, "label": [0] * N})
    pq.write_table(table, root / "set.parquet", row_group_size=5)
    return f"{root}/set.parquet"


def write_saved(root: Path, images: list[bytes]) -> str:
    """What `save_to_disk` writes, in two files; the last image is a file of its own."""
    folder = root / "saved"
    folder.mkdir(exist_ok=True)
    (root / "own.png").write_bytes(images[-1])
    rows = [{"bytes": data, "path": None} for data in images[:-1]]
    rows.append({"bytes": None, "path": f"{root}/own.png"})
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema, names = pa.schema({"image": struct, "label": pa.int64()}), []
    for low, high in ((0, 70), (70, N)):
        table = pa.table({"image": rows[low:high], "label": [0] * (high - low)}, schema=schema)
        names.append({"filename": f"data-{low}.arrow"})
        file = folder / f"data-{low}.aside"
        with pa.ipc.new_stream(str(file), schema) as writer:
            writer.write_table(table)
        # Replaced, as `datasets` does: what is mapped must not change under its reader.
        file.replace(folder / f"data-{low}.arrow")
    (folder / "state.json").write_text(json.dumps({"_data_files": names}))
    (folder / "dataset_info.json").write_text("{}")
    return str(folder)


KINDS = {
    "tar": write_tar,
    "npz": write_npz,
    "h5": write_h5,
    "parquet": write_parquet,
    "saved": write_saved,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_unchanged_file_of_images_is_not_read_and_a_changed_one_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[[Path, list[bytes]], str] = KINDS[kind]
    spec = write(tmp_path, pictures(None))
    # As young as the file is, it may change once more under one time.
    young = list_source(open_source(spec))
    assert (young["inode"] == -1).all()
    assert "or is not two seconds old" in same_listing(open_source(spec), past_of(young))
    monkeypatch.setattr("alike.extract.images.source.SETTLED", -(10**15))
    first = list_source(open_source(spec))
    assert list(first["image_id"]) == list(young["image_id"])
    past = past_of(first, turn=7)
    own = kind == "saved"
    again = list_source(open_source(spec), past=past)
    pd.testing.assert_frame_equal(again, first)
    together = read_with(open_source(spec))
    due = sum(is_due(together(path), 7) for path in first["path"][: N - own])
    assert again.attrs["read"] == due + own < N / 10
    said = same_listing(open_source(spec), past)
    untold = f"nothing tells whether {N - 1:08} changed: it has neither a time nor an ETag, or is "
    assert said == (f"{untold}not two seconds old" if own else "")
    # One image in the middle has other bytes, and the file is as long as it was.
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.*") if file.is_file())
    write(tmp_path, pictures(100))
    after = sum(file.stat().st_size for file in tmp_path.rglob("*.*") if file.is_file())
    assert after == size or kind in ("npz", "h5", "parquet")
    assert "changed" in same_listing(open_source(spec), past)
    newly, fresh = list_source(open_source(spec), past=past), list_source(open_source(spec))
    pd.testing.assert_frame_equal(newly, fresh)
    assert (newly["image_id"] != first["image_id"]).sum() == 1


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is open is the old file; the stamp is not the new one's."""
    monkeypatch.setattr("alike.extract.images.source.SETTLED", -(10**15))
    for kind, write in KINDS.items():
        place = tmp_path / kind
        place.mkdir()
        spec = write(place, pictures(None))
        source = open_source(spec)
        next(iter(source))
        aside = place / "aside"
        aside.mkdir()
        write(aside, pictures(100))
        for file in sorted(aside.rglob("*.*")):
            if file.is_file():
                file.replace(place / file.relative_to(aside))
        listed = list_source(source)
        again = list_source(open_source(spec), past=past_of(listed))
        fresh = list_source(open_source(spec))
        assert list(again["image_id"]) == list(fresh["image_id"]), kind


def test_arrays_that_lie_in_other_files_have_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alike.extract.images.source.SETTLED", -(10**15))
    write_h5(tmp_path, pictures(None))
    layout = h5py.VirtualLayout((N, 4, 4, 3), np.uint8)
    layout[:] = h5py.VirtualSource(tmp_path / "set.h5", "images", (N, 4, 4, 3))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    source = open_source(f"{tmp_path}/virtual.h5")
    assert (list_source(source)["inode"] == -1).all()


@pytest.mark.quick
def test_rows_of_a_parquet_file_that_are_read_together_are_due_together(tmp_path: Path) -> None:
    source = open_source(write_parquet(tmp_path, pictures(None)))
    groups = [source.together(one.path) for one in source]
    assert len(set(groups)) == N / 5
    # Each once in a round; and as a part of the set is, so is that of its source.
    assert all(sum(is_due(one, turn) for turn in range(TURNS)) == 1 for one in groups)
    chosen = Selection(source, "label=0")
    assert chosen.together("00000007") == groups[7]
