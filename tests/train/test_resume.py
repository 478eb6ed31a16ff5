"""`kill -9` in the middle of a run; then it goes on to the same weights, bit for bit."""

import os
import subprocess
import sys
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

    command = [sys.executable, train_digits.__file__, str(broken), "1", "15", "centre", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"waiting\n"
        process.kill()
    assert 3 <= len(pd.read_csv(broken / "run" / "log.csv")) < 15
    assert (broken / "run" / CHECKPOINT).is_file()
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
