"""`kill -9` of whole runs at random moments, every process of them; the next run ends as if not.

Killed are `alike run`, a scheduled run and `alike extract --cluster`, each after a change of the
set or the settings. Two kills, or 100 by `ALIKE_FULL=1`, or `ALIKE_KILLS`;
`ALIKE_SEED` chooses other moments.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from changing_set import RIGHT, Place, without_prefect

from alike.extract.store.store import Store
from alike.extract.store.verification import verify
from alike.flows import run as whole_run
from alike.flows.memo import Memo

KILLS = int(os.environ.get("ALIKE_KILLS", "100" if os.environ.get("ALIKE_FULL") == "1" else "2"))
ROOT = Path(__file__).parents[2]
COMMAND = "from alike.flows.cli import main; main()"
SCHEDULED = """
import sys
from pathlib import Path
from alike.flows.orchestration import prepare
prepare(Path(sys.argv[1]).parent / "out", quiet=False)
from alike.flows.pipeline import scheduled
scheduled(sys.argv[1])
"""
KINDS = ("add", "remove", "rename", "relabel", "corrupt", "restore", "setting")
SECONDS = 4.0
"""A run takes about that long from its first file on."""


def start(way, place):
    """Start a run of the settings, or an extraction of them by two workers."""
    file = place.write_settings("out")
    commands = {
        "run": (COMMAND, "run", file),
        "scheduled": (SCHEDULED, file),
        "workers": (
            COMMAND, "extract", place.folder / "set", "--network", f"{place.folder}/net.py:small",
            "--weights", "none", "--seed", place.now["network_seed"],
            "--store", place.folder / "out" / "store", "--cluster", 2,
        ),
    }  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    return subprocess.Popen(
        [sys.executable, "-c", *map(str, commands[way])],
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def stamps(folder):
    """When the files of a run's folder were written; Prefect's own do not tell of work."""
    files = [*folder.glob("*.*"), *folder.glob("store/**/*")]
    return {file: file.stat().st_mtime_ns for file in files if file.exists()}


def wait_for_work(folder, run):
    """Wait until a run writes its first file, or has ended."""
    before = stamps(folder)
    while run.poll() is None and stamps(folder) == before:
        time.sleep(0.02)


def kill_all(run):
    """End a run and all that it started, each by its number."""
    family = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
    run.kill()
    for one in family:
        if one.is_running():
            one.kill()
    psutil.wait_procs(family, timeout=30)


def assert_pictures_are_owned(folder):
    """Every picture in the store is of a step that ended, or will be removed by the next one."""
    memo = Memo(folder)
    keys = Store.open(folder / "store").groups()
    owned = {file for key in keys for file in memo.unchanged(f"explain {key}")}
    assert set(folder.glob("store/explanations/**/*.*")) <= owned


def test_a_killed_run_is_as_if_it_had_not_been(tmp_path, monkeypatch):
    chance = np.random.default_rng(int(os.environ.get("ALIKE_SEED", "0")))
    without_prefect(monkeypatch)
    monkeypatch.setattr(whole_run, "_report", lambda run, before, rounds, path, past: path.touch())
    place = Place(tmp_path, now={**RIGHT, "examples": 2, "confused": 1, "bootstrap": 100})
    assert not isinstance(place.run(), str)
    ended_early = 0
    for number in range(KILLS):
        for _ in range(2):
            place.change(KINDS[chance.integers(len(KINDS))], int(chance.integers(60)))
        way = ("run", "workers", "scheduled")[number % 3]
        run = start(way, place)
        wait_for_work(tmp_path / "out", run)
        time.sleep(float(chance.uniform(0, SECONDS)))
        ended_early += run.poll() is not None
        kill_all(run)
        sys.stderr.write(f"kill {number + 1}: {way} {run.communicate()[1][-300:]}\n")
        tables, fresh = place.run(), place.run(f"fresh{number}")
        if isinstance(fresh, str):
            assert tables == fresh
            continue
        assert tables.keys() == fresh.keys()
        for name in fresh:
            pd.testing.assert_frame_equal(tables[name], fresh[name], rtol=0, atol=1e-9, obj=name)
        assert verify(Store.open(tmp_path / "out" / "store"), mark=False).damage == ()
        assert_pictures_are_owned(tmp_path / "out")
        shutil.rmtree(tmp_path / f"fresh{number}")
    sys.stderr.write(f"{KILLS} kills, {ended_early} of them of runs that had ended\n")
