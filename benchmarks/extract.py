"""Images per second of extraction beside each of its stages alone and beside a plain loop.

    python -m benchmarks.extract IMAGES.tar --network mobilenet_v2 --weights W.pth

(as a module: run as a file, its own name would hide the package that it measures)

The images of a tar (class folders in it) are encoded again at `--side` pixels, `--images` of them,
each different. Every round runs all contestants one after another, so that ratios are of one
machine in one state; the median of rounds is printed, as images per second, and beside it the CPU
seconds per 1000 images of all threads and worker processes, which other load disturbs less:

    decode   read, check, decode, resize and crop with one thread a core, nothing else
    forward  a bare torch loop over tensors in memory: same batch, precision and memory format
    write    the same arrays committed to a store, nothing else
    plain    ImageFolder, DataLoader with a worker a core, hooks for the taps, np.save
    ours     `extract`: listing, hashing, decoding, taps, checks, committed store

`ceiling` is 1 / (1 / decode + 1 / forward), what the cores could do at most on a CPU, where both
stages share them; on a GPU it is the slowest stage alone.
"""

import argparse
import io
import json
import resource
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from alike.extract.forward import PRECISIONS, Forward, array_names, choose_device, choose_precision
from alike.extract.images import decode, open_source
from alike.extract.machine import usable_cores
from alike.extract.networks import Network, load_network
from alike.extract.pipeline import extract
from alike.extract.run import ComputeSettings
from alike.extract.store import UNIT, Store


@dataclass(frozen=True)
class Bench:
    """One setting: what to extract, and how."""

    folder: Path
    place: Path
    network: Network
    taps: tuple[str, ...]
    device: torch.device
    precision: str
    batch: int
    cores: int

    @property
    def paths(self) -> list[Path]:
        """All images, in order."""
        return sorted(self.folder.rglob("*.jpg"))

    def autocast(self) -> torch.autocast:
        """The arithmetic, for the contestants that are plain torch."""
        kind, dtype = self.device.type, PRECISIONS[self.precision]
        return torch.autocast(kind, dtype, enabled=self.precision != "float32")

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


Run = tuple[int, tuple[float, float]]
"""Images done, and (wall, CPU) seconds of preparation that do not count."""
NOTHING = (0.0, 0.0)


def decode_only(bench: Bench) -> Run:
    """Read, decode, resize and crop."""
    source = open_source(str(bench.folder))

    def one(path: Path) -> None:
        data = source.read(str(path.relative_to(bench.folder)))
        bench.network.transform.frame(decode(data))

    with ThreadPoolExecutor(bench.cores) as pool:
        return len(list(pool.map(one, bench.paths))), NOTHING


