"""Two processes on the CPU train one network."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import train_digits
from safetensors import safe_open

ROOT = Path(__file__).parents[2]


def test_two_processes_train_one_network(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            train_digits.__file__,
            str(tmp_path),
            "2",
            "3",
            "gap_supcon",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 64, "only the first process reports"
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["step"].tolist() == [3, 6, 9], "200 images in batches of 32 on 2 processes"
    assert log["loss"].iloc[-1] < log["cross_entropy"].iloc[0] + 2.0
    with safe_open(tmp_path / "run" / "weights.safetensors", "pt") as file:
        assert "train_ids_hash" in file.metadata()
