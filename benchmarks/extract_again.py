"""What a second run, a few new images, and ten times the images cost.

    python -m benchmarks.extract_again [--images 100000]
    python -m benchmarks.extract_again --images 5000 --side 256 --network mobilenet_v2 --weights W

Writes JPEGs into class folders and extracts `last_conv`, `fc` and `logits`, by default of a small
network. Every run is a process of its own, so that its peak memory is its own, and is told when its
listing (walk, read, hash) is done. Printed: seconds of the first run, of the second (no forward
pass), of one with 1 % new images, each with what lies beyond the listing, also as a share of the
first run; and peak resident memory of first runs over a tenth and over all of the images.
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
from alike.extract.networks import load_network
from alike.extract.pipeline import extract
from alike.extract.images import open_source
from alike.extract.store import Store

def note(stage, done, total, said=""):
    if stage == "list":
        listed.append(time.perf_counter())

listed = []
start = time.perf_counter()
network = load_network(sys.argv[1], sys.argv[2])
source = open_source(sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.perf_counter()
store = Store.open(sys.argv[4], create=True)
report = extract(source, network, store, device="cpu", progress=note)
end = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": end - start, "listing": listed[-1] - begun,
    "computed": report.n_computed, "rows": report.n_rows, "stages": dict(report.stages),
    "peak_mb": peak / 1024, "before_mb": before / 1024}))
"""


def write_images(folder: Path, first: int, count: int, side: int) -> None:
    """`count` different square JPEGs, in 10 class folders."""
    for number in range(first, first + count):
        noise = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        place = folder / f"class-{number % 10}" / f"{number:07d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((side, side)).save(place)


def run(network: tuple[str, str], folder: Path, store: Path) -> dict[str, float]:
    """One extraction in a process of its own."""
    command = [sys.executable, "-c", RUN, *network, str(folder), str(store)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, and print one line a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--network", help="another than the small one")
    parser.add_argument("--weights", default="none")
    options = parser.parse_args()
    count, side = options.images, options.side
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "net.py").write_text(NETWORK)
        network = (options.network or f"{place}/net.py:net", options.weights)
        write_images(place / "tenth", 0, count // 10, side)
        write_images(place / "all", 0, count, side)
        show(f"first run, {count // 10} images", run(network, place / "tenth", place / "s10"))
        whole = run(network, place / "all", place / "s")
        show(f"first run, {count} images", whole)
        show("second run", run(network, place / "all", place / "s"), whole)
        write_images(place / "all", count, count // 100, side)
        show("1 % new images", run(network, place / "all", place / "s"), whole)


def show(name: str, found: dict[str, float], whole: dict[str, float] | None = None) -> None:
    """One line, and the same as JSON."""
    beyond = found["seconds"] - found["listing"]
    share = f", {beyond / whole['seconds']:.2%} of the first run" if whole else ""
    print(
        f"{name:<26} {found['seconds']:7.1f} s, {beyond:7.2f} s beyond listing{share}; "
        f"{found['computed']:.0f} computed of {found['rows']:.0f}; peak {found['peak_mb']:.0f} MB, "
        f"{found['before_mb']:.0f} MB before"
    )
    print(json.dumps({"run": name, "at": time.time(), **found}), flush=True)


if __name__ == "__main__":
    main()
