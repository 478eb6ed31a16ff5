"""`kill -9` in the middle of a run; then it goes on to the same weights, bit for bit."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
import train_digits
from safetensors.torch import load_file

from alike.extract.errors import BadInput
from alike.train.retrain import Diverged
from alike.train.run_files import begin_run, check_out
from alike.train.run_log import CHECKPOINT, checkpoint_of
from alike.train.trained_images import trained_images

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
    what_is_no_checkpoint_is_told(broken / "run")

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

    with pytest.raises(Diverged):
        train_digits.train(broken, epochs=1, lr=1e30)
    # A run with other settings replaces this one when it has weights, not before.
    assert load_file(resumed.weights).keys() == load_file(undisturbed.weights).keys()
    assert len(trained_images(resumed.weights))

    other = train_digits.train(broken, epochs=1)
    assert other.weights_hash != undisturbed.weights_hash
    assert len(other.log) == 1
    assert other.decisions[-1].endswith(
        "held the weights of another run, or unfinished ones: replaced"
    )


def what_is_no_checkpoint_is_told(out):
    """Torch reads past the checksum that it wrote."""
    path = out / CHECKPOINT
    whole = path.read_bytes()
    (state,) = torch.load(path, weights_only=True)["callbacks"].values()
    assert checkpoint_of(out, state["fingerprint"]) == path
    with zipfile.ZipFile(path) as file:
        largest = max(file.infolist(), key=lambda one: one.file_size)
    at = largest.header_offset + largest.file_size // 2 + 64
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert torch.load(path, weights_only=True)
    assert checkpoint_of(out, state["fingerprint"]) is None
    # Nor is one counted that another version wrote, without what going on takes.
    path.write_bytes(whole)
    other = torch.load(path, weights_only=True)
    del other["alike"]
    torch.save(other, path)
    assert checkpoint_of(out, state["fingerprint"]) is None
    path.write_bytes(whole)


@pytest.mark.quick
def test_files_that_no_run_wrote_are_left_alone(tmp_path):
    """Names such as log.csv are common, and a run writes over them."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "log.csv").write_text("mine")
    with pytest.raises(BadInput, match=r"holds log\.csv, which no retraining wrote"):
        train_digits.train(tmp_path, epochs=1)
    assert (out / "log.csv").read_text() == "mine"
    (out / "train_images.parquet").touch()
    check_out(out, "none")
    # A checkpoint that is not gone on from is hours of work: it does not go in silence.
    (out / CHECKPOINT).write_bytes(b"torn")
    (told,) = begin_run(out, anew=True)
    assert told.endswith("the training began anew")
    assert not (out / CHECKPOINT).exists()
    assert begin_run(out, anew=True) == []
    (out / "run.json").mkdir()
    with pytest.raises(BadInput, match=r"run\.json is no plain file"):
        check_out(out, "none")
    with pytest.raises(BadInput, match="holds the weights to start from"):
        check_out(out, str((out / "weights.safetensors").resolve()))


def test_terminated_run_does_not_end_as_if_it_were_finished(tmp_path):
    assert ended(tmp_path, 20, "SIGTERM") == 128 + signal.SIGTERM
    assert not (tmp_path / "run" / "weights.safetensors").exists()
