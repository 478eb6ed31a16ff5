"""`kill -9` in the middle of a run; then it goes on to the same weights, bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import train_digits

from alike.train.run_log import CHECKPOINT

ROOT = Path(__file__).parents[2]


def ended(folder, step, name, average="none"):
    """The exit status of a run that sends itself a signal, so that no timing decides when."""
    arguments = [str(folder), "1", "15", "centre", average, str(step), name]
    return subprocess.run(
        [sys.executable, train_digits.__file__, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    ).returncode


def test_killed_run_goes_on_to_the_same_weights(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    undisturbed = train_digits.train(whole, epochs=15)

    assert ended(broken, 70, "SIGKILL") == -signal.SIGKILL
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


def test_terminated_run_does_not_end_as_if_it_were_finished(tmp_path):
    assert ended(tmp_path, 20, "SIGTERM") == 128 + signal.SIGTERM
    assert not (tmp_path / "run" / "weights.safetensors").exists()
