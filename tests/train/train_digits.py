"""Trains on digits as a process of its own: `python train_digits.py FOLDER DEVICES EPOCHS LOSS`.

A fifth argument is the number of epochs after which it waits to be killed.
"""

import sys
import time
from pathlib import Path

import torch
from digit_images import Digits, write_network

from extract.network import load_network
from train.retrain import retrain


def train(folder: Path, *, devices=1, epochs=6, loss="centre", progress=None):
    torch.set_num_threads(1)
    digits = Digits()
    network = load_network(write_network(folder), args={"dropout": 0.3})
    changes = {} if progress is None else {"progress": progress}
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


if __name__ == "__main__":
    place, devices, epochs, loss, *stop = sys.argv[1:]

    def wait(stage: str, done: int, total: int, note: str = "") -> None:
        """Stand still within the epoch after the last that is wanted."""
        log = Path(place) / "run" / "log.csv"
        if stop and log.is_file() and len(log.read_text().splitlines()) > int(stop[0]):
            sys.stdout.write("waiting\n")
            sys.stdout.flush()
            time.sleep(3600)

    run = train(Path(place), devices=int(devices), epochs=int(epochs), loss=loss, progress=wait)
    sys.stdout.write(run.weights_hash)
