"""What a GPU gives: the same numbers as the processor, and how near extraction comes to its limit.

    python -m benchmarks.gpu              on the GPU; some five minutes
    python -m benchmarks.gpu --device cpu --images 64 --side 64     the script itself, anywhere

Three parts, one line each measurement:

    equal        features, Grad-CAM, gradients and LRP of one network, beside the processor's
    extraction   images a second beside the slower of decoding alone and the bare forward pass
    products     the matrix product that bounds counting of pairs, here and on the GPU, and exact
                 neighbours by faiss on the processor and by products on the GPU

Pairs are counted and indexes are searched on the processor in this version: their lines say what a
GPU could bring, not what it brings.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from alike.analysis.explain import ready_module, relevance
from alike.analysis.explain.lrp import lrp
from alike.extract.forward import Forward, array_names, choose_precision
from alike.extract.machine import usable_cores
from alike.extract.networks import load_network
from alike.extract.run import ComputeSettings
from benchmarks.extract import Bench, rate

CLOSE = 1e-3
"""Sum of absolute differences as a share of the sum of absolute values, in float32."""
EXPLAINERS = ("gradcam", "sa", "lrp plus_flat")


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """How far two arrays are apart: see `CLOSE`."""
    wide = np.asarray(wanted, np.float64)
    return float(np.abs(found - wide).sum() / max(np.abs(wide).sum(), 1e-30))


def explained(module: nn.Module, images: Tensor, target: Tensor, name: str) -> np.ndarray:
    """One explanation of some images, on the device on which they are."""
    size = (int(images.shape[-2]), int(images.shape[-1]))
    ready = ready_module(module, size)
    if name.startswith("lrp "):
        return lrp(ready, images, target, composite=name[4:]).cpu().numpy()
    return relevance(ready, images, name, target).cpu().numpy()


def equal(device: torch.device, side: int) -> list[tuple[str, float]]:
    """Features and explanations of a network on both devices: how far they are apart."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    names = array_names(("last_conv", "fc", "logits"))
    frames = torch.from_numpy(
        np.random.default_rng(0).integers(0, 255, (8, 3, side, side), np.uint8)
    )
    images, target = frames.float() / 127.5 - 1.0, torch.arange(8)
    found: dict[str, dict[str, np.ndarray]] = {}
    for on in (torch.device("cpu"), device):
        torch.manual_seed(0)
        network = load_network("resnet18", "none")
        arrays = Forward(network, (side, side), names, on, "float32")(frames)
        module = network.module.to(on).eval()
        for name in EXPLAINERS:
            arrays[name] = explained(module, images.to(on), target.to(on), name)
        found[str(on) if on.type != device.type else "device"] = arrays
    here = found.get("cpu", found["device"])
    return [(name, apart(values, here[name])) for name, values in found["device"].items()]


def extraction(device: torch.device, count: int, side: int) -> dict[str, float]:
    """Images a second of decoding, the forward pass, and all of it; the best of three each."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        for number in range(count):
            path = folder / str(number % 4) / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = draw.integers(0, 255, (24, 24, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
        settings = ComputeSettings(str(device), None, usable_cores())
        batch = min(settings.batch((224, 224)), count)
        bench = Bench(
            folder, Path(scratch) / "place", load_network("mobilenet_v2", "none"),
            ("fc", "logits"), device, choose_precision("auto", device), batch, settings.threads,
        )  # fmt: skip
        return {
            name: max(rate(name, bench)[0] for _ in range(3))
            for name in ("decode", "forward", "ours")
        }


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """The shortest of some runs, each waited for."""
    least = np.inf
    for _ in range(4):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
    return float(least)


def products(device: torch.device, n: int) -> dict[str, float]:
    """Rates of the product and of exact neighbours, and how many of these are not the same."""
    import faiss

    draw = np.random.default_rng(0)
    x = draw.standard_normal((n, 512), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    there, queries = torch.from_numpy(x).to(device), min(256, n)
    index = faiss.IndexFlatIP(512)
    index.add(x)
    here = seconds(lambda: x @ x[:4096].T, torch.device("cpu"))
    found = (there[:queries] @ there.T).topk(10).indices.cpu().numpy()
    wanted = index.search(x[:queries], 10)[1]
    search = seconds(lambda: (there[:queries] @ there.T).topk(10), device)
    return {
        "product, device / processor": here / seconds(lambda: there @ there[:4096].T, device),
        "exact neighbours, device / faiss": seconds(
            lambda: index.search(x[:queries], 10), torch.device("cpu")
        )
        / search,
        "neighbours not the same": float(
            sum(len(set(a) ^ set(b)) // 2 for a, b in zip(found, wanted, strict=True))
        ),
    }


def main() -> int:
    """Measure, print, and fail where the device gives other numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--side", type=int, default=224)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: give --device cpu to check the script itself")
        return 2
    device = torch.device(given.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    print(f"{name}, torch {torch.__version__}", flush=True)
    far = equal(device, given.side)
    for what, distance in far:
        print(f"{what:<14} differs by {distance:.1e} from the processor's", flush=True)
    rates = extraction(device, given.images, max(given.side, 64))
    alone = (rates["decode"], rates["forward"])
    limit = min(alone) if device.type == "cuda" else 1 / sum(1 / one for one in alone)
    rates["ours / limit"] = rates["ours"] / limit
    rates.update(products(device, 8 * given.images))
    print(json.dumps(rates | {"device": name}), flush=True)
    return int(any(distance > CLOSE for _, distance in far))


if __name__ == "__main__":
    sys.exit(main())
