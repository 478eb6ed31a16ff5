"""A store of real files and a real network, served by `alike serve` in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
from PIL import Image

from .browser import browser

ROOT = Path(__file__).resolve().parents[2]
NETWORK = """
from torch import nn

TRANSFORM = {"resize": [16, 16]}

def small(classes=3):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""


def write_runs(store):
    """Four runs in the history of a store, oldest first; the first one's scores mean else."""
    from alike.flows.history import FurtherNetwork, History, RunRecord

    def run(number, sameness, ok, **more):
        scores = {
            "gap_cosine": {
                "sameness": [sameness, sameness - 0.1, sameness + 0.1],
                "one_nn": [sameness / 2, None, None],
            },
            "network": {"accuracy": [0.5, 0.25, 0.75]},
        }
        return RunRecord(
            f"2026010{number}T000000000000-aaaaa{number}", f"2026-01-0{number}T00:00:00+00:00", 1.5,
            "good", **{"scores": scores, "series": "new", **more}, measure="gap_cosine",
            versions={"torch": "2.0"},
            network={"name": "folder/nets.py:small", "weights": "ab" * 32},
            counts={"listed": ok + 1, "bad": 1, "ok": ok},
        )  # fmt: skip

    wide = FurtherNetwork(
        {"name": "nets.py:wide", "weights": "cd" * 32, "features": "wide-1"}, {"ok": 20}, "new",
        "gap_cosine", {"gap_cosine": {"sameness": [0.625, 0.5, 0.75]}},
    )  # fmt: skip
    failed = RunRecord(
        "20260103T000000000000-aaaaa3", "2026-01-03T00:00:00+00:00", 0.5, "failed",
        settings={"analyse.bootstrap": 50, "images.source": "set"}, error="BadInput: no <images>",
    )  # fmt: skip
    runs = [
        run(1, 0.5, 18, series="old", settings={"analyse.bootstrap": 10, "images.source": "set"}),
        run(2, 0.25, 19, settings={"analyse.bootstrap": 10, "images.source": "set"}),
        failed,
        run(4, 0.375, 20, settings={"analyse.bootstrap": 50, "images.source": "set"},
            others={"nets.py:wide": wide}),
    ]  # fmt: skip
    for one in runs:
        History(store).write(one)
    return runs


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with images in three classes (one name not ASCII), a network, a store, four runs."""
    from alike.extract.images.sources import open_source
    from alike.extract.networks.network import load_network
    from alike.extract.pipeline import extract
    from alike.extract.store.store import Store
    from alike.index.build import build_index

    folder = tmp_path_factory.mktemp("served")
    draw = np.random.default_rng(0)
    for label, counts in {"cat": 8, "dog": 8, "Käfer": 4}.items():
        (folder / "images" / label).mkdir(parents=True)
        for number in range(counts):
            pixels = draw.integers(0, 255, (6, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((60, 40), Image.Resampling.BICUBIC)
            picture.save(folder / "images" / label / f"{number}.png")
    (folder / "nets.py").write_text(NETWORK)
    store = Store.open(folder / "store", create=True)
    network = load_network(f"{folder}/nets.py:small", "none")
    source = open_source(str(folder / "images"))
    report = extract(source, network, store, taps=("last_conv", "logits"), device="cpu")
    build_index(store.features(report.key), "gap_cosine")
    write_runs(store)
    return folder


@pytest.fixture(scope="session")
def analysed(place):
    """The analysis and the map of the store."""
    from alike.analysis.analyse import AnalysisSettings, analyse
    from alike.analysis.maps import MapSettings, make_map
    from alike.extract.store.store import Store

    features = Store.open(place / "store").features()
    settings = AnalysisSettings(measures=["gap_cosine"], split="all")
    table = make_map(features, MapSettings(split="all", perplexity=3.0))
    return analyse(features, settings), table


DEEP = """
from torch import nn

TRANSFORM = {"resize": [8, 8]}

def deep(width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))

def wide():
    return deep(12)
