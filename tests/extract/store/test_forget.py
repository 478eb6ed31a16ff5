"""An image that is forgotten is nowhere below the store, whenever the process was killed.

`ALIKE_FULL=1` stops the deletion before every single change of a file, else before every eighth.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import store_writer as known
import zarr

from alike.extract.errors import BadInput, StoreBusy, StoreDamaged
from alike.extract.forgetting import forget_images
from alike.extract.store.files import LocalFiles
from alike.extract.store.forgotten import MARK, finish_forgetting, unfinished
from alike.extract.store.locks import Holder
from alike.extract.store.manifest import is_placeholder
from alike.extract.store.store import Store
from alike.extract.store.tags import change_tags, read_tags
from alike.extract.store.upkeep import collect_garbage, contents, history
from alike.extract.store.verification import verify

FULL = os.environ.get("ALIKE_FULL") == "1"
N = 1100
GONE = (3, 700, 1050)
"""Rows that are forgotten, of both units."""
ROOT = Path(__file__).parents[3]


def thumbnail_of(row: int) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 255, (64, 64), dtype=np.uint8)


def full_store(place: Path, n: int = N) -> Store:
    """A store in which every kind of file names the rows of `GONE`."""
    store = Store.open(place, create=True)
    store.set_split(0.5, "s", 0.2)
    features = known.filled(place, n)
    rows = range(0, n, 7)
    signed = {row: thumbnail_of(row) for row in sorted({*rows, *GONE})}
    store.sign(signed, np.arange(10 * len(signed), dtype=np.uint64).reshape(-1, 10))
    links = pd.DataFrame({"row_a": [3, 3, 20, 30], "row_b": [700, 9, 21, 31]})
    store.keep_links(links.assign(correlation=0.99, symmetry=0), np.arange(n), np.arange(50, 60))
    store.keep_image_groups(pd.DataFrame({"row": [1050, 1051, 1052], "group": "patient"}))
    store.assign_sides()
    store.mark_trained([known.image_id(row) for row in (3, 4, 5)])
    change_tags(store, [known.image_id(row) for row in (3, 4)], "blurred", present=True)
    listing = known.listing(range(n))[["path", "label", "image_id", "size"]]
    store.write_table("listing/abc.parquet", listing, {"turn": 4})
    trained = pd.DataFrame({"image_id": [known.image_id(row) for row in (3, 4, 5)]})
    store.write_table(f"tables/{known.KEY}/trained_images.parquet", trained)
    values = {"row": range(n), "value": known.rows_of("fc", range(n))[:, 0]}
    for name in (f"tables/{known.KEY}/scores", "tables/ranking", f"maps/{known.KEY}/a"):
        store.write_table(f"{name}.parquet", pd.DataFrame(values))
    store.write_table("runs/analyse/abc/part.parquet", pd.DataFrame(values))
    store.write_file(f"explanations/{known.KEY}/examples.png", known.image_id(3).encode())
    for rows_of_part, name in (((1, 2), "others"), ((2, 3), "mine")):
        archive = io.BytesIO()
        np.savez(archive, rows=np.array(rows_of_part), relevance=np.zeros((2, 4, 4)))
        store.write_file(f"explanations/{known.KEY}/cam/{name}.npz", archive.getvalue())
    index = store.path("index", known.KEY, "fc_euclid")
    index.mkdir(parents=True)
    known.rows_of("fc", range(n)).tofile(index / "abc.faiss")
    (index / "lock").touch()
    features.write_constant("measures/fc_centred/mean", known.rows_of("fc", [3])[0])
    features.write_constant("classifier/weight", np.ones(3))
    return store


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("filled") / "store"
    full_store(place)
    return place


@pytest.fixture
def store(filled, tmp_path) -> Store:
    shutil.copytree(filled, tmp_path / "store")
    return Store.open(tmp_path / "store")


def needles(rows=GONE) -> list[bytes]:
    """What must be found nowhere: ids, paths, values, thumbnails of rows."""
    every = []
    for row in rows:
        every += [known.image_id(row).encode(), bytes.fromhex(known.image_id(row))]
        every += [f"{row:06d}.png".encode(), thumbnail_of(row).tobytes()]
        # Some values in a row are as good as all.
        every += [known.rows_of(name, [row])[0].tobytes()[:24] for name in known.ARRAYS]
    return every


def contents_of(place: Path):
    """Every file as it lies there, and what is in those that are compressed."""
    for path in sorted(place.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        yield path, data
        if path.suffix == ".parquet" or data[:4] == b"PAR1":
            for column in pq.read_table(io.BytesIO(data)).columns:
                cells = column.to_pylist()
                yield (
                    path,
                    b"\n".join(
                        one if isinstance(one, bytes) else str(one).encode() for one in cells
                    ),
                )
                if pa.types.is_floating(column.type):
                    yield path, column.to_numpy().tobytes()
        if path.suffix == ".npz":
            with np.load(io.BytesIO(data)) as members:
                for name in members.files:
                    yield path, members[name].tobytes()
    for key, group in zarr.open_group(place / "features.zarr", mode="r").groups():
        for name, array in group.arrays():
            yield place / key / name, np.ascontiguousarray(array[:]).tobytes()


def found(place: Path, rows=GONE) -> set[str]:
    wanted = needles(rows)
    return {
        str(path.relative_to(place))
        for path, data in contents_of(place)
        if any(needle in data for needle in wanted)
    }


def check_others(store: Store, rows=GONE, n=N) -> None:
    """Every other row reads as it was written, and the rows of the set are what they were."""
    features = store.features()
    table = features.table()
    left = [row for row in range(n) if row not in rows]
    assert table["row"].tolist() in (left, list(range(n)))
    others = np.array(left)
    for name in known.ARRAYS:
        assert np.array_equal(features.read(name, others), known.rows_of(name, others))


def test_the_search_finds_what_is_there(filled):
    """The test of the test: before, every kind of file is found."""
    homes = {name.split("/")[0] for name in found(filled)}
    assert homes >= {
        "features.zarr", "manifest", "twins", "tags", "listing", "tables", "explanations", "index",
        "constants", known.KEY,
    }  # fmt: skip


@pytest.mark.quick
def test_nothing_of_an_image_is_left(store):
    place, sides = Path(store.url), store.features().table().set_index("row")["split"]
    bad_before = verify(store, mark=False)
    done = forget_images(store, ["3", known.image_id(700), "0/001050.png"])
    assert found(place) == set()
    assert done.report.rows == GONE
    assert done.report.images == 3
    assert done.report.shards == 4
    assert done.report.damaged == ()
    made = {"index", "tables", "maps", "explanations", "runs", "fitted measures"}
    assert set(done.report.dropped) == made
    assert unfinished(store) is None
    for opened in (store, Store.open(place)):
        check_others(opened)
        assert opened.n_rows == N
        assert len(opened.images()) == N - 3
    after = verify(Store.open(place))
    assert after.damage == ()
    assert after.units == bad_before.units
    assert set(after.notes) <= set(bad_before.notes)
    features = Store.open(place).features()
    assert features.pending() == []
    assert np.isnan(features.read("fc", list(GONE))).all()
    assert not features.published()[list(GONE)].any()
    assert not set(features.bad()["row"]) & set(GONE)
    # What people and other images rely on stays.
    assert read_tags(store)["image_id"].tolist() == [known.image_id(4)]
    assert store.trained_ids() == {known.image_id(4), known.image_id(5)}
    assert store.read_table("listing/abc.parquet")[1] == {"turn": 4}
    assert store.links()[0][["row_a", "row_b"]].to_numpy().tolist() == [[20, 21], [30, 31]]
    assert set(range(N)) - set(store.links()[1].tolist()) == set(GONE)
    assert store.image_groups()["row"].tolist() == [1051, 1052]
    left = features.table().set_index("row")["split"]
    pd.testing.assert_series_equal(left, sides.loc[left.index])
    assert store.file_names(f"explanations/{known.KEY}/cam") == ["others.npz"]
    assert features.constants() == ["classifier/weight"]
    log = history(store)
    assert "3 images were forgotten" in log["note"].tolist()
    assert collect_garbage(store, dry_run=True) == []
    assert contents(store)["pending_units"].eq(0).all()


def test_a_row_is_never_used_again_and_an_image_that_comes_again_is_new(store):
    forget_images(store, ["3"])
    view = store.list_images(known.listing(range(N)))
    assert view.set_index("path").at["0/000003.png", "row"] == N
    assert sorted(view["row"]) == [*(row for row in range(N) if row != 3), N]
    features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    assert features.pending() == [1]
    with features.lock():
        known.extract(features)
    assert verify(Store.open(store.url)).damage == ()
    assert len(features.table()) == N
    # Once more, by its hash: now its new row goes.
    again = forget_images(store, [known.image_id(3)])
    assert again.report.rows == (N,)
    assert verify(Store.open(store.url)).damage == ()
    ids = store.image_ids()
    assert [row for row in range(len(ids)) if is_placeholder(ids[row])] == [3, N]


def test_a_removed_image_is_forgotten_too(store):
    store.list_images(known.listing(range(10, N)))
    forget_images(store, ["0/000003.png"])
    assert found(Path(store.url), [3]) == set()
    assert verify(Store.open(store.url)).damage == ()
    # Others that were removed come back with their features.
    store.list_images(known.listing([*range(3), *range(4, N)]))
    check_others(store, rows=(3,))


def test_names_that_are_none_or_unclear_delete_nothing(store, tmp_path):
    before = state(Path(store.url))
    for name in ("nowhere.png", "1100", known.image_id(5000), "0" * 64, "-1"):
        with pytest.raises(BadInput, match=r"no image .* SHA-256"):
            forget_images(store, ["3", name])
    file = tmp_path / "000005.png"
    # Its bytes are those of image 5: `store_writer` hashes the digits.
    file.write_bytes(b"5")
    assert forget_images(store, [str(file)], dry_run=True).report.rows == (5,)
    planned = forget_images(store, ["3", "700", "1050"], dry_run=True)
    assert planned.report.shards == 4
    assert "index" in planned.report.dropped
    assert state(Path(store.url)) == before
    forget_images(store, ["3"])
    for name, match in (("3", "no image has row 3"), ("", "no image ''")):
        with pytest.raises(BadInput, match=match):
            forget_images(store, [name])


def test_what_was_left_without_a_record_goes_too(store):
    """A run that was cut off leaves shards, and rows in them, that no record knows."""
    features = store.features()
    features.ledger.take_back(1)
    aside = store.path("manifest", "view.parquet.abc.partial")
    aside.write_bytes(known.image_id(3).encode())
    forget_images(store, ["3", "700", "1050"])
    assert found(Path(store.url)) == set()
    assert features.pending() == [1]
    known.extract(features)
    assert np.isnan(features.read("fc", [3, 700])).all()


def test_a_damaged_shard_is_deleted_and_computed_again(store):
    features = store.features()
    shard = store.path(features.place("maps", 0))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    done = forget_images(store, ["3"])
    assert done.report.damaged == (features.place("maps", 0),)
    assert any("was damaged" in note for note in done.notes)
    assert features.pending(["maps"]) == [0]
    assert features.pending(["fc"]) == []
    assert verify(Store.open(store.url)).damage == ()
    with features.lock():
        known.extract(features, ["maps"])
    assert not {3} & set(features.table(names=["maps"])["row"])


def test_a_record_that_cannot_be_read_keeps_all(store):
    before = state(Path(store.url))
    record = store.path(store.features().ledger.name(1))
    text = record.read_bytes()
    record.write_bytes(text[:-9])
    with pytest.raises(StoreDamaged, match="00000001"):
        forget_images(store, ["3"])
    record.write_bytes(text)
    assert state(Path(store.url)) == before


def test_nobody_else_may_work(store):
    import fcntl

    with (store.path("index", known.KEY, "fc_euclid", "lock")).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreBusy, match="builds the index"):
            forget_images(store, ["3"])
    other = Holder(**{**vars(Holder.me()), "token": "another"})
    for name in (f"extract-{known.KEY}", "extract-new"):
        place = store.path("locks", f"{name}.json")
        place.write_text(json.dumps(vars(other)))
        with pytest.raises(StoreBusy, match="wait for it to end"):
            forget_images(store, ["3"])
        place.unlink()
    assert unfinished(store) is None
    check_others(store, rows=())


class Killed(BaseException):
    """The process is no more."""


def stop_before(monkeypatch, number: int) -> list[str]:
    """Let so many changes of files happen, and none after; gives what they were."""
    done: list[str] = []

    def stopping(name, change):
        def stopped(self, file, *args, **options):
            if len(done) >= number:
                if name == "write" and len(done) == number:
                    # Killed in the middle of it.
                    aside = self.path(f"{file}.0123.partial")
                    aside.parent.mkdir(parents=True, exist_ok=True)
                    aside.write_bytes(args[0][: len(args[0]) // 2 + 1])
                done.append("")
                raise Killed
            done.append(f"{name} {file}")
            return change(self, file, *args, **options)

        return stopped

    for name in ("write", "create", "remove"):
        monkeypatch.setattr(LocalFiles, name, stopping(name, getattr(LocalFiles, name)))
    return done


def state(place: Path) -> dict[str, bytes]:
    """All files but those that tell the time."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.parts[len(place.parts)] not in ("log", "locks", "ledger")
    }


