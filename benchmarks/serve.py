"""The server under load: stored rows, by several clients on loopback, as ratios of one run.

    python -m benchmarks.serve --n 2000
    python -m benchmarks.serve --n 2000 --against CHECKOUT --path /api/images/{row}/neighbours?k=12
    python -m benchmarks.serve --n 100000 --requests 10000

With `--against`, a server of another checkout answers the same questions, in turns with this one.
The processor time of a request is that of the server's process: what else runs on the machine moves
it little.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from benchmarks.index import clustered

HERE = Path(__file__).resolve().parents[1]
PATH = "/api/v1/images/{row}/neighbours?k=12"
DIMENSION = 512


def synthetic_store(folder, n):
    """A store of n synthetic features in 20 classes, with an index."""
    from PIL import Image

    from alike.extract.identity import settings_hash
    from alike.extract.store import Store
    from alike.index.build import build_index

    (folder / "images" / "c0").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / "c0" / "0.png")
    store = Store.open(folder / "store", create=True)
    store.set_source(str(folder / "images"))
    numbers = range(n)
    store.list_images(pd.DataFrame({
        "image_id": [hashlib.sha256(str(i).encode()).hexdigest() for i in numbers],
        "path": [f"c{i % 20}/{i:06d}.png" for i in numbers],
        "label": [f"c{i % 20}" for i in numbers],
        "size": 10, "state": "ok", "reason": "",
    }))  # fmt: skip
    transform = {"resize": [16, 16]}
    attrs = {"network": "synthetic", "weights": "none", "weights_hash": "ab" * 32,
             "transform": transform, "precision": "float32", "taps": ["last_conv"]}  # fmt: skip
    key = f"synthetic-abababab-{settings_hash(transform, 'float32')}"
    features = store.create_features(attrs, key, {"gap": ((DIMENSION,), "float32")})
    vectors = clustered(n, dimension=DIMENSION)
    with features.lock():
        for unit in features.pending():
            rows = list(features.todo(unit))
            features.write_unit(unit, {"gap": vectors[rows]})
    build_index(store.features(), "gap_cosine", effort=20)
    return folder / "store"


@dataclass
class Server:
    """A server in a process of its own."""

    process: psutil.Process
    port: int
    path: str

    def processor(self):
        """Seconds of processor time so far."""
        used = self.process.cpu_times()
        return used.user + used.system


@contextlib.contextmanager
def server(checkout, store, path):
    """A server of a checkout, until the block ends."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONUNBUFFERED": "1"}
    code = "import sys; from alike.flows.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "serve", "--store", str(store), "--port", "0"]
    with subprocess.Popen(
        words, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True
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
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        store = asked.store or synthetic_store(Path(folder), asked.n)
        servers = {"here": stack.enter_context(server(HERE, store, PATH))}
        if asked.against:
            other = server(asked.against, store, asked.path)
            servers["against"] = stack.enter_context(other)
        lines = []
        for number in range(asked.rounds):
            for clients in asked.clients:
                for name, one in servers.items():
                    # The first round warms caches and is shown as round 0.
                    row = measured(one, clients, asked.requests, asked.n, number)
                    lines.append({"round": number, "server": name, **row})
                    print(f"round {number}, {name}, {clients} clients", file=sys.stderr)
        print(pd.DataFrame(lines).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
