"""Damage is found, named and repaired; a reader never takes it for a feature."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import store_writer as known

from alike.extract.errors import BadInput, StoreBusy, StoreDamaged, StoreFull
from alike.extract.store import verification
from alike.extract.store.files import LocalFiles, explain
from alike.extract.store.locks import Holder, Lock
from alike.extract.store.store import Store
from alike.extract.store.upkeep import bad_images, collect_garbage, contents, history
from alike.extract.store.verification import verify

ROOT = Path(__file__).parents[3]


def shard(features, name, unit) -> Path:
    return features.store.path(features.place(name, unit))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def truncate(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


DAMAGE = {
    "flipped in a chunk": lambda path: flip(path, 1000),
    "flipped in the index": lambda path: flip(path, path.stat().st_size - 50),
    "flipped in the checksum": lambda path: flip(path, path.stat().st_size - 1),
    "torn": lambda path: truncate(path, path.stat().st_size // 2),
    "empty": lambda path: truncate(path, 0),
    "lost": lambda path: path.unlink(),
}


@pytest.mark.parametrize("unit", [0, 1])
@pytest.mark.parametrize("name", list(known.ARRAYS))
@pytest.mark.parametrize("how", list(DAMAGE))
def test_damage_is_loud_named_and_repaired(tmp_path, how, name, unit):
    features = known.filled(tmp_path, 1500)
    before = features.digest
    DAMAGE[how](shard(features, name, unit))
    with pytest.raises(StoreDamaged, match=f"{name}/c.{unit}.*alike store verify"):
        features.read(name, np.asarray(features.unit_rows(unit)))
    verdict = verify(features.store)
    assert [one.file for one in verdict.damage] == [features.place(name, unit)]
    assert verdict.units == 2
    other = "fc" if name == "maps" else "maps"
    assert features.pending([name]) == [unit]
    assert features.pending([other]) == []
    with pytest.raises(BadInput, match="not committed"):
        features.read(name, np.asarray(features.unit_rows(unit)))
    known.extract(features, [name])
    assert verify(features.store).damage == ()
    assert features.digest == before


def test_every_flipped_byte_is_seen(tmp_path):
    """Flip one byte at many places: what is read is right, or an error; never wrong."""
    features = known.filled(tmp_path, 40)
    good = {name: features.read(name, slice(None)) for name in known.ARRAYS}
    chance = np.random.default_rng(0)
    for name in known.ARRAYS:
        path = shard(features, name, 0)
        whole = path.read_bytes()
        for at in chance.integers(0, len(whole), 25):
            flip(path, int(at))
            with contextlib.suppress(StoreDamaged):
                assert np.array_equal(features.read(name, slice(None)), good[name])
            path.write_bytes(whole)


def test_swapped_shards_are_seen(tmp_path):
    features = known.filled(tmp_path, 2048)
    one, other = shard(features, "fc", 0), shard(features, "fc", 1)
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    with pytest.raises(StoreDamaged, match="not the one that was recorded"):
        features.read("fc", np.array([3]))
    reasons = {damage.reason for damage in verify(features.store, mark=False).damage}
    assert reasons == {"a chunk that is whole, but not the one that was recorded"}
    assert features.pending() == []


def test_torn_shard_is_pending_even_without_verify(tmp_path):
    features = known.filled(tmp_path, 2500)
    truncate(shard(features, "maps", 1), 5000)
    shard(features, "fc", 2).unlink()
    assert features.pending() == [1, 2]
    assert features.todo(1) == range(1024, 2048)
    assert features.todo(2) == range(2048, 2500)
    known.extract(features)
    assert np.array_equal(features.read("maps", slice(None)), known.rows_of("maps", range(2500)))
    assert verify(features.store).damage == ()


def test_damaged_tail_is_not_carried_into_its_growth(tmp_path):
    features = known.filled(tmp_path, 1500)
    flip(shard(features, "fc", 1), 2000)
    features.store.list_images(known.listing(range(1700)))
    features = features.store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    late = {name: known.rows_of(name, range(1500, 1700)) for name in known.ARRAYS}
    with pytest.raises(StoreDamaged, match="not what was recorded"):
        features.write_unit(1, late)
    assert features.todo(1) == range(1024, 1700)
    known.extract(features)
    assert np.array_equal(features.read("fc", slice(None)), known.rows_of("fc", range(1700)))


def test_damaged_record_view_and_constant(tmp_path):
    features = known.filled(tmp_path, 1500)
    features.write_constant("mean", np.ones(30))
    ledger = tmp_path / features.ledger.name(1)
    ledger.write_text(ledger.read_text().replace('"hi": 1500', '"hi": 1499', 1))
    with pytest.raises(StoreDamaged, match=r"00000001\.json is damaged .*own hash"):
        features.table()
    constant = tmp_path / "constants" / known.KEY / "mean.npz"
    flip(constant, 200)
    with pytest.raises(StoreDamaged, match="mean"):
        features.read_constant("mean")
    files = [one.file for one in verify(features.store).damage]
    assert files == [f"constants/{known.KEY}/mean.npz", features.ledger.name(1)]
    assert features.pending() == [1]
    view = tmp_path / "manifest" / "view.parquet"
    flip(view, 40)
    with pytest.raises(StoreDamaged, match="view"):
        features.table()
    assert "manifest/view.parquet" in [one.file for one in verify(features.store).damage]
    features.store.list_images(known.listing(range(1500)))
    known.extract(features)
    assert len(features.table()) == 1500


def test_a_record_without_its_data_is_never_left(tmp_path):
    """Fill up the disk (a limit on file sizes) at every unit: clear error, then resume."""
    whole = known.filled(tmp_path / "whole", 2500)
    store = Store.open(tmp_path / "s", create=True)
    store.list_images(known.listing(range(2500)))
    features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "import store_writer as known; from alike.extract.store.store import Store;"
        "known.extract(Store.open(sys.argv[1]).features())"
    )
    ran = run_python("-c", script, str(tmp_path / "s"))
    assert ran.returncode != 0
    assert "StoreFull" in ran.stderr
    assert "has no room for more" in ran.stderr
    assert features.pending() == [0, 1, 2]
    assert len(features.table()) == 0
    known.extract(features)
    assert features.digest == whole.digest
    litter = collect_garbage(store)
    assert all(one.why == "half-written" for one in litter)
    assert not list(tmp_path.joinpath("s").rglob("*.partial"))


def test_full_disk(tmp_path):
    """On a real small filesystem, where the machine lets one be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        store = Store.open(disk / "s", create=True)
        store.list_images(known.listing(range(2500)))
        features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
        with pytest.raises(StoreFull, match="free some space"):
            known.extract(features)
        done = 3 - len(features.pending())
        assert done < 3
        assert len(features.table()) == len(features.read("fc", features.table()["row"]))
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        known.extract(features)
        assert np.array_equal(features.read("fc", slice(None)), known.rows_of("fc", range(2500)))
        assert verify(store).damage == ()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_rows_that_change_are_taken_back_first(tmp_path, monkeypatch):
    """A crash while a unit is computed anew with other values leaves no record of either."""
    features = known.filled(tmp_path, 1500)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    other = {name: known.rows_of(name, range(1024)) + 1 for name in known.ARRAYS}
    with monkeypatch.context() as patch:
        patch.setattr("alike.extract.store.commit.provenance", crash)
        with pytest.raises(KeyboardInterrupt):
            features.write_unit(0, other)
    assert features.pending() == [0]
    assert list(features.table()["row"]) == list(range(1024, 1500))
    assert verify(features.store).damage == ()
    features.write_unit(0, other)
    assert np.array_equal(features.read("fc", slice(0, 1024)), other["fc"])
    same = features.digest
    features.write_unit(0, other)
    assert features.digest == same


