"""`kill -9` of two writers at random moments, over and over: nothing recorded is ever wrong.

`ALIKE_FULL=1` does it 100 times (some four minutes), else a few.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import store_writer as known

from alike.extract.store.files import PARTIAL, LocalFiles
from alike.extract.store.locks import holder_of
from alike.extract.store.store import Store
from alike.extract.store.verification import verify

KILLS = 100 if os.environ.get("ALIKE_FULL") == "1" else 3
SIZES = (2500, 5000, 6000, 9000, 15000, 30000)
ROOT = Path(__file__).parents[3]


def start(place: Path, n: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, Path(known.__file__), str(place), str(n)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_work(place: Path, writers: list[subprocess.Popen]) -> None:
    """Wait until one of these writers holds a unit, or all have ended."""
    pids = {one.pid for one in writers}
    claims = place / "ledger" / known.KEY / "claims"
    files = LocalFiles(claims)
    while any(one.poll() is None for one in writers):
        for name in files.listing("."):
            holder = holder_of(files, name) if name.endswith(".json") else None
            if holder and holder.pid in pids:
                return
        time.sleep(0.001)


def wait_for_a_write(place: Path, writers: list[subprocess.Popen], seconds: float) -> None:
    """Wait until a shard is being written, or for some seconds."""
    folders = [place / "features.zarr" / known.KEY / name for name in known.ARRAYS]
    before = {path for folder in folders for path in folder.glob(f"*{PARTIAL}")}
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(one.poll() is None for one in writers):
        if any(path not in before for folder in folders for path in folder.glob(f"*{PARTIAL}")):
            return


def read_for(place: Path, seconds: float) -> None:
    """Read all that counts as good while it is being written: every row must be right."""
    until = time.monotonic() + seconds
    features = Store.open(place).features()
    while time.monotonic() < until:
        rows = features.table()["row"].to_numpy()
        rows = rows[-3000:]
        for name in known.ARRAYS:
            assert np.array_equal(features.read(name, rows), known.rows_of(name, rows))


def check(place: Path) -> int:
    """With fresh eyes: no damage, and every good row is what it should be."""
    store = Store.open(place)
    assert verify(store, mark=False).damage == ()
    features = store.features()
    rows = features.table()["row"].to_numpy()
    for at, arrays in features.blocks(list(known.ARRAYS), rows):
        for name, array in arrays.items():
            assert np.array_equal(array, known.rows_of(name, at))
    return len(rows)


def test_two_writers_killed_at_random_moments(tmp_path):
    chance = np.random.default_rng(int(os.environ.get("ALIKE_SEED", "0")))
    kills = round_ = 0
    seen = set()

    def enough():
        """A slow machine needs more kills until one finds units done."""
        return kills >= KILLS and (len(seen) > 1 or kills >= 20 * KILLS)

    while not enough():
        round_ += 1
        place = tmp_path / f"store{round_}"
        for n in SIZES:
            store = Store.open(place, create=True)
            store.list_images(known.listing(range(n)))
            features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
            while features.pending() and not enough():
                writers = [start(place, n), start(place, n)]
                wait_for_work(place, writers)
                if chance.random() < 0.4:
                    wait_for_a_write(place, writers, 0.5)
                elif chance.random() < 0.5:
                    read_for(place, float(chance.uniform(0, 0.3)))
                else:
                    time.sleep(float(chance.uniform(0, 0.3)))
                for one in writers:
                    one.kill()
                errors = [one.communicate()[1] for one in writers]
                assert errors == ["", ""]
                kills += 1
                seen.add(check(place))
            known.extract(features)
            assert features.pending() == []
            if enough():
                break
        whole = known.filled(tmp_path / f"whole{round_}", n)
        assert features.digest == whole.digest
        for name in known.ARRAYS:
            shards = whole.shard_sizes(name)
            assert sorted(shards) == sorted(
                one for one in features.shard_sizes(name) if PARTIAL not in one
            )
            for shard in shards:
                file = f"features.zarr/{known.KEY}/{name}/{shard}"
                assert features.store.read_file(file) == whole.store.read_file(file)
    assert len(seen) > 1
    sys.stderr.write(f"{kills} kills in {round_} rounds, {len(seen)} different states seen\n")


@pytest.mark.quick
def test_two_writers_undisturbed_share_the_work(tmp_path):
    place = tmp_path / "both"
    store = Store.open(place, create=True)
    store.list_images(known.listing(range(5000)))
    features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    writers = [start(place, 5000), start(place, 5000)]
    said = [one.communicate() for one in writers]
    assert [err for _, err in said] == ["", ""]
    assert sum(int(out.split()[1]) for out, _ in said) >= 5
    assert features.pending() == []
    assert features.digest == known.filled(tmp_path / "whole", 5000).digest
    assert not list(place.rglob("claims/*"))
