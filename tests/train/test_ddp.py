"""Two processes on the CPU train one network, by the losses of the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import train_digits
from safetensors import safe_open
from torch import nn

from alike.train.whole_batch import gathered, own_statistics, part_of, share_statistics

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("ALIKE_FULL") == "1"
SINGLE = (sys.executable, "-W", "error")


def two_processes(folder, loss):
    return subprocess.run(
        [*SINGLE, train_digits.__file__, str(folder), "2", "2", loss],
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DROPOUT": "0.0",
        },
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip


def steps_of(folder):
    return pd.read_csv(folder / "run" / "steps.csv")


@pytest.mark.parametrize("loss", ["gap_supcon", *(["cam_supcon", "icnn"] if FULL else [])])
def test_two_processes_give_the_losses_of_one(tmp_path, monkeypatch, loss):
    """Contrasts over all pairs, masks of positions, BatchNorm: all of the whole batch."""
    both, single = tmp_path / "both", tmp_path / "single"
    for folder in (both, single):
        folder.mkdir()
    done = two_processes(both, loss)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 64, "only the first process reports"
    monkeypatch.setenv("DROPOUT", "0.0")
    train_digits.train(single, devices=1, epochs=2, loss=loss)
    here, there = steps_of(both), steps_of(single)
    assert here["step"].tolist() == there["step"].tolist()
    assert len(here) == 12, "200 images in batches of 32, twice"
    # The first loss is that of the same weights; rounding grows from step to step.
    np.testing.assert_allclose(here.iloc[0], there.iloc[0], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(here["loss"], there["loss"], rtol=2e-3)
    assert np.ptp(there["loss"]) > 0.1, "the network learns"
    with (
        safe_open(both / "run" / "weights.safetensors", "pt") as one,
        safe_open(single / "run" / "weights.safetensors", "pt") as other,
    ):
        assert "train_ids_hash" in one.metadata()
        for name in other.keys():  # noqa: SIM118
            np.testing.assert_allclose(
                one.get_tensor(name).float(), other.get_tensor(name).float(), rtol=0.02, atol=0.02
            )


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    """A pair loss behind BatchNorm, with parts of other lengths, in processes started here."""
    size = 7
    code = """
import os, sys, torch
from pathlib import Path
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[3])
from test_ddp import loss_of, network
from alike.flows.train_process import leave
from alike.train.whole_batch import gathered, part_of, share_statistics
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
net, images = network(int(sys.argv[4]))
share_statistics(net)
net = DistributedDataParallel(net)
loss_of(gathered(net(images[part_of(len(images), rank, 2)]), len(images))).backward()
state = {name: one.grad for name, one in net.module.named_parameters()}
state |= {f"buffer {name}": one for name, one in net.module.named_buffers()}
torch.save(state, sys.argv[2] + f".{rank}")
leave()
"""
    place = str(tmp_path / "meet")
    arguments = [place, str(Path(__file__).parent), str(size)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [one.wait(300) for one in started] == [0, 0]
    net, images = network(size)
    loss_of(net(images)).backward()
    alone = {name: one.grad for name, one in net.named_parameters()}
    alone |= {f"buffer {name}": one for name, one in net.named_buffers()}
    for rank in range(2):
        state = torch.load(f"{place}.{rank}")
        assert state.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-9)


def network(size):
    """A network with BatchNorm, and images of (size, 3, 6, 6)."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4),
        nn.BatchNorm1d(4, momentum=None),
    )  # fmt: skip
    return net.double(), torch.randn(size, 3, 6, 6).double()


def loss_of(features):
    """Of all pairs, so that no part of the batch has a loss of its own."""
    return (features @ features.T).logsumexp(1).square().sum()


@pytest.mark.quick
def test_parts_cover_a_batch_and_a_single_process_has_all():
    for size in range(1, 40):
        for world in (1, 2, 3, 7):
            parts = [range(size)[part_of(size, rank, world)] for rank in range(world)]
            assert [row for part in parts for row in part] == list(range(size))
    values = torch.randn(3, 2)
    assert gathered(values, 3) is values
    net = nn.Sequential(nn.BatchNorm2d(2))
    images = torch.randn(4, 2, 3, 3)
    wanted = net(images)
    share_statistics(net)
    torch.testing.assert_close(net(images), wanted)
    own_statistics(net)
    assert "forward" not in vars(net[0])
