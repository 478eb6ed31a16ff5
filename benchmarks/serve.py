"""The server under load: stored rows, by several clients on loopback, as ratios of one run.

    python -m benchmarks.serve --n 2000
    python -m benchmarks.serve --n 2000 --against CHECKOUT --path /api/images/{row}/neighbours?k=12
    python -m benchmarks.serve --n 2000 --requests 10000 --clients 8 --rounds 2
    python -m benchmarks.serve --n 2000 --requests 10000 --clients 8 --rounds 1 --changing
    python -m benchmarks.serve --n 100000 --opening

With `--against`, a server of another checkout answers the same questions, in turns with this one.
The processor time of a request is that of the server's process: what else runs on the machine moves
it little. With `--changing`, another process rebuilds the index, and lists more images and fewer,
all the while. With `--opening`, the time from the printed address until each part of the page is
there, and with a browser the time of a frame of the map.
"""

import argparse
import asyncio
import contextlib
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from benchmarks.index import clustered

HERE = Path(__file__).resolve().parents[1]
PATH = "/api/v1/images/{row}/neighbours?k=12"
DIMENSION = 512


def listing(n):
    """The table of n synthetic images."""
    numbers = range(n)
    return pd.DataFrame({
        "image_id": [hashlib.sha256(str(i).encode()).hexdigest() for i in numbers],
        "path": [f"c{i % 20}/{i:06d}.png" for i in numbers],
        "label": [f"c{i % 20}" for i in numbers],
        "size": 10, "state": "ok", "reason": "",
    })  # fmt: skip


BARE = """
import socket, sys
from pathlib import Path
import uvicorn
from fastapi import FastAPI, Response
body, app = Path(sys.argv[1]).read_bytes(), FastAPI()
@app.get("/bare/{row}")
async def bare(row: int, k: int) -> Response:
    return Response(body, media_type="application/json")
# Named as TCP, or every answer on a kept connection waits 40 ms.
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
# The parser of HTTP that `alike serve` uses.
config = uvicorn.Config(app, http="h11", loop="asyncio", log_level="warning", lifespan="off")
try:
    uvicorn.Server(config).run([listener])
except KeyboardInterrupt:
    pass
"""
"""A bare route that answers with the bytes of a file."""


def write_features(features, vectors):
    """Write the features of every image that has none."""
    with features.lock():
        for unit in features.pending():
            rows = list(features.todo(unit))
            features.write_unit(unit, {"gap": vectors[rows]})


def synthetic_store(folder, n, dimension=DIMENSION):
    """A store of n synthetic features in 20 classes, with an index."""
    from PIL import Image

    from alike.extract.identity import settings_hash
    from alike.extract.store import Store
    from alike.index.build import build_index

    (folder / "images" / "c0").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / "c0" / "0.png")
    store = Store.open(folder / "store", create=True)
    store.set_source(str(folder / "images"))
    store.list_images(listing(n))
    transform = {"resize": [16, 16]}
    attrs = {"network": "synthetic", "weights": "none", "weights_hash": "ab" * 32,
             "transform": transform, "precision": "float32", "taps": ["last_conv"]}  # fmt: skip
    key = f"synthetic-abababab-{settings_hash(transform, 'float32')}"
    features = store.create_features(attrs, key, {"gap": ((dimension,), "float32")})
    write_features(features, clustered(n, dimension=dimension))
    build_index(store.features(), "gap_cosine", effort=20)
    return folder / "store"