def forward_only(bench: Bench) -> Run:
    """The whole network over one tensor, again and again."""
    module = bench.network.module.to(bench.device, memory_format=torch.channels_last)
    side = bench.network.transform.crop or 224
    batch = torch.rand(bench.batch, 3, side, side, device=bench.device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    steps = len(bench.paths) // bench.batch
    with torch.inference_mode(), bench.autocast():
        for _ in range(steps):
            module(batch)
    bench.wait()
    return steps * bench.batch, NOTHING


def write_only(bench: Bench) -> Run:
    """Commit one unit of real features; making those does not count."""
    start, cpu = time.perf_counter(), cpu_seconds()
    store = Store.open(bench.place / "write", create=True)
    arrays = extract_arrays(bench, min(len(bench.paths), UNIT))
    rows = len(next(iter(arrays.values())))
    listing = {
        "image_id": [f"{row:064x}" for row in range(rows)],
        "path": [f"{row}.jpg" for row in range(rows)],
        "label": None,
        "size": 1,
        "state": "ok",
        "reason": "",
    }
    store.list_images(pd.DataFrame(listing))
    described = bench.network.extraction(bench.taps, bench.precision)
    shapes = {name: (array.shape[1:], str(array.dtype)) for name, array in arrays.items()}
    features = store.create_features(described.to_dict(), described.key, shapes)
    excused = time.perf_counter() - start, cpu_seconds() - cpu
    features.write_unit(0, arrays)
    return rows, excused


def extract_arrays(bench: Bench, rows: int) -> dict[str, np.ndarray]:
    """Real features of a few images, repeated: sparsity decides the time of compression."""
    frames = torch.stack(
        [bench.network.transform.frame(decode(path.read_bytes())) for path in bench.paths[:32]]
    )
    names = array_names(bench.taps)
    size = (frames.shape[2], frames.shape[3])
    arrays = Forward(bench.network, size, names, bench.device, bench.precision)(frames)
    return {name: np.resize(array, (rows, *array.shape[1:])) for name, array in arrays.items()}


def plain(bench: Bench) -> Run:
    """What a user would write."""
    from torchvision.models import get_model_weights

    preset = next(iter(get_model_weights(bench.network.name))).transforms()
    loader = torch.utils.data.DataLoader(
        ImageFolder(bench.folder, preset), bench.batch, num_workers=bench.cores
    )
    module = bench.network.module.to(bench.device, memory_format=torch.channels_last)
    kept: dict[str, list[np.ndarray]] = {"last_conv": [], "logits": []}

    def keep(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        maps = args[0]
        maps = maps if "last_conv" in bench.taps else maps.mean((2, 3))
        kept["last_conv"].append(maps.to(torch.float16).cpu().numpy())

    hook = module.features.register_forward_hook(lambda _m, _a, output: keep(_m, (output,)))
    with torch.inference_mode(), bench.autocast():
        for images, _labels in loader:
            batch = images.to(bench.device, memory_format=torch.channels_last)
            kept["logits"].append(module(batch).float().cpu().numpy())
    hook.remove()
    for name, arrays in kept.items():
        np.save(bench.place / f"{name}.npy", np.concatenate(arrays))
    return len(bench.paths), NOTHING


def ours(bench: Bench) -> Run:
    """Everything, into an empty store."""
    store = Store.open(bench.place / "store", create=True)
    report = extract(
        open_source(str(bench.folder)),
        bench.network,
        store,
        taps=bench.taps,
        device=str(bench.device),
        precision=bench.precision,
        batch_size=bench.batch,
    )
    return report.n_computed, NOTHING


CONTESTANTS: dict[str, Callable[[Bench], Run]] = {
    "decode": decode_only,
    "forward": forward_only,
    "write": write_only,
    "plain": plain,
    "ours": ours,
}


def rate(name: str, bench: Bench) -> tuple[float, float]:
    """(images per second, CPU seconds per 1000 images) of one contestant, in an empty place."""
    bench.place.mkdir(parents=True)
    start, used = time.perf_counter(), cpu_seconds()
    images, excused = CONTESTANTS[name](bench)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - used
    shutil.rmtree(bench.place)
    return images / (seconds - excused[0]), (cpu - excused[1]) / images * 1000


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def make_images(tar: Path, folder: Path, count: int, side: int) -> None:
    """Images of a tar, resized to `side` and encoded as JPEG, repeated with other crops."""
    with tarfile.open(tar) as opened:
        names = [one.name for one in opened if one.name.endswith((".jpg", ".jpeg"))]
        for number in range(count):
            name = names[number % len(names)]
            file = opened.extractfile(name)
            if file is None:
                continue
            image = Image.open(io.BytesIO(file.read())).convert("RGB")
            cut = 1 + number // len(names)
            image = image.crop((cut, cut, *image.size)).resize((side, side))
            place = folder / Path(name).parent.name / f"{number:06d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            image.save(place, quality=90)


def main() -> None:
    """Print medians and ratios, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tar", type=Path)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--side", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--taps", default="last_conv,fc,logits")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", default=",".join(CONTESTANTS))
    options = parser.parse_args()
    device = choose_device(options.device)
    network = load_network(options.network, options.weights)
    size = network.transform.size or (224, 224)
    settings = ComputeSettings(str(device), None, usable_cores())
    with tempfile.TemporaryDirectory() as scratch:
        make_images(options.tar, Path(scratch) / "images", options.images, options.side)
        bench = Bench(
            Path(scratch) / "images",
            Path(scratch) / "place",
            network,
            tuple(options.taps.split(",")),
            device,
            choose_precision(options.precision, device),
            settings.batch(size),
            settings.threads,
        )
        names = options.only.split(",")
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                rates[name].append(rate(name, bench))
    report(bench, rates)


def report(bench: Bench, rates: dict[str, list[tuple[float, float]]]) -> None:
    """Rates, and ours as a share of what could be had."""
    print(
        f"{bench.network.name} {bench.precision} on {bench.device}, batch {bench.batch}, ", end=""
    )
    print(f"{bench.cores} cores, taps {','.join(bench.taps)}; images/s, median (all rounds)")
    medians = {name: statistics.median(one for one, _ in rates[name]) for name in rates}
    cpu = {name: statistics.median(one for _, one in rates[name]) for name in rates}
    for name, value in medians.items():
        rounds = ", ".join(f"{one:.1f}" for one, _ in rates[name])
        print(f"  {name:<8} {value:8.1f} images/s  {cpu[name]:6.2f} CPU s/1000   ({rounds})")
    ratios = {}
    if {"decode", "forward", "ours"} <= set(medians):
        alone = [medians["decode"], medians["forward"]]
        shared = 1 / sum(1 / one for one in alone)
        ceiling = shared if bench.device.type == "cpu" else min(alone)
        ratios["ours / ceiling"] = medians["ours"] / ceiling
        ratios["ours / ceiling, CPU"] = (cpu["decode"] + cpu["forward"]) / cpu["ours"]
    if {"plain", "ours"} <= set(medians):
        ratios["ours / plain"] = medians["ours"] / medians["plain"]
        ratios["ours / plain, CPU"] = cpu["plain"] / cpu["ours"]
    for name, value in ratios.items():
        print(f"  {name:<20} {value:.2f}")
    print(json.dumps({"precision": bench.precision, **medians, **ratios}))


if __name__ == "__main__":
    main()
