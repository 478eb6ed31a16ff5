"""`kill -9` of real extractions, every process of them, then the same command again.

Two of three have two workers over TCP. Takes many minutes, so only by `ALIKE_FULL=1`, with
`ALIKE_KILLS` (100) kills.
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

from extract.store import Store
from extract.store_locks import holder_of
from extract.store_verify import verify

KILLS = int(os.environ.get("ALIKE_KILLS", "100"))
IMAGES = 30_000
ROOT = Path(__file__).parents[2]

RUN = """
import sys
from extract.distributed import extract_distributed
from extract.network import load_network
from extract.pipeline import extract
from extract.source import open_source
from extract.store import Store
from extract.transform import Transform

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
    """Wait until the run holds its extraction, so that it is past its imports."""
    while run.poll() is None:
        if (place / "store.json").exists():
            files = Store.open(place).files
            for name in files.listing("locks"):
                holder = holder_of(files, f"locks/{name}")
                if name.startswith("extract-") and holder and holder.pid == run.pid:
                    return
        time.sleep(0.01)


def kill_all(run: subprocess.Popen) -> None:
    """End a run and the workers that it started, each by its number."""
    family = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
    run.kill()
    for one in family:
        if one.is_running():
            one.kill()
    psutil.wait_procs(family, timeout=30)


@pytest.mark.skipif(os.environ.get("ALIKE_FULL") != "1", reason="slow: set ALIKE_FULL=1")
def test_killed_extractions_end_where_an_undisturbed_one_does(tmp_path):
    chance = np.random.default_rng(int(os.environ.get("ALIKE_SEED", "0")))
    images = chance.integers(0, 255, (IMAGES, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(IMAGES) % 3)
    whole, place = tmp_path / "whole", tmp_path / "store"
    undisturbed = start(tmp_path, whole, 1)
    assert "Error" not in undisturbed.communicate()[1]
    wanted = Store.open(whole).features()
    assert wanted.pending() == []
    kills = 0
    seen = set()
    while kills < KILLS:
        run = start(tmp_path, place, 2 if kills % 3 else 1)
        wait_for_lock(place, run)
        time.sleep(float(chance.uniform(0, 5)))
        kill_all(run)
        errors = run.communicate()[1]
        assert "StoreBusy" not in errors, errors
        kills += 1
        store = Store.open(place, create=True)
        assert verify(store, mark=False).damage == ()
        if store.groups():
            features = store.features()
            rows = features.table()["row"].to_numpy()
            seen.add(len(rows))
            for name in features.arrays:
                same = wanted.read(name, rows)
                assert np.array_equal(features.read(name, rows), same, equal_nan=True)
            if not features.pending() and kills < KILLS:
                place = tmp_path / f"store{kills}"
    final = start(tmp_path, place, 1)
    assert "Error" not in final.communicate()[1]
    features = Store.open(place).features()
    assert features.pending() == []
    assert features.digest == wanted.digest
    for name in wanted.arrays:
        for shard in wanted.shard_sizes(name):
            file = f"features.zarr/{wanted.key}/{name}/{shard}"
            assert features.store.read_file(file) == wanted.store.read_file(file)
    sys.stderr.write(f"{kills} kills, {len(seen)} different states seen\n")
