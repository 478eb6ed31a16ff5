"""`kill -9` of `alike analyse` half way: the next one goes on from there. Needs `ALIKE_FULL=1`."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.stored import Analysis
from alike.extract.store.arrays import UNIT
from alike.extract.store.store import Store

N, D, CLASSES = 24_000, 64, 20
KEY = "net-0123456789ab-0123456789ab-0123456789ab"
ROOT = Path(__file__).parents[2]
COMMAND = """
from alike.analysis.blocks import checkpoint
from alike.flows.cli import main
checkpoint.EVERY = 0.2
main()
"""


def filled(folder):
    """A store of features that need some 20 seconds to be analysed."""
    draw = np.random.default_rng(0)
    labels = np.arange(N) % CLASSES
    gap = draw.standard_normal((CLASSES, D))[labels] + 2 * draw.standard_normal((N, D))
    store = Store.open(folder, create=True)
    listing = pd.DataFrame(
        {
            "image_id": [f"{number:064x}" for number in draw.permutation(N)],
            "path": [f"{number}.png" for number in range(N)],
            "label": [f"class {label}" for label in labels],
            "size": 1, "state": "ok", "reason": "",
        }
    )  # fmt: skip
    store.list_images(listing)
    attrs = {"weights": "none", "weights_hash": "0", "network": "net"}
    features = store.create_features(attrs, KEY, {"gap": ((D,), "float32")})
    with features.lock():
        for unit in features.pending():
            rows = slice(unit * UNIT, min((unit + 1) * UNIT, N))
            features.write_unit(unit, {"gap": gap[rows].astype(np.float32)})
    return features


def blocks_of(features):
    """The analysis, and how many blocks each stage had to do."""
    totals = {}
    settings = AnalysisSettings(measures=("gap_euclid",), bootstrap=100)

    def progress(stage, done, total, note=""):
        totals[stage] = total

    analyse(features, settings, progress=progress)
    return Analysis.load(features.store, KEY).tables, totals


@pytest.mark.skipif(os.environ.get("ALIKE_FULL") != "1", reason="slow: set ALIKE_FULL=1")
def test_a_killed_analysis_goes_on_from_where_it_was(tmp_path):
    wanted, all_blocks = blocks_of(filled(tmp_path / "whole"))
    features = filled(tmp_path / "killed")
    command = ["analyse", "--store", tmp_path / "killed", "--measures", "gap_euclid"]
    run = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, command), "--bootstrap", "100"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    runs = tmp_path / "killed" / "runs"
    while run.poll() is None and not list(runs.rglob("*.npz")):
        time.sleep(0.02)
    assert run.poll() is None, "it ended before it had kept anything: give it more to do"
    run.kill()
    run.wait()
    kept = list(runs.rglob("*.npz"))
    assert kept
    tables, blocks = blocks_of(features)
    # Lists that were not made with the pairs are made in a stage of their own.
    saved = {stage: all_blocks[stage] - blocks[stage] for stage in blocks if stage in all_blocks}
    # Sums say up to which block they are, answers from which block on as well.
    ends = [file.stem.removeprefix("to-").split("-") for file in kept]
    done = sum(int(numbers[-1]) - (int(numbers[0]) if numbers[1:] else 0) for numbers in ends)
    assert sum(saved.values()) == done > 0
    for name in wanted:
        pd.testing.assert_frame_equal(tables[name], wanted[name], check_exact=True, obj=name)
    assert not list(runs.rglob("*.npz"))
