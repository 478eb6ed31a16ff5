"""Averages of the weights along a run: what they are, that a run ends with them, and goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import train_digits
from digit_images import Digits
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.networks import Transform, load_network
from alike.train.average import MEMORY, WeightAverage
from alike.train.retrain import retrain
from alike.train.run_log import CHECKPOINT
from alike.train.settings import TrainSettings

ROOT = Path(__file__).parents[2]


def averaged(kind, values):
    """What the average of a weight is that has had these values, one a step."""
    net = nn.Linear(1, 1, bias=False)
    average = WeightAverage(net, kind)
    for step, value in enumerate(values, 1):
        nn.init.constant_(net.weight, value)
        average.see(net, step, total=len(values))
    average.write_to(net)
    return net.weight.item()


@pytest.mark.quick
def test_stochastic_weight_averaging_is_the_mean_of_the_second_half():
    values = np.random.default_rng(0).standard_normal(31)
    assert averaged("swa", values) == pytest.approx(values[15:].mean(), abs=1e-6)


def test_an_exponential_average_is_written_out():
    values = np.random.default_rng(1).standard_normal(200)
    memory = MEMORY * len(values)
    expected = 0.0
    for count, value in enumerate(values, 1):
        share = max(1 / count, 1 / memory)
        expected += share * (value - expected)
    assert averaged("ema", values) == pytest.approx(expected, abs=1e-5)
    # The first twenty steps are a plain mean, and a constant stays one.
    assert averaged("ema", [2.5] * 50) == 2.5


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_a_killed_run_goes_on_to_the_same_average(average, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    undisturbed = train_digits.train(whole, epochs=8, average=average)
    arguments = [str(broken), "1", "8", "centre", average, "45", "SIGKILL"]
    status = subprocess.run(
        [sys.executable, train_digits.__file__, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    ).returncode
    assert status == -signal.SIGKILL
    assert (broken / "run" / CHECKPOINT).is_file()
    resumed = train_digits.train(broken, epochs=8, average=average)
    assert any(decision.startswith("resumed") for decision in resumed.decisions)
    assert resumed.weights_hash == undisturbed.weights_hash
    (tmp_path / "last").mkdir()
    last = train_digits.train(tmp_path / "last", epochs=8)
    assert last.weights_hash != undisturbed.weights_hash


def test_statistics_are_measured_again_for_averaged_weights(tmp_path):
    digits = Digits(count=80)
    network = load_network("squeezenet1_1", transform=Transform(resize=(32, 32)), seed=1)
    without = retrain(
        network, digits.images, digits.read, epochs=1, average="swa", out=tmp_path / "without"
    )
    assert not any("BatchNorm" in decision for decision in without.decisions)
    network = load_network("resnet18", transform=Transform(resize=(32, 32)), seed=1)
    run = retrain(network, digits.images, digits.read, epochs=1, average="swa", out=tmp_path / "a")
    said = "statistics of 20 BatchNorm layers measured again"
    assert any(decision.startswith(said) for decision in run.decisions)
    assert any("since the weights are averages" in decision for decision in run.decisions)


def test_an_average_and_early_stopping_exclude_each_other():
    with pytest.raises(BadInput, match="average = 'ema' with patience = 3"):
        TrainSettings(average="ema", patience=3)
    with pytest.raises(BadInput, match="average = 'mean'"):
        TrainSettings(average="mean")
