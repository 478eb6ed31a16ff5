"""`kill -9` in the middle of a run; then it goes on to the same weights, bit for bit."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import train_digits

from train.run_log import CHECKPOINT

ROOT = Path(__file__).parents[2]


def test_killed_run_goes_on_to_the_same_weights(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    undisturbed = train_digits.train(whole, epochs=15)

    process = subprocess.Popen(
        [sys.executable, train_digits.__file__, str(broken), "1", "15", "centre"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    log = broken / "run" / "log.csv"
    deadline = time.monotonic() + 120
    while not (broken / "run" / CHECKPOINT).is_file() or len(pd.read_csv(log)) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (broken / "run" / "weights.safetensors").exists()

    resumed = train_digits.train(broken, epochs=15)
    assert any(decision.startswith("resumed") for decision in resumed.decisions)
    assert resumed.weights.read_bytes() != b""
    assert resumed.weights_hash == undisturbed.weights_hash
    columns = [name for name in undisturbed.log if name != "seconds"]
    pd.testing.assert_frame_equal(resumed.log[columns], undisturbed.log[columns])
    pd.testing.assert_frame_equal(resumed.steps, undisturbed.steps)
    assert not (broken / "run" / CHECKPOINT).exists()

    again = train_digits.train(broken, epochs=15)
    assert again.decisions[-1].startswith("already trained")
    assert again.weights_hash == undisturbed.weights_hash

    other = train_digits.train(broken, epochs=1)
    assert other.weights_hash != undisturbed.weights_hash
    assert len(other.log) == 1