def test_full_disk_errors_are_told_from_others():
    assert isinstance(explain(OSError(errno.ENOSPC, "No space"), "x"), StoreFull)
    assert isinstance(explain(OSError(errno.EDQUOT, "Quota"), "x"), StoreFull)
    assert isinstance(explain(OSError(errno.EACCES, "Permission denied"), "x"), BadInput)
    assert explain(OSError(errno.EIO, "I/O"), "x") is None


@pytest.mark.quick
def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    for create in (True, False):
        with pytest.raises(BadInput, match="is no folder"):
            Store.open(tmp_path / "file", create=create)


def test_second_process_is_refused_by_name(tmp_path):
    features = known.filled(tmp_path, 10)
    script = (
        "import sys; from alike.extract.store.store import Store\n"
        "with Store.open(sys.argv[1]).features().lock(): print('held', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(StoreBusy, match=f"process {other.pid} on {os.uname().nodename}"),
            features.lock(),
        ):
            pass
        with pytest.raises(StoreBusy, match="cannot be listed"):
            features.store.list_images(known.listing(range(11)))
        with pytest.raises(StoreBusy, match=str(other.pid)):
            collect_garbage(features.store)
        assert len(features.store.list_images(known.listing(range(9)))) == 9
        other.kill()
        other.wait()
        with features.lock():
            assert len(features.store.list_images(known.listing(range(11)))) == 11
        with features.lock():
            pass
    finally:
        other.kill()
        other.communicate()


