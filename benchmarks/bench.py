"""Every speed that must not slip, small, as a ratio to what bounds it in the same run.

    make bench                    fails below 0.9 of `floors.toml`, or on any wrong count
    make bench BENCH=--write      writes the ratios of this processor to `floors.toml`
    make bench BENCH='pairs store'    some parts

Ratios are of processor seconds of all threads, the best of some turns: what else runs on the
machine moves them little, but a run that is written should have the machine to itself. Each part
runs in a process of its own. A peer that is not installed, or whose process dies, is left out and
named. "Wrong" counts what differs from an independent computation; it must be 0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FLOORS = Path(__file__).with_name("floors.toml")
LEAST = 0.9
LIMIT = 120
"""Seconds of one part."""

Line = tuple[str, float, int]
"""What was measured, its ratio (more is better), and how much of it was wrong."""


def pairs() -> Iterator[Line]:
    """All pairs, beside the bare matrix product, bfloat16's and scikit-learn's."""
    from sklearn.metrics import pairwise_distances, roc_auc_score

    from alike.analysis.blocks import best_product
    from alike.analysis.pairs import count_pairs
    from alike.index.bfloat import has_bfloat16
    from benchmarks.pairs import bare_product, best, features, here, in_turn, warm

    warm()
    for n_classes, n in ((10, 24_000), (100, 24_000), (1000, 40_000)):
        vectors, images = features(n, 512, n_classes)
        (bare, _), (took, counts) = in_turn(
            bare_product(vectors, images, best_product(512, np.inf)),
            lambda v=vectors, i=images: count_pairs(v, i, map_blocks=here("pairs")),
        )
        wrong = abs(int(counts.total.sum()) - n * (n - 1) // 2)
        yield f"pairs of {n_classes} classes / product", bare.cpu / took.cpu, wrong
    vectors, images = features(6000, 512, 10)
    took, counts = best(lambda: count_pairs(vectors, images, map_blocks=here("pairs")), 3)
    x = vectors.block(0, 6000)[0] + vectors.centre
    upper = np.triu_indices(6000, 1)

    def plain() -> float:
        distances = pairwise_distances(x, metric="cosine")[upper]
        return float(roc_auc_score(images.codes[upper[0]] == images.codes[upper[1]], -distances))

    theirs, area = best(plain, 1)
    mine = counts.plain_area()
    wrong = int(not mine.low - 1e-6 <= area <= mine.high + 1e-6)
    yield "pairs / scikit-learn", theirs.cpu / took.cpu, wrong
    if has_bfloat16():
        vectors, images = features(8000, 512, 10)
        (rough, one), (exact, other) = in_turn(
            lambda: count_pairs(vectors, images, precision="bfloat16", map_blocks=here("pairs")),
            lambda: count_pairs(vectors, images, precision="float32", map_blocks=here("pairs")),
        )
        a, b = one.area(), other.area()
        wrong = int(not a.low <= b.value <= a.high)
        yield "pairs in bfloat16 / float32", exact.cpu / rough.cpu, wrong


def classes() -> Iterator[Line]:
    """Class means beside one read, and neighbours beside faiss."""
    import faiss

    from alike.analysis.classes import class_moments
    from alike.analysis.neighbours import nearest
    from benchmarks.pairs import CORES, best, features, here, warm

    warm()
    vectors, images = features(100_000, 512, 100)
    x = vectors.block(0, 100_000)[0]
    read, _ = best(lambda: float(x.sum()), 9)
    took, _ = best(
        lambda: class_moments(vectors, images, map_blocks=here("moments"), second=False), 9
    )
    yield "class means / one read", read.cpu / took.cpu, 0
    vectors, images = features(6000, 512, 20)
    x = np.ascontiguousarray(vectors.block(0, 6000)[0] + vectors.centre)
    took, near = best(lambda: nearest(vectors, images, 10, map_blocks=here("neighbours")))
    faiss.omp_set_num_threads(CORES)
    index = faiss.IndexFlatIP(512)
    index.add(x)
    theirs, _ = best(lambda: index.search(x, int(images.counts.max())))
    true = index.search(x[:200], 11)[0][:, 1:]
    mine = np.einsum("nd,nkd->nk", x[:200], x[near.places[:200]])
    yield "neighbours / faiss flat", theirs.cpu / took.cpu, int((np.abs(mine - true) > 1e-5).sum())


def index() -> Iterator[Line]:
    """Exact and approximate search, each beside FAISS and the peers that are installed."""
    import faiss

    from alike.index.flat import nearest
    from benchmarks.index import K, clustered, measure_peers, shortest

    faiss.omp_set_num_threads(1)
    x = clustered(10_000)
    flat = faiss.IndexFlatL2(x.shape[1])
    flat.add(x[64:])
    default = faiss.cvar.distance_compute_blas_threshold
    import time

    mine = shortest(lambda: nearest(x[:64], x[64:], K, "l2"), time.process_time, 0.5)
    faiss.cvar.distance_compute_blas_threshold = default
    theirs = shortest(lambda: flat.search(x[:64], K), time.process_time, 0.5)
    wrong = int((nearest(x[:64], x[64:], K, "l2")[1] != flat.search(x[:64], K)[1]).sum())
    yield "exact search of 64 / faiss flat", theirs / mine, wrong
    with tempfile.TemporaryDirectory() as folder:
        names = ["alike ivf_pq", "scann", "hnswlib", "usearch bf16", "svs"]
        rows, absent = measure_peers(names, folder, 1, n=10_000)
    for line in absent:
        print(json.dumps({"left out": line}), flush=True)
    speeds = {row["index"]: row for row in rows}
    for target in (0.95, 0.99):
        own = speeds["alike ivf_pq"][f"q/s at {target}"]
        wrong = int(not own > 0)
        for name, row in speeds.items():
            if name != "alike ivf_pq" and row[f"q/s at {target}"] > 0:
                yield f"ivf_pq at {target} / {name}", own / row[f"q/s at {target}"], wrong


def store() -> Iterator[Line]:
    """Reading rows beside plain zarr, and opening for a query beside reading the whole table."""
    import zarr

    from alike.extract.store import UNIT, Store, mapped
    from benchmarks.pairs import best, in_turn
    from benchmarks.store import ARRAYS, EXTRACTION, listing

    with tempfile.TemporaryDirectory() as folder:
        place, n = Path(folder), 2 * UNIT
        draw = np.random.default_rng(0)
        maps = np.maximum(draw.standard_normal((n, 512, 7, 7), dtype=np.float32) - 0.42, 0)
        maps = maps.astype(np.float16)
        plain = zarr.create_array(
            place / "plain.zarr", shape=maps.shape, dtype=maps.dtype, chunks=(8, 512, 7, 7),
            shards=(UNIT, 512, 7, 7),
            compressors=[zarr.codecs.ZstdCodec(level=1, checksum=True)],
        )  # fmt: skip
        opened = Store.open(place / "store", create=True)
        opened.list_images(listing(n))
        features = opened.create_features(EXTRACTION, "bench", {"last_conv": ARRAYS["last_conv"]})
        for unit in features.pending():
            part = slice(unit * UNIT, (unit + 1) * UNIT)
            plain[part] = maps[part]
            features.write_unit(unit, {"last_conv": maps[part]})
        read = [slice(low, low + UNIT) for low in range(0, n, UNIT)]
        (theirs, _), (took, _) = in_turn(
            lambda: [plain[part] for part in read],
            lambda: list(features.blocks("last_conv", slice(0, n))),
            times=9,
        )
        wrong = int((features.read("last_conv", slice(0, n)) != maps).sum())
        yield "store scan / plain zarr", theirs.cpu / took.cpu, wrong
        many = Store.open(place / "many", create=True)
        many.list_images(listing(60_000))
        features = many.create_features(EXTRACTION, "bench", {"gap": ((8,), "float32")})
        for unit in features.pending():
            rows = len(features.unit_rows(unit))
            features.write_unit(unit, {"gap": np.zeros((rows, 8), np.float32)})
        mapped.LEAST = 1

        def lookup() -> object:
            return Store.open(place / "many").features().lookup()

        lookup()
        took, fresh = best(lookup, 5)
        theirs, table = best(lambda: Store.open(place / "many").features().table(), 5)
        wrong = int(not fresh.table().equals(table))
        yield "opening for a query / the whole table", theirs.cpu / took.cpu, wrong


def explain() -> Iterator[Line]:
    """Explanations beside captum's and zennit's, of the same network and images."""
    import torch
    import torchvision
    from captum.attr import LayerGradCam, Saliency

    from benchmarks.pairs import in_turn

    try:
        from benchmarks.explain import ours, ours_lrp, zennit_run
    except ImportError as error:
        print(json.dumps({"left out": f"explain: {error}"}), flush=True)
        return
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None).eval()
    for layer in net.modules():
        if isinstance(layer, torch.nn.ReLU):
            layer.inplace = False
    images, target = torch.randn(4, 3, 128, 128), torch.arange(4)
    runs = {
        "gradcam / captum": (
            ours(net, "gradcam"),
            lambda x, t: LayerGradCam(net, net.layer4).attribute(x, target=t),
        ),
        "saliency / captum": (
            ours(net, "sa"),
            lambda x, t: Saliency(net).attribute(x.requires_grad_(), target=t),
        ),
        "relevance / zennit": (ours_lrp(net, "plus_flat"), zennit_run(net, "resnet18")),
    }
    for name, ways in runs.items():
        (mine, _), (theirs, _) = in_turn(
            *(lambda way=way: way(images.clone(), target) for way in ways), times=5
        )
        yield f"explain: {name}", theirs.cpu / mine.cpu, 0


def extract() -> Iterator[Line]:
    """Extraction beside its own decode and forward pass, and beside a plain loop."""
    import torch
    from PIL import Image

    from alike.extract.forward import choose_precision
    from alike.extract.machine import usable_cores
    from alike.extract.networks import load_network
    from alike.extract.run import ComputeSettings
    from benchmarks.extract import Bench, rate

    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        for number in range(192):
            path = folder / str(number % 4) / f"{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = draw.integers(0, 255, (24, 24, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize((400, 400), Image.Resampling.BICUBIC).save(path)
        network, device = load_network("mobilenet_v2", "none"), torch.device("cpu")
        settings = ComputeSettings("cpu", None, usable_cores())
        bench = Bench(
            folder, Path(scratch) / "place", network, ("fc", "logits"), device,
            choose_precision("auto", device), settings.batch((224, 224)), settings.threads,
        )  # fmt: skip
        names = ("decode", "forward", "plain", "ours")
        seconds = {name: min(rate(name, bench)[1] for _ in range(3)) for name in names}
    alone = seconds["decode"] + seconds["forward"]
    yield "extraction / (decode + forward)", alone / seconds["ours"], 0
    yield "extraction / plain loop", seconds["plain"] / seconds["ours"], 0


def serve() -> Iterator[Line]:
    """Questions over HTTP beside a bare route with the same bytes; a large map in a browser.

    The last two are checks: 1 is good, and nothing is above it.
    """
    from benchmarks.serve import HERE, PATH, bare_server, measured, server, synthetic_store

    n, requests, clients = 2000, 600, 8
    with tempfile.TemporaryDirectory() as folder:
        store, file = synthetic_store(Path(folder), n), Path(folder) / "answer.json"
        with server(HERE, store, PATH) as ours:
            file.write_bytes(ours.get(PATH.format(row=3)))
            wrong = neighbours_that_differ(store, ours)
            with bare_server(file) as bare:
                # The first turn warms both.
                turns = [
                    [measured(one, clients, requests, n, turn) for one in (ours, bare)]
                    for turn in range(4)
                ][1:]
    wrong += sum(line["errors"] for turn in turns for line in turn)
    mine, theirs = (min(turn[at]["processor_ms"] for turn in turns) for at in (0, 1))
    yield "a question over HTTP / a bare route", theirs / mine, wrong
    spread = min(turn[0]["p99/p50"] for turn in turns)
    yield "check: p99 within 3 p50, 8 clients", min(1.0, 3 / spread), int(spread > 3)
    yield from large_map()


def neighbours_that_differ(store: Path, one: Any) -> int:
    """Answers of a server, of some images, that are not the nearest by a plain product."""
    from alike.extract.store import Store
    from benchmarks.serve import PATH

    features = Store.open(store).features()
    x = features.read("gap", features.table("all")["row"].to_numpy()).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    wrong = 0
    for row in range(0, len(x), len(x) // 20):
        apart = 1 - x @ x[row]
        apart[row] = np.inf
        near = json.loads(one.get(PATH.format(row=row)))["neighbours"]
        given = np.array([each["distance"] for each in near])
        true = apart[[each["row"] for each in near]]
        right = np.allclose(given, true, atol=1e-5)
        wrong += int(not right or not np.allclose(true, np.sort(apart)[: len(near)], atol=1e-5))
    return wrong


def large_map(n: int = 100_000) -> Iterator[Line]:
    """A map of many images: its answer beside the writing of its JSON, and in a browser.

    Args:
        n: images.
    """
    from pydantic_core import to_json

    from alike.analysis.maps import MapSettings, make_map
    from alike.extract.store import Store
    from benchmarks.pairs import best
    from benchmarks.serve import HERE, PATH, chromium, open_map, server, synthetic_store

    browser, missing = chromium()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        store = synthetic_store(Path(folder), n, dimension=32)
        make_map(Store.open(store).features(), MapSettings(split="all", sample=500, perplexity=5))
        for _ in range(2):
            with server(HERE, store, PATH) as one:
                if not missing:
                    with browser() as page:
                        seconds.append(open_map(page, one))
                # By now the map is read, as for everybody after the first.
                answers = []
                for _ in range(3):
                    before = one.processor()
                    body = one.get(f"/api/v1/map?limit={n}")
                    answers.append(one.processor() - before)
    document = json.loads(body)
    written_alone, _ = best(lambda: to_json(document), 5)
    wrong = abs(len(document["row"]) - n) + abs(len(document["tsne"]) - n)
    # The system counts processor time in hundredths of a second.
    least = max(min(answers), 0.01)
    yield f"map of {n:,} images / its JSON", written_alone.cpu / least, wrong
    if missing:
        print(json.dumps({"left out": f"map in a browser: {missing}"}), flush=True)
    else:
        most = min(seconds)
        yield f"check: map of {n:,} within 2 s", min(1.0, 2 / most), int(most > 2)


def layers() -> Iterator[Line]:
    """One pass that stores the usual taps, beside one that stores the means of all layers too."""
    import torch

    from alike.extract.networks import load_network
    from benchmarks.layers import passes
    from benchmarks.pairs import in_turn

    torch.set_num_threads(1)  # waiting threads count as processor time
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (8, 3, 224, 224), dtype=torch.uint8, generator=draw)
    for name in ("resnet18", "mobilenet_v2"):
        network = load_network(name, "none")
        plain, every = passes(network, 224)
        (alone, _), (took, arrays) = in_turn(
            lambda f=plain: f(frames), lambda f=every: f(frames), times=7
        )
        inputs = network.transform.normalise(frames)
        means = _means_of_blocks(network.module, inputs, network.layers)
        wrong = sum(
            not np.allclose(arrays[layer], mean, rtol=1e-3, atol=1e-4)
            for layer, mean in means.items()
        )
        yield f"{name} / {name} with layers", alone.cpu / took.cpu, wrong


def _means_of_blocks(module: Any, inputs: Any, taps: Sequence[str]) -> dict[str, Any]:
    """Mean over positions of what each block of a network gives, by hooks: of taps `gap@block`."""
    import torch

    means: dict[str, Any] = {}

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: means.update({name: output.mean((2, 3)).numpy()})

    parts = dict(module.named_modules())
    handles = [parts[tap.partition("@")[2]].register_forward_hook(hook(tap)) for tap in taps]
    with torch.no_grad():
        module(inputs)
    for handle in handles:
        handle.remove()
    return means


PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    part.__name__: part for part in (pairs, classes, index, store, explain, extract, layers, serve)
}


def processor() -> str:
    """The kind of this processor: maker, family and model, what it multiplies, cores."""
    from alike.extract.machine import usable_cores

    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    flags = set(facts.get("flags", "").split())
    widths = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    widest = next((one for one in widths if one in flags), "")
    model = f"{facts.get('cpu family', '?')}.{facts.get('model', '?')}"
    return f"{facts.get('vendor_id', 'unknown')} {model} {widest} {usable_cores()} cores"


def run_part(name: str) -> tuple[list[Line], list[str]]:
    """Measure one part in its own process: its lines, and what was left out or died."""
    command = [sys.executable, "-m", "benchmarks.bench", "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return [(f"{name}: more than {LIMIT} s", 0.0, 1)], []
    lines, absent = [], []
    for told in (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")):
        if "left out" in told:
            absent.append(told["left out"])
        else:
            lines.append((told["name"], told["ratio"], told["wrong"]))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1][:150]
        lines.append((f"{name}: died ({last})", 0.0, 1))
    return lines, absent


def faults(lines: list[Line], floors: dict[str, float]) -> list[str]:
    """What of the measured lines must not be, one sentence each."""
    told = []
    for name, ratio, wrong in lines:
        if wrong:
            told.append(f"{name}: {wrong} wrong")
        floor = floors.get(name)
        if floor is not None and ratio < LEAST * floor:
            told.append(f"{name}: {ratio:.3f} is below {LEAST} of {floor:.3f}")
    return told


def written(text: str, kind: str, lines: list[Line]) -> str:
    """The floors' file with the table of one processor replaced."""
    tables = {name: dict(table) for name, table in tomllib.loads(text).items()}
    tables.setdefault(kind, {}).update({name: round(ratio, 3) for name, ratio, _ in lines})
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    for name in sorted(tables):
        head += f"\n[{json.dumps(name)}]\n"
        head += "".join(f"{json.dumps(key)} = {value}\n" for key, value in tables[name].items())
    return head


def main() -> int:
    """Measure, compare, and say what slipped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS])
    parser.add_argument("--write", action="store_true", help="make these ratios the floors")
    parser.add_argument("--one", choices=[*PARTS], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        for name, ratio, wrong in PARTS[given.one]():
            print(json.dumps({"name": name, "ratio": ratio, "wrong": wrong}), flush=True)
        return 0
    kind, lines = processor(), []
    text = FLOORS.read_text(encoding="utf-8")
    floors = tomllib.loads(text).get(kind, {})
    print(f"{kind}: {'floors of ' + str(len(floors)) if floors else 'no floors yet'}", flush=True)
    for part in given.parts or PARTS:
        measured, absent = run_part(part)
        for name, ratio, wrong in measured:
            floor = f"floor {floors[name]:.3f}" if name in floors else "no floor"
            print(f"{name:<48} {ratio:8.3f}   {floor:<14} {wrong} wrong", flush=True)
        for line in absent:
            print(f"left out: {line}", flush=True)
        lines += measured
    told = faults(lines, {} if given.write else floors)
    for line in told:
        print(f"FAILED {line}")
    if given.write and not told:
        FLOORS.write_text(written(text, kind, lines), encoding="utf-8")
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main())
