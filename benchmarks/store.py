"""What the store costs beside numpy's memmap and plain zarr: `python benchmarks/store.py`.

Maps N x 512 x 7 x 7 float16 like a ReLU's output (66 % zeros) and vectors N x 512 float32, all in
one process, files warm in the page cache. CPU seconds per GB of decoded data are what other
machines can compare; wall times vary.
"""

import argparse
import hashlib
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from alike.extract.store import UNIT, Features, Store, verify

EXTRACTION = {"weights_hash": "00ab", "transform": {}, "precision": "float32", "taps": []}
ARRAYS = {"last_conv": ((512, 7, 7), "float16"), "gap": ((512,), "float32")}
GATHER = 1000


def main() -> None:
    """Measure, and print one line a measurement."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=4 * UNIT)
    options.add_argument("--listed", type=int, default=100_000)
    options.add_argument("--repeat", type=int, default=3)
    chosen = options.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        measure_rows(folder, chosen.images, chosen.repeat)
        measure_bookkeeping(folder, chosen.listed)
    finally:
        shutil.rmtree(folder)


def listing(n: int, seed: str = "") -> pd.DataFrame:
    """List n images that nobody has."""
    ids = [hashlib.sha256(f"{seed}{i}".encode()).hexdigest() for i in range(n)]
    paths = [f"{i % 100}/{i}.jpg" for i in range(n)]
    labels = [str(i % 100) for i in range(n)]
    return pd.DataFrame(
        {
            "image_id": ids,
            "path": paths,
            "label": labels,
            "size": 1,
            "state": "ok",
            "reason": "",
        }
    )


def cpu() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(what: str, size: int, call: Callable[[], object], repeat: int = 1) -> None:
    """Print the best of some calls: wall and CPU seconds, and both per GB."""
    best_wall = best_cpu = float("inf")
    for _ in range(repeat):
        wall, used = time.perf_counter(), cpu()
        call()
        best_wall = min(best_wall, time.perf_counter() - wall)
        best_cpu = min(best_cpu, cpu() - used)
    per_gb = f"{size / best_wall / 1e9:7.2f} GB/s {best_cpu / size * 1e9:7.2f} CPU s/GB"
    print(f"{what:<44} {best_wall:8.3f} s {best_cpu:8.3f} CPU s {per_gb}")


def measure_rows(folder: Path, n: int, repeat: int) -> None:
    """Write, scan and gather maps and vectors."""
    import zarr

    chance = np.random.default_rng(0)
    maps = np.maximum(chance.standard_normal((n, 512, 7, 7), dtype=np.float32) - 0.42, 0)
    maps = maps.astype(np.float16)
    gap = maps.mean((2, 3), dtype=np.float32)
    memmap = np.lib.format.open_memmap(
        folder / "maps.npy", mode="w+", dtype=maps.dtype, shape=maps.shape
    )

    def write_memmap() -> None:
        memmap[:] = maps
        memmap.flush()

    timed("write maps: memmap, flushed", maps.nbytes, write_memmap)
    plain = zarr.create_array(
        folder / "plain.zarr",
        shape=maps.shape,
        dtype=maps.dtype,
        chunks=(8, 512, 7, 7),
        shards=(UNIT, 512, 7, 7),
        compressors=[zarr.codecs.ZstdCodec(level=1, checksum=True)],
    )

    def write_zarr() -> None:
        for lo in range(0, n, UNIT):
            plain[lo : lo + UNIT] = maps[lo : lo + UNIT]
        os.sync()

    timed("write maps: plain zarr, same codec, flushed", maps.nbytes, write_zarr)
    store = Store.open(folder / "store", create=True)
    store.list_images(listing(n))
    features = store.create_features(EXTRACTION, "bench", ARRAYS)

    def write_store() -> None:
        for unit in features.pending():
            part = slice(unit * UNIT, (unit + 1) * UNIT)
            features.write_unit(unit, {"last_conv": maps[part], "gap": gap[part]})

    timed("write maps and gap: store, committed", maps.nbytes + gap.nbytes, write_store)
    on_disk = sum(features.shard_sizes("last_conv").values())
    print(f"{'maps on disk':<44} {on_disk / maps.nbytes:8.3f} of their size in memory")
    measure_reading(features, plain, memmap, repeat)


def measure_reading(features: Features, plain: object, memmap: np.ndarray, repeat: int) -> None:
    """Scan and gather what was written."""
    n, size = len(memmap), memmap.nbytes
    rows = np.random.default_rng(1).integers(0, n, GATHER)
    some = GATHER * 512 * 49 * 2
    assert np.array_equal(features.read("last_conv", rows), memmap[rows])

    def scan_zarr() -> None:
        for lo in range(0, n, UNIT):
            plain[lo : lo + UNIT]  # type: ignore[index]

    def scan_memmap() -> None:
        for lo in range(0, n, UNIT):
            memmap[lo : lo + UNIT].copy()

    def scan_store() -> None:
        for _ in features.blocks("last_conv", slice(0, n)):
            pass

    timed("scan maps: memmap", size, scan_memmap, repeat)
    timed("scan maps: plain zarr", size, scan_zarr, repeat)
    timed("scan maps: store", size, scan_store, repeat)
    timed(f"gather {GATHER} maps: memmap", some, lambda: memmap[rows], repeat)
    timed(f"gather {GATHER} maps: plain zarr", some, lambda: plain.oindex[rows])  # type: ignore[attr-defined]
    timed(f"gather {GATHER} maps: store", some, lambda: features.read("last_conv", rows), repeat)
    timed(f"gather {GATHER} gap: store", GATHER * 2048, lambda: features.read("gap", rows), repeat)
    timed("verify: store", size, lambda: verify(features.store), repeat)


def measure_bookkeeping(folder: Path, n: int) -> None:
    """A second run on an unchanged set: all that is not hashing the images."""
    store = Store.open(folder / "many", create=True)
    images = listing(n)
    arrays = {"gap": ((8,), "float32")}
    store.list_images(images)
    features = store.create_features(EXTRACTION, "bench", arrays)
    start = time.perf_counter()
    units = features.pending()
    for unit in units:
        rows = np.zeros((len(features.unit_rows(unit)), 8), dtype=np.float32)
        features.write_unit(unit, {"gap": rows})
    seconds = (time.perf_counter() - start) / len(units)
    print(f"{'commit of a unit of tiny rows':<44} {seconds:8.3f} s")
    start = time.perf_counter()
    store = Store.open(folder / "many")
    store.list_images(images)
    features = store.create_features(EXTRACTION, "bench", arrays)
    with features.lock():
        assert features.pending() == []
    assert len(features.table()) == n
    seconds = time.perf_counter() - start
    print(f"{f'second run on {n} unchanged images':<44} {seconds:8.3f} s")


if __name__ == "__main__":
    main()
