"""How much faster two Dask workers extract than one, each with one thread on a core of its own.

    python -m benchmarks.workers [--images 4096] [--network mobilenet_v2] [--turns 2]

Writes JPEGs, starts a scheduler with two workers, and extracts the same images into new stores by
one and by two of them in turns, random weights, listing included. Every worker has loaded the
network before. Printed: images a second of both, and their ratio, a line a turn.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks.extract_again import write_images


def pin(dask_worker) -> None:
    """Give a worker one core of those that there are: its threads share it."""
    cores = sorted(os.sched_getaffinity(0))
    own = {cores[int(dask_worker.name) % len(cores)]}
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), own)


def seconds(address: str, network, images: Path, store: Path) -> float:
    """Of an extraction into a new store."""
    from alike.extract.distributed import extract_distributed
    from alike.extract.images import open_source
    from alike.extract.store import Store

    opened = Store.open(store, create=True)
    # Searched by the process that lists, after the workers are done.
    opened.set_twins("ignore")
    began = time.perf_counter()
    extract_distributed(
        open_source(str(images)), network, opened, workers=address, taps=("fc",), threads=1
    )
    return time.perf_counter() - began


def main() -> None:
    """Measure, and print a line a turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--turns", type=int, default=2)
    asked = parser.parse_args()

    from distributed import Client, LocalCluster

    from alike.extract.networks import load_network

    network = load_network(asked.network, "none")
    with tempfile.TemporaryDirectory() as top:
        place = Path(top)
        write_images(place / "few", 0, 40, asked.side)
        write_images(place / "all", 0, asked.images, asked.side)
        one, two = (
            LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None)
            for count in (1, 2)
        )
        with one, two:
            for cluster in (one, two):
                with Client(cluster) as client:
                    client.run(pin)
            for turn in range(-1, asked.turns):
                rates = []
                for number, cluster in enumerate((one, two)):
                    images = place / ("few" if turn < 0 else "all")
                    store = place / f"store-{turn}-{number}"
                    took = seconds(cluster.scheduler_address, network, images, store)
                    rates.append(asked.images / took)
                if turn >= 0:
                    print(
                        f"one worker {rates[0]:.1f} images/s, two {rates[1]:.1f}, "
                        f"x {rates[1] / rates[0]:.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
