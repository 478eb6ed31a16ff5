"""A million images on one machine: seconds, memory, and how both grow from a tenth of the images.

    python -m benchmarks.million                         100,000 and 1,000,000 rows of 512 numbers
    python -m benchmarks.million --images 20000 --steps index,query

Features of 1,000 classes are drawn and written into a store; then every step runs as a user runs
it, a command in a process of its own, whose peak memory is its own. The analysis is of all images
and all pairs that its default budget allows, and beside it stands what its matrix products alone
take. Needs 20 GB on the disk: the store, and in the folder for temporary files the vectors and
twice what candidates of neighbours may take.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alike.analysis.analyse import BUDGET
from alike.analysis.outlook import Load, most_images
from alike.extract.machine import usable_cores

CLASSES, DIM = 1000, 512
STEPS = {
    "verify": ["store", "verify", "STORE"],
    "index": ["index", "--store", "STORE"],
    "query": ["neighbours", "17", "--store", "STORE", "--json"],
    "analyse": ["analyse", "--store", "STORE", "--split", "all", "--measures", "gap_cosine"],
    "export": ["export", "--store", "STORE", "--to", "OUT.parquet"],
    "grow": [],
    "index 1 % more": ["index", "--store", "STORE"],
}
"""Arguments of `alike`; an empty list is done here."""


@dataclass(frozen=True)
class Took:
    """What a step took: seconds on the clock, processor seconds, peak memory in bytes."""

    wall: float
    cpu: float
    peak: int
    status: int


def measured(command: list[str]) -> Took:
    """Run a command, and wait for what it used."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.stderr.write(output.read().decode()[-2000:])
    wall = time.perf_counter() - start
    return Took(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, process.returncode)


def write(place: str, first: int, n: int) -> None:
    """Add images first..first + n - 1 to a store, with features in clusters, rectified."""
    from alike.extract.store import Store
    from benchmarks.store import EXTRACTION, listing

    fixed = np.random.default_rng(0).standard_normal((CLASSES, DIM), dtype=np.float32)
    images = listing(first + n)
    codes = np.random.default_rng(1).permutation(first + n) % CLASSES
    images["label"] = [f"{code:04d}" for code in codes]
    store = Store.open(place, create=True)
    rows = store.list_images(images)["row"].to_numpy()
    by_row = np.empty(len(rows), dtype=np.int64)
    by_row[rows] = codes
    facts = {**EXTRACTION, "network": "drawn", "weights": "none", "taps": ["gap"]}
    features = store.create_features(facts, "drawn-0", {"gap": ((DIM,), "float32")})
    for unit in features.pending(["gap"]):
        at = features.unit_rows(unit)
        draw = np.random.default_rng((2, unit))
        noise = draw.standard_normal((at.stop - at.start, DIM), dtype=np.float32)
        gap = np.maximum(0.5 * fixed[by_row[at.start : at.stop]] + noise, 0)
        features.write_unit(unit, {"gap": gap})


def bare_products(n: int) -> tuple[float, float]:
    """Seconds of the products of n vectors: each pair in float32, each image with all in bfloat16.

    Pairs are counted by the first, neighbours found by the second where a processor has it. On all
    cores, by tiles of the sizes that the analysis multiplies, for a second each.
    """
    from alike.analysis.blocks import best_product, coarse_bits, one_thread_each, rounded
    from alike.analysis.neighbours.coarse import COLUMNS, ROWS
    from alike.analysis.pairs import TILE

    draw = np.random.default_rng(0)
    x = draw.standard_normal((COLUMNS, DIM), dtype=np.float32)
    product, near = best_product(DIM, np.inf), rounded(x)[0]
    tiles = (
        (TILE * TILE, lambda room: product(x[:TILE], x[TILE : 2 * TILE], room)),
        (ROWS * COLUMNS, lambda room: coarse_bits(near[:ROWS], near)),
    )

    def rate(tile: tuple[int, Callable[[Any], object]]) -> float:
        pairs, multiply = tile
        room = np.empty((TILE, TILE), dtype=np.float32)
        multiply(room)
        done, start = 0, time.perf_counter()
        while time.perf_counter() < start + 1.0:
            multiply(room)
            done += pairs
        return done / (time.perf_counter() - start)

    cores = usable_cores()
    with one_thread_each(), ThreadPoolExecutor(cores) as pool:
        float32, bfloat16 = (sum(pool.map(rate, [tile] * cores)) for tile in tiles)
    return n**2 / 2 / float32, n**2 / bfloat16


def table(folder: Path, n: int, steps: list[str]) -> dict[str, Took]:
    """Every step on n images."""
    store, out = str(folder / f"{n}.store"), str(folder / f"{n}")
    here = [sys.executable, "-m", "benchmarks.million", "--write", store]
    found = {"write": measured([*here, "0", str(n)])}
    for name in steps:
        arguments = [one.replace("STORE", store).replace("OUT", out) for one in STEPS[name]]
        command = (
            [sys.executable, "-m", "alike", *arguments]
            if arguments
            else [*here, str(n), str(n // 100)]
        )
        found[name] = measured(command)
        took = found[name]
        print(
            f"{n:>9,} {name:<16} {took.wall:8.1f} s {took.cpu:8.1f} CPU s "
            f"{took.peak / 1e9:6.2f} GB peak{'' if took.status == 0 else '   FAILED'}",
            flush=True,
        )
        if name == "analyse":
            evaluated = min(n, most_images(BUDGET, DIM))
            float32, bfloat16 = bare_products(evaluated)
            load = Load(evaluated, DIM, n, largest=n // CLASSES)
            guess = load.seconds(intervals=True) / usable_cores()
            print(
                f"{n:>9,} bare products of the {evaluated:,} images: {float32:.1f} s in float32, "
                f"{bfloat16:.1f} s in bfloat16; the analysis takes "
                f"{took.wall / (float32 + bfloat16):.2f} times both; guessed before: {guess:.0f} s",
                flush=True,
            )
    size = sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file())
    print(f"{n:>9,} bytes a row of the store: {size / n:.0f}", flush=True)
    shutil.rmtree(store)
    return found


def main() -> int:
    """Measure at each size, and print how steps grow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="100000,1000000", help="sizes, ascending")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--folder", type=Path, help="for the stores; None: a temporary one")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write(given.write[0], int(given.write[1]), int(given.write[2]))
        return 0
    sizes, steps = [int(float(n)) for n in given.images.split(",")], given.steps.split(",")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        tables = [table(Path(folder), n, steps) for n in sizes]
    for few, many, small, large in zip(tables, tables[1:], sizes, sizes[1:], strict=False):
        print(f"from {small:,} to {large:,} images, {large / small:.0f} times as many:")
        for name in few:
            a, b = few[name], many[name]
            print(f"  {name:<16} {b.cpu / a.cpu:6.1f} x CPU, {b.peak / a.peak:5.1f} x memory")
    return int(any(took.status for one in tables for took in one.values()))


if __name__ == "__main__":
    sys.exit(main())
