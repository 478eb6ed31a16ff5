"""`[retrain] processes`: torchrun's processes train what one process trains, and may be killed."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import psutil
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from alike.extract.errors import BadInput
from alike.extract.progress import silent
from alike.flows import train_process, train_processes
from alike.flows.decisions import origin_of
from alike.flows.settings import read_pipeline
from alike.flows.steps import load
from alike.flows.train_processes import (
    JOB,
    SAID,
    ProcessesEnded,
    retrain_by_processes,
    shown_command,
)
from alike.train.retrain import Diverged
from alike.train.run_log import CHECKPOINT

FULL = os.environ.get("ALIKE_FULL") == "1"
SETTINGS = """
[images]
source = "photos"
[network]
name = "small.py:small"
[extract]
device = "cpu"
[retrain]
when = "sameness < 0.9"
{lines}
[output]
folder = "out"
"""
NETWORK = """
from torch import nn

TRANSFORM = {"resize": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}


def small(classes=10):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(16, classes),
    )
"""
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


def pipeline_of(folder, lines):
    (folder / "pipeline.toml").write_text(SETTINGS.format(lines=lines))
    return read_pipeline(folder / "pipeline.toml")


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """120 digits in a folder, as (path, label)."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    digits = load_digits()
    (tmp_path / "small.py").write_text(NETWORK)
    images = []
    for number in range(120):
        label = str(digits.target[number])
        path = f"{label}/{number:03}.png"
        file = tmp_path / "photos" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).convert("RGB").save(file)
        images.append((path, label))
    return images


def retrained(pipeline, labelled, out, progress=silent, tell=print, **settings):
    wanted = pipeline.retrain.train_settings().changed(epochs=3, validation=0.0, **settings)
    return retrain_by_processes(pipeline, "none", (labelled, []), wanted, out, progress, tell)


def children():
    return psutil.Process().children(recursive=True)


def test_a_killed_process_ends_the_run_which_goes_on_from_its_checkpoint(tmp_path, labelled):
    pipeline, out = pipeline_of(tmp_path, "processes = 2"), tmp_path / "run"
    # Tests before this one may have left some.
    others, killed = children(), []

    def kill_one(stage, done, total, note=""):
        """As soon as there is a checkpoint: the process that is not the first."""
        if not killed and (out / CHECKPOINT).exists():
            ranks = {
                one.environ().get("RANK"): one for one in children() if "RANK" in one.environ()
            }
            ranks["1"].kill()
            killed.append(ranks["1"].pid)

    wanted = pipeline.retrain.train_settings().changed(epochs=30, validation=0.0, seed=2)

    def run(progress):
        images = (labelled, [])
        return retrain_by_processes(
            pipeline, "none", images, wanted, out, progress, print, save_every=0.0
        )

    with pytest.raises(ProcessesEnded, match=r"2 processes ended before its time: .*-9") as ended:
        run(kill_one)
    assert "goes on from its last checkpoint" in str(ended.value)
    assert killed
    assert set(children()) <= set(others)
    assert not (out / JOB).exists()
    done = run(silent)
    assert "resumed from the checkpoint of a run that had been cut short" in done.decisions
    assert done.log["epoch"].tolist() == list(range(1, 31))


def test_what_a_network_prints_is_no_progress(tmp_path, labelled):
    """Python's prints go to the log of the processes."""
    words = "print('weights of mine', '[1, 2]', sep='\\n')\n"
    (tmp_path / "small.py").write_text(
        words + NETWORK.replace("    return", f"    {words}    return")
    )
    seen, out = [], tmp_path / "run"
    run = retrained(
        pipeline_of(tmp_path, "processes = 2"), labelled, out, lambda *told: seen.append(told)
    )
    assert len(run.log) == 3
    assert {told[0] for told in seen} == {"read", "train"}
    assert "weights of mine" in (out / SAID).read_text()


def test_two_machines_meet_and_refusals_are_those_of_the_training(tmp_path, labelled):
    """Two agents of torchrun stand for two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        lines = f'nodes = 2\nrendezvous = "127.0.0.1:{free.getsockname()[1]}"'
    pipeline, out = pipeline_of(tmp_path, lines), tmp_path / "run"
    started, seen = [], []

    def other_machine(line):
        command = shown_command(pipeline.retrain, out)
        assert line.endswith(command)
        arguments = command.removeprefix("torchrun ").split()
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *arguments],
                stdout=subprocess.PIPE,
                text=True,
            )
        )

    try:
        run = retrained(
            pipeline, labelled, out, lambda *what: seen.append(what[0]), other_machine, seed=1
        )
        said, _ = started[0].communicate(timeout=60)
    finally:
        # Nothing of it stays for the tests that follow.
        for one in started:
            one.kill()
            one.wait()
            one.stdout.close()
    assert started[0].returncode == 0
    # The first process is on one of the two, as torchrun has it, and alone tells how far it is.
    there = [json.loads(line)[0] for line in said.splitlines()]
    assert {"read", "train"} == set(seen or there)
    assert not (seen and there)
    assert len(run.log) == 3
    assert load(pipeline, str(run.weights)).weights_hash == run.weights_hash
    assert "already trained" not in " ".join(run.decisions)
    if FULL:
        with pytest.raises(Diverged, match="training diverged"):
            retrained(pipeline_of(tmp_path, "processes = 2"), labelled, tmp_path / "b", lr=1e30)


@pytest.mark.quick
@pytest.mark.parametrize("code", [None, 0, 1, 143])
def test_whatever_process_is_done_leaves_at_once(code, tmp_path, monkeypatch):
    """Not the first alone: another that took its libraries apart aborted, and failed the run."""

    def train(_path):
        if code is not None:
            raise SystemExit(code)

    class Left(Exception):
        pass

    def leave():
        raise Left

    monkeypatch.setattr(train_process, "train", train)
    monkeypatch.setattr(train_process, "leave", leave)
    monkeypatch.setattr(train_process, "end_with_parent", lambda _parent: None)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "job.json")])
    with pytest.raises(SystemExit if code else Left):
        train_process.main()


@pytest.mark.quick
def test_a_killed_torchrun_is_the_cause_whatever_its_processes_said(tmp_path):
    """They end with it, and complain of each other."""
    (tmp_path / SAID).write_text("[rank1]: RuntimeError: Connection closed by peer\n")
    assert train_processes._cause(-9, tmp_path) == "torchrun was ended by signal 9"
    assert train_processes._cause(1, tmp_path).endswith("Connection closed by peer")


@pytest.mark.quick
def test_processes_change_no_network(tmp_path, labelled):
    one = pipeline_of(tmp_path, "")
    several = pipeline_of(tmp_path, "processes = 2")
    assert one.retrain.world == (1, 1)
    assert several.retrain.world == (2, 1)
    assert origin_of(one) == origin_of(several)
    assert origin_of(one) != origin_of(pipeline_of(tmp_path, "epochs = 3"))
    assert "processes" not in one.model_dump(mode="json")["retrain"]
    with pytest.raises(BadInput, match="nodes above 1: give rendezvous"):
        pipeline_of(tmp_path, "nodes = 2")
    with pytest.raises(BadInput, match="processes"):
        pipeline_of(tmp_path, "processes = 0")
