"""Trains on digits as a process of its own.

python train_digits.py FOLDER DEVICES EPOCHS LOSS [AVERAGE [STEP at which it gets a SIGNAL]]

DROPOUT of the environment replaces its share of 0.3.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from digit_images import Digits, write_network

from alike.extract.networks.network import load_network
from alike.train.retrain import retrain


def train(folder: Path, *, devices=1, epochs=6, loss="centre", progress=None, **changes):
    torch.set_num_threads(1)
    digits = Digits()
    network = load_network(
        write_network(folder), args={"dropout": float(os.environ.get("DROPOUT", "0.3"))}
    )
    changes |= {} if progress is None else {"progress": progress}
    return retrain(
        network,
        digits.images,
        digits.read,
        out=folder / "run",
        loss=loss,
        epochs=epochs,
        device="cpu",
        devices=devices,
        save_every=0.0,
        seed=1,
        **changes,
    )


def ended_at(last, name):
    def progress(stage, done, total, note=""):
        if stage == "train" and done >= last:
            os.kill(os.getpid(), signal.Signals[name])

    return progress


if __name__ == "__main__":
    place, devices, epochs, loss, *more = sys.argv[1:]
    average, *end = more or ["none"]
    told = {"progress": ended_at(int(end[0]), end[1])} if end else {}
    told["average"] = average
    run = train(Path(place), devices=int(devices), epochs=int(epochs), loss=loss, **told)
    sys.stdout.write(run.weights_hash)