"""


@pytest.fixture(scope="session")
def two_networks(tmp_path_factory):
    """A store of 120 images, some of a wrong label, by two networks; and the first analysis.

    Both have layers, enough images for the curve of sufficiency, and an index.
    """
    from alike.analysis.analyse import AnalysisSettings, analyse
    from alike.extract.images.sources import open_source
    from alike.extract.networks.network import load_network
    from alike.extract.pipeline import extract
    from alike.extract.store.store import Store
    from alike.index.build import build_index

    folder = tmp_path_factory.mktemp("two")
    draw = np.random.default_rng(1)
    for number, label in enumerate(("ant", "bee", "=wasp")):
        (folder / "images" / label).mkdir(parents=True)
        for image in range(40):
            pixels = draw.integers(0, 160, (8, 8, 3), dtype=np.uint8)
            pixels[..., (number + (image < 3)) % 3] += 60
            Image.fromarray(pixels).save(folder / "images" / label / f"{image}.png")
    (folder / "nets.py").write_text(DEEP)
    store = Store.open(folder / "store", create=True)
    settings = AnalysisSettings(measures=["gap_cosine"], split="all")
    analyses = []
    for name in ("deep", "wide"):
        network = load_network(f"{folder}/nets.py:{name}", "none")
        source = open_source(str(folder / "images"))
        taps = ("last_conv", "logits", "layers")
        key = extract(source, network, store, taps=taps, device="cpu").key
        build_index(store.features(key), "gap_cosine")
        analyses.append(analyse(store.features(key), settings))
    return folder, analyses[0]


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory):
    """A store of 130 images without labels, three of them odd; one file is torn, one is gone."""
    from alike.analysis.maps import MapSettings, make_map
    from alike.extract.images.sources import open_source
    from alike.extract.networks.network import load_network
    from alike.extract.pipeline import extract
    from alike.extract.store.store import Store
    from alike.index.build import build_index

    folder = tmp_path_factory.mktemp("unlabelled")
    (folder / "images").mkdir()
    draw = np.random.default_rng(2)
    for number in range(130):
        pixels = draw.integers(0, 30, (12, 12, 3), dtype=np.uint8)
        pixels[..., number % 3] += 90
        if number in (40, 80, 120):
            pixels = np.full((12, 12, 3), (250, 255, 240), np.uint8) - pixels // 8
        Image.fromarray(pixels).save(folder / "images" / f"{number:03d}.png")
    (folder / "images" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "images" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "nets.py").write_text(NETWORK)
    store = Store.open(folder / "store", create=True)
    network = load_network(f"{folder}/nets.py:small", "none")
    source = open_source(str(folder / "images"))
    key = extract(source, network, store, taps=("last_conv",), device="cpu").key
    build_index(store.features(key), "gap_cosine")
    make_map(store.features(key), MapSettings(split="all"))
    return folder / "store"


class Client:
    """Asks the server as a browser would."""

    def __init__(self, address):
        self.address = address.rstrip("/")

    def get(self, path, data=None, method=None, **headers):
        """Status, headers and body."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = urllib.request.Request(self.address + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=60) as told:
                return told.status, told.headers, told.read()
        except HTTPError as error:
            return error.code, error.headers, error.read()

    def json(self, path, data=None):
        """What a good answer says."""
        status, _, body = self.get(path, data)
        assert status == 200, body
        return json.loads(body)


@contextmanager
def server(*stores, options=()):
    """A server in a process of its own, as somebody starts it; `address` is what it printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "XDG_CACHE_HOME": str(Path(stores[0]).parent / "cache"),
    }
    command = "import sys; from alike.flows.cli import main; sys.exit(main())"
    started = [sys.executable, "-c", command, "serve", *map(str, stores), "--port", "0"]
    started += options
    with subprocess.Popen(started, env=environment, stdout=subprocess.PIPE, text=True) as process:
        client = Client(process.stdout.readline().strip())
        assert client.address.startswith("http://"), client.address
        client.process = process
        try:
            yield client
        finally:
            process.send_signal(signal.SIGINT)
            ended = process.wait()
        assert ended == 0


@pytest.fixture(scope="session")
def client(place):
    with server(place / "store") as answering:
        yield answering


@pytest.fixture(scope="session")
def opened():
    with browser() as one:
        yield one


@pytest.fixture
def page(opened):
    """A browser at a desk, with nothing in its logs."""
    opened.go("about:blank")
    opened.shape(1400, 900, dark=False)
    opened.complaints()
    opened.requests()
    return opened