def test_killed_before_any_change_of_a_file(filled, tmp_path, monkeypatch):
    names = [str(row) for row in GONE]
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(filled, undisturbed)
    with monkeypatch.context() as patch:
        changes = stop_before(patch, 10**6)
        forget_images(Store.open(undisturbed), names)
    wanted, digest = state(undisturbed), Store.open(undisturbed).features().digest
    seen = set()
    marked, ended = changes.index(f"write {MARK}"), changes.index(f"remove {MARK}")
    numbers = {*range(0, len(changes), 1 if FULL else 8), marked + 1, ended, ended + 1}
    for number in sorted(numbers):
        place = tmp_path / f"killed{number}"
        shutil.copytree(filled, place)
        with monkeypatch.context() as patch:
            stop_before(patch, number)
            try:
                forget_images(Store.open(place), names)
                assert number >= len(changes)
            except Killed:
                pass
        # The dead hold nothing: here they live on, so their locks are taken away.
        for lock in [*place.glob("locks/*.json"), *place.glob("ledger/*/claims/*.json")]:
            lock.unlink()
        store = Store.open(place)
        check_others(store)
        begun = unfinished(store)
        verdict = verify(store, mark=False)
        assert [one.file for one in verdict.damage] == ([MARK] if begun else [])
        assert all("ends it" in one.repair for one in verdict.damage)
        # What verify marks must not cost a row either.
        verify(store)
        check_others(store)
        seen.add((begun is not None, len(store.images())))
        # By the same command, or by the next extraction.
        if begun is None or number % 2:
            wait = names if begun is None and len(store.images()) == N else []
            forget_images(store, names if begun else wait)
        else:
            finish_forgetting(store)
        assert unfinished(Store.open(place)) is None
        assert found(place) == set()
        check_others(Store.open(place))
        assert verify(Store.open(place), mark=False).damage == ()
        assert Store.open(place).features().digest == digest
        assert state(place) == wanted
        shutil.rmtree(place)
    assert seen == {(False, N), (True, N), (True, N - 3), (False, N - 3)}


def forgetting(place: Path, *names: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "alike", "store", "forget", *names, "--store", str(place)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place.parent,
    )


def test_real_processes_killed(tmp_path):
    place, n = tmp_path / "store", 9000
    full_store(place, n)
    rows, chance = list(range(5, n, 600)), np.random.default_rng(0)
    names = [f"{row % 3}/{row:06d}.png" for row in rows]
    for _ in range(20 if FULL else 2):
        process = forgetting(place, *names)
        while not (place / MARK).exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(float(chance.uniform(0, 0.3)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        check_others(Store.open(place), rows=rows, n=n)
        faults = [one.file for one in verify(Store.open(place), mark=False).damage]
        assert faults in ([], [MARK])
    # The last is not killed: what was begun is ended without naming it again, if need be.
    if (place / MARK).exists():
        out, err = forgetting(place).communicate()
        assert err == ""
        assert re.search(r"images forgotten: 15, as was begun earlier", out)
    assert verify(Store.open(place)).damage == ()
    assert found(place, rows) == set()
    check_others(Store.open(place), rows=rows, n=n)