def change(place, n, stop, counts):
    """Rebuild the index, list more images and fewer, over and over; in a process of its own."""
    from alike.extract.store import Store
    from alike.index.build import build_index

    vectors = clustered(n + n // 2, dimension=DIMENSION)
    sizes = (n, n + n // 2, n // 2 + 1)
    number = 0
    while not stop.is_set():
        store = Store.open(place)
        store.list_images(listing(sizes[number % 3]))
        write_features(store.features(), vectors)
        build_index(store.features(), "gap_cosine", effort=20, rebuild=number % 2 == 1)
        counts[number % 3] += 1
        number += 1


@contextlib.contextmanager
def changing(place, n):
    """Change a store until the block ends; yields how often it had each size."""
    context = multiprocessing.get_context("spawn")
    stop, counts = context.Event(), context.Array("l", 3)
    process = context.Process(target=change, args=(place, n, stop, counts))
    process.start()
    try:
        yield counts
    finally:
        stop.set()
        process.join()
    if process.exitcode:
        raise SystemExit("the store could not be changed")


PARTS = {
    "page": "/", "set": "/api/v1/set", "images": "/api/v1/images?count=24",
    "neighbours": "/api/v1/images/3/neighbours?k=12", "map": "/api/v1/map?limit=100000",
}  # fmt: skip


def opening(one):
    """Seconds of each part of the page, asked once after another, the first time and the second."""
    lines = []
    for turn in (1, 2):
        for name, path in PARTS.items():
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{one.port}{path}", timeout=120) as told:
                size = len(told.read())
            lines.append({"turn": turn, "part": name, "s": time.perf_counter() - began,
                          "MiB": size / 2**20})  # fmt: skip
    return pd.DataFrame(lines)


MOVE = """
const plane = document.querySelector('.plane canvas'), box = plane.getBoundingClientRect();
const at = (i) => ({ clientX: box.left + box.width / 2 + 40 * Math.sin(i / 4),
  clientY: box.top + box.height / 2, deltaY: i % 20 < 10 ? -60 : 60, bubbles: true,
  cancelable: true });
const what = arguments[0], kind = what === 'wheel' ? WheelEvent : PointerEvent, times = [];
let i = 0, last = performance.now();
requestAnimationFrame(function frame(now) {
  times.push(now - last);
  last = now;
  plane.dispatchEvent(new kind(what, at(i)));
  i += 1;
  if (i < 120) requestAnimationFrame(frame);
  else window.frames_ms = times.slice(5);
});
"""


def open_map(page, one):
    """Seconds until a browser shows the map whose address it opens."""
    page.shape(1400, 900, dark=False)
    began = time.perf_counter()
    page.go(f"http://127.0.0.1:{one.port}/#map")
    page.wait("document.querySelector('.legend button') && document.querySelector('.plane')")
    return time.perf_counter() - began


def chromium():
    """What opens a browser, and why there is none."""
    sys.path.insert(0, str(HERE / "tests" / "serve"))
    from browser import browser, missing

    return browser, missing()


def frames(one):
    """Milliseconds of each frame of the map, while it zooms and points are looked up."""
    browser, missing = chromium()
    if missing:
        return f"no frames: {missing}"
    with browser() as page:
        lines = [f"map shown after {open_map(page, one):.2f} s"]
        for what in ("wheel", "pointermove"):
            page.run("window.frames_ms = null")
            page.run(MOVE, what)
            p50, p95 = np.quantile(page.wait("window.frames_ms"), [0.5, 0.95])
            lines.append(f"{what}: a frame p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    return "\n".join(lines)


@dataclass
class Server:
    """A server in a process of its own."""

    process: psutil.Process
    port: int
    path: str

    def get(self, path):
        """The body of an answer."""
        address = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(address, timeout=120) as told:
            return told.read()

    def processor(self):
        """Seconds of processor time so far."""
        used = self.process.cpu_times()
        return used.user + used.system


def server(checkout, store, path):
    """A server of a checkout, until the block ends."""
    code = "import sys; from alike.flows.cli import main; sys.exit(main())"
    return started(checkout, [code, "serve", "--store", str(store), "--port", "0"], path)


def bare_server(file):
    """A server that answers every question with the bytes of a file, until the block ends."""
    return started(HERE, [BARE, str(file)], "/bare/{row}?k=12")


@contextlib.contextmanager
def started(checkout, words, path):
    """A process of Python that prints the address at which it serves, until the block ends."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", *words]
    with subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        address = process.stdout.readline().strip().rstrip("/")
        yield Server(psutil.Process(process.pid), int(address.rpartition(":")[2]), path)
        process.send_signal(signal.SIGINT)
        process.wait()


async def load(one, clients, requests, n, seed):
    """Seconds that each request took, answers other than 200, and all seconds."""
    rows = iter(np.random.default_rng(seed).integers(0, n, requests).tolist())
    seconds, errors = [], []

    async def client():
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        for row in rows:
            began = time.perf_counter()
            target = one.path.format(row=row)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost:{one.port}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            seconds.append(time.perf_counter() - began)
            if b" 200 " not in head[:16]:
                errors.append(head)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return np.array(seconds), len(errors), time.perf_counter() - began


def measured(one, clients, requests, n, seed):
    """One line of the table."""
    before, memory = one.processor(), one.process.memory_info().rss
    seconds, errors, whole = asyncio.run(load(one, clients, requests, n, seed))
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1000
    return {
        "clients": clients, "requests": len(seconds), "errors": errors,
        "per_second": len(seconds) / whole,
        "processor_ms": (one.processor() - before) / len(seconds) * 1000,
        "p50_ms": p50, "p99_ms": p99, "p99/p50": p99 / p50,
        "rss_mib": one.process.memory_info().rss / 2**20,
        "rss_growth_mib": (one.process.memory_info().rss - memory) / 2**20,
    }  # fmt: skip


def open_once(store):
    """Print how fast the page of a store with a map opens."""
    from alike.analysis.maps import MapSettings, make_map
    from alike.extract.store import Store

    make_map(Store.open(store).features(), MapSettings(split="all", sample=1000))
    began = time.perf_counter()
    with server(HERE, store, PATH) as one:
        print(f"address printed after {time.perf_counter() - began:.2f} s")
        print(opening(one).round(3).to_string(index=False))
        print(frames(one))


def main() -> None:
    """Build a store, serve it, ask it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--path", default=PATH)
    parser.add_argument("--store", type=Path, help="of an earlier run")
    parser.add_argument("--changing", action="store_true", help="change the store meanwhile")
    parser.add_argument("--opening", action="store_true", help="how fast the page opens")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        store = asked.store or synthetic_store(Path(folder), asked.n)
        if asked.opening:
            open_once(store)
            return
        servers = {"here": stack.enter_context(server(HERE, store, PATH))}
        if asked.against:
            other = server(asked.against, store, asked.path)
            servers["against"] = stack.enter_context(other)
        # Rows that are there whatever the size is meanwhile.
        n = asked.n // 2 if asked.changing else asked.n
        counts = stack.enter_context(changing(store, asked.n)) if asked.changing else ()
        lines = []
        for number in range(asked.rounds):
            for clients in asked.clients:
                for name, one in servers.items():
                    # The first round warms caches and is shown as round 0.
                    row = measured(one, clients, asked.requests, n, number)
                    lines.append({"round": number, "server": name, **row})
                    print(f"round {number}, {name}, {clients} clients", file=sys.stderr)
        print(pd.DataFrame(lines).round(2).to_string(index=False))
        if asked.changing:
            print(f"the store was changed {sum(counts)} times meanwhile")


if __name__ == "__main__":
    main()
