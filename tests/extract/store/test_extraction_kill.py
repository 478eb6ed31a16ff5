"""`kill -9` of real extractions with two workers over TCP, every process of them, then again.

Takes long, so only by `ALIKE_FULL=1`: 100 kills, or `ALIKE_KILLS`; `ALIKE_SEED` chooses other
moments.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from images import small_file

from alike.extract.store.features import Features
from alike.extract.store.files import LocalFiles
from alike.extract.store.locks import holder_of
from alike.extract.store.store import Store
from alike.extract.store.verification import verify

KILLS = int(os.environ.get("ALIKE_KILLS", "100"))
IMAGES = 30_000
ROOT = Path(__file__).parents[3]

RUN = """
import sys
from alike.extract.distributed import extract_distributed
from alike.extract.networks.network import load_network
from alike.extract.pipeline import extract
from alike.extract.images.sources import open_source
from alike.extract.store.store import Store
from alike.extract.networks.transform import Transform

if __name__ == "__main__":
    set_, file, place, workers = sys.argv[1:]
    store = Store.open(place, create=True)
    network = load_network(file, transform=Transform())
    settings = {"device": "cpu", "batch_size": 64, "threads": 1}
    if int(workers) > 1:
        extract_distributed(open_source(set_), network, store, workers=int(workers), **settings)
    else:
        extract(open_source(set_), network, store, **settings)
"""


def start(folder: Path, place: Path, workers: int) -> subprocess.Popen:
    (folder / "run.py").write_text(RUN)
    network = small_file(folder)
    command = [folder / "run.py", folder / "set.npz", network, place, str(workers)]
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lock(place: Path, run: subprocess.Popen) -> None:
    """Wait until a run holds its extraction: past its imports and its listing."""
    files = LocalFiles(place)
    while run.poll() is None:
        for name in files.listing("locks"):
            holder = holder_of(files, f"locks/{name}") if name.startswith("extract-") else None
            if holder and holder.pid == run.pid:
                return
        time.sleep(0.02)


def wait_for_work(place: Path, run: subprocess.Popen) -> None:
    """Wait until a worker takes or commits a unit."""
    before = set(place.glob("ledger/**/*.json"))
    while run.poll() is None and not set(place.glob("ledger/**/*.json")) - before:
        time.sleep(0.02)


def kill_all(run: subprocess.Popen) -> None:
    """End a run and the workers that it started, each by its number."""
    family = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
    run.kill()
    for one in family:
        if one.is_running():
            one.kill()
    psutil.wait_procs(family, timeout=30)


def check(place: Path, wanted: Features) -> int:
    """With fresh eyes: no damage, and every good row is that of the undisturbed run."""
    store = Store.open(place)
    assert verify(store, mark=False).damage == ()
    if not store.groups():
        return 0
    features = store.features()
    rows = features.table()["row"].to_numpy()
    for name in features.arrays:
        assert np.array_equal(features.read(name, rows), wanted.read(name, rows), equal_nan=True)
    return len(rows)


def check_bytes(place: Path, wanted: Features) -> None:
    """Every shard equals that of the undisturbed run, byte for byte."""
    features = Store.open(place).features()
    assert features.pending() == []
    assert features.digest == wanted.digest
    for name in wanted.arrays:
        for shard in wanted.shard_sizes(name):
            file = f"features.zarr/{wanted.key}/{name}/{shard}"
            assert features.store.read_file(file) == wanted.store.read_file(file)


@pytest.mark.skipif(os.environ.get("ALIKE_FULL") != "1", reason="slow: set ALIKE_FULL=1")
def test_killed_extractions_end_where_an_undisturbed_one_does(tmp_path):
    chance = np.random.default_rng(int(os.environ.get("ALIKE_SEED", "0")))
    images = chance.integers(0, 255, (IMAGES, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(IMAGES) % 3)
    undisturbed = start(tmp_path, tmp_path / "whole", 1)
    assert "Error" not in undisturbed.communicate()[1]
    wanted = Store.open(tmp_path / "whole").features()
    assert wanted.pending() == []
    ended = 0
    states = []
    while len(states) < KILLS:
        place = tmp_path / f"store{ended}"
        run = start(tmp_path, place, 2)
        # A quarter while the run prepares, the others while its workers compute and commit.
        (wait_for_lock if len(states) % 4 == 3 else wait_for_work)(place, run)
        time.sleep(float(chance.uniform(0, 3)))
        kill_all(run)
        errors = run.communicate()[1]
        assert "StoreBusy" not in errors, errors
        states.append(check(place, wanted))
        sys.stderr.write(f"kill {len(states)}: {states[-1]} rows are good\n")
        if states[-1] == IMAGES:
            check_bytes(place, wanted)
            ended += 1
    place = tmp_path / f"store{ended}"
    final = start(tmp_path, place, 1)
    assert "Error" not in final.communicate()[1]
    check_bytes(place, wanted)
    cut = sum(0 < rows < IMAGES for rows in states)
    sys.stderr.write(f"{KILLS} kills, {cut} of them between two commits, {ended + 1} stores\n")