def test_lock_waits_for_a_living_holder(tmp_path):
    features = known.filled(tmp_path, 10)
    script = (
        "import sys, time; from alike.extract.store.store import Store\n"
        "with Store.open(sys.argv[1]).features().lock(): print('held', flush=True); time.sleep(1)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout.readline() == "held\n"
        with features.lock(wait=300):
            assert other.wait(300) == 0


def test_silent_holder_on_another_host_is_taken_over(tmp_path):
    files = LocalFiles(tmp_path)
    stranger = {**Holder.me().__dict__, "host": "elsewhere", "token": "t"}
    files.write("locks/x.json", json.dumps(stranger).encode())
    with pytest.raises(StoreBusy, match="on elsewhere"), Lock(files, "locks/x.json", "x"):
        pass
    long_ago = files.path("locks/x.json").stat().st_mtime - 1000
    os.utime(files.path("locks/x.json"), (long_ago, long_ago))
    with Lock(files, "locks/x.json", "x") as lock:
        lock.check()
        files.write("locks/x.json", json.dumps(stranger).encode())
        with pytest.raises(StoreBusy, match="taken over by"):
            lock.check()
    assert files.size("locks/x.json") is not None


def test_reused_process_number_is_no_holder():
    me = Holder.me()
    assert me.alive_here()
    assert not replace(me, started=me.started - 100).alive_here()
    assert not replace(me, boot="another run of the machine").alive_here()


def test_a_lock_that_a_power_cut_left_empty(tmp_path):
    files = LocalFiles(tmp_path)
    files.write("locks/x.json", b"")
    with pytest.raises(StoreBusy, match="unknown host"), Lock(files, "locks/x.json", "x"):
        pass
    os.utime(tmp_path / "locks/x.json", (1, 1))
    with Lock(files, "locks/x.json", "x"):
        pass


def test_nested_locks_and_claims(tmp_path):
    features = known.filled(tmp_path, 1500)
    with features.lock(), features.store.lock(known.KEY), features.claim(0), features.claim(0):
        features.write_unit(0, {"fc": known.rows_of("fc", range(1024))})
    assert not list((tmp_path / "locks").glob("*.json"))
    assert not list((tmp_path / "ledger").rglob("claims/*"))


@pytest.fixture
def place():
    """A folder beside those of pytest, which every pytest that starts closes to other users."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_read_only_folder_is_read(place):
    known.filled(place / "s", 1500)
    folders = [place / "s", *(one for one in (place / "s").rglob("*"))]
    modes = [(one, one.stat().st_mode) for one in folders]
    script = (
        "import os, sys, numpy as np; from alike.extract.store.store import Store\n"
        "from alike.extract.store.verification import verify\n"
        "from alike.extract.errors import BadInput\n"
        "Store.open(sys.argv[1]).features().table()\n"  # imports what root alone may read
        "os.geteuid() or os.setuid(65534)\n"
        "store = Store.open(sys.argv[1]); features = store.features()\n"
        "assert len(features.table()) == 1500 and features.pending() == []\n"
        "assert features.read('fc', slice(None)).shape == (1500, 16)\n"
        "assert verify(store, mark=False).damage == ()\n"
        "try: verify(store)\n"
        "except BadInput as error: print(error)\n"
    )
    place.chmod(0o755)
    try:
        for one in reversed(folders):
            one.chmod(0o555 if one.is_dir() else 0o444)
        ran = run_python("-c", script, str(place / "s"))
    finally:
        for one, mode in modes:
            one.chmod(mode)
    assert ran.returncode == 0, ran.stderr
    assert "cannot be written" in ran.stdout


def test_garbage(tmp_path):
    features = known.filled(tmp_path, 2500)
    kept = features.digest
    folder = tmp_path / "features.zarr" / known.KEY / "fc"
    (folder / "c.1.0.abc.partial").write_bytes(b"half")
    features.ledger.take_back(2)
    (tmp_path / "locks" / "extract-x.json").write_text(
        json.dumps({**Holder.me().__dict__, "pid": 2**22 + 1})
    )
    would = collect_garbage(features.store, dry_run=True)
    assert {one.why.split(" of ")[0] for one in would} == {
        "half-written",
        "shard without a record",
        "lock",
    }
    assert [one.file for one in collect_garbage(features.store)] == [one.file for one in would]
    assert collect_garbage(features.store) == []
    known.extract(features)
    assert features.digest == kept
    known.filled(tmp_path, 2500)
    collect_garbage(features.store, drop=(known.KEY,))
    assert features.store.groups() == []
    assert features.store.n_rows == 2500
    assert known.filled(tmp_path, 2500).digest == kept


def test_what_there_is_and_what_happened(tmp_path):
    features = known.filled(tmp_path, 1500)
    table = contents(features.store)
    assert table[["array", "shape", "rows", "good", "pending_units"]].to_numpy().tolist() == [
        ["fc", "16", 1500, 1500, 0],
        ["maps", "8x4x4", 1500, 1500, 0],
    ]
    flip(shard(features, "fc", 1), 100)
    verify(features.store)
    told = history(features.store)
    # What is damaged lost its record; that its rows are to be computed has no time.
    happened = ["created", "listed", "laid out", "extracted", "damaged"]
    assert list(told["event"]) == ["pending", *happened]
    assert told["note"].iloc[-1].startswith(features.place("fc", 1))
    assert len(bad_images(features.store)) == 0


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parents[1])])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE])
def test_what_cannot_be_read_now_is_not_damage(tmp_path, monkeypatch, code):
    """No permission, too many open files, a mount that is gone: nothing is taken back for it."""
    features = known.filled(tmp_path / "s", 300)
    before = {one: one.read_bytes() for one in (tmp_path / "s").rglob("*") if one.is_file()}
    broken = features.place("fc", 0)
    read = LocalFiles.read_ranges

    def refused(self, name, ranges):
        if name == broken:
            raise OSError(code, os.strerror(code))
        return read(self, name, ranges)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "read_ranges", refused)
        for reading in (lambda: features.read("fc", slice(None)), lambda: verify(features.store)):
            with pytest.raises(OSError, match=os.strerror(code)) as caught:
                reading()
            assert caught.value.filename.endswith(broken)
    assert {one: one.read_bytes() for one in before} == before
    assert verify(Store.open(tmp_path / "s")).damage == ()


def test_what_another_process_mended_meanwhile_is_not_taken_back(tmp_path, monkeypatch):
    features = known.filled(tmp_path / "s", 300)
    torn = shard(features, "fc", 0)
    whole, take_back = torn.read_bytes(), verification._take_back
    flip(torn, 1000)

    def late(*given):
        torn.write_bytes(whole)
        take_back(*given)

    monkeypatch.setattr(verification, "_take_back", late)
    assert [one.file for one in verify(features.store).damage] == [features.place("fc", 0)]
    assert torn.read_bytes() == whole
    assert features.pending() == []
