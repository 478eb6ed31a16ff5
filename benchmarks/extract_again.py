"""What a second run, a few new images, and ten times the images cost.

    python -m benchmarks.extract_again [--images 100000]

Writes small JPEGs into class folders and extracts vectors and maps of a small network. Every run is
a process of its own, so that its peak memory is its own. Printed: seconds of the first run, of the
second (no forward pass) with the share that hashing takes, of one with 1 % new images; and peak
resident memory of first runs over a tenth and over all of the images.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

NETWORK = """
from torch import nn

TRANSFORM = {}


def net():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(nn.Conv2d(3, 64, 3, 4), nn.ReLU(), head)
"""
RUN = """
import json, resource, sys, time
from extract.listing import list_source
from extract.network import load_network
from extract.pipeline import extract
from extract.source import open_source
from extract.store import Store

network = load_network(sys.argv[1])
source = open_source(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
list_source(source, 4)
hashing = time.perf_counter() - start
start = time.perf_counter()
report = extract(source, network, Store.open(sys.argv[3], create=True), device="cpu")
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "hashing": hashing, "computed": report.n_computed,
    "rows": report.n_rows, "peak_mb": peak / 1024, "before_mb": before / 1024}))
"""


def write_images(folder: Path, first: int, count: int) -> None:
    """`count` different JPEGs of 32x32 pixels, in 10 class folders."""
    for number in range(first, first + count):
        noise = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        place = folder / f"class-{number % 10}" / f"{number:07d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((32, 32)).save(place)


def run(network: str, folder: Path, store: Path) -> dict[str, float]:
    """One extraction in a process of its own."""
    command = [sys.executable, "-c", RUN, network, str(folder), str(store)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, and print one line a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    given = parser.parse_args()
    count = given.images
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "net.py").write_text(NETWORK)
        network = f"{place}/net.py:net"
        write_images(place / "tenth", 0, count // 10)
        write_images(place / "all", 0, count)
        show(f"first run, {count // 10} images", run(network, place / "tenth", place / "s10"))
        show(f"first run, {count} images", run(network, place / "all", place / "s"))
        show("second run", run(network, place / "all", place / "s"))
        write_images(place / "all", count, count // 100)
        show("1 % new images", run(network, place / "all", place / "s"))


def show(name: str, found: dict[str, float]) -> None:
    """One line, and the same as JSON."""
    beyond = found["seconds"] - found["hashing"]
    print(
        f"{name:<26} {found['seconds']:7.1f} s, {beyond:7.1f} s beyond hashing; "
        f"{found['computed']:.0f} computed of {found['rows']:.0f}; peak {found['peak_mb']:.0f} MB, "
        f"{found['before_mb']:.0f} MB before"
    )
    print(json.dumps({"run": name, "at": time.time(), **found}))


if __name__ == "__main__":
    main()
