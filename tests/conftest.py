"""What all tests share: the folder of real images and weights that stands beside a checkout."""

import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def benchmark():
    """Name to a module of `benchmarks`, which is not installed; the path stays as it was."""
    root = str(Path(__file__).resolve().parents[1])

    def module(name: str) -> Any:
        sys.path.insert(0, root)
        try:
            return importlib.import_module(f"benchmarks.{name}")
        finally:
            sys.path.remove(root)

    return module


@pytest.fixture(scope="session")
def nearest_alone():
    """A table `class_pairs` of all pairs, and a number, to the table that many classes have.

    Each class keeps its own row and those of so many others nearest to it; deviations and quantiles
    are gone.
    """

    def table(class_pairs: pd.DataFrame, nearest: int) -> pd.DataFrame:
        own = class_pairs["class_a"].astype(str) == class_pairs["class_b"].astype(str)
        keys = ["measure", "class_a"]
        near = class_pairs[~own].sort_values("mean").groupby(keys, observed=True).head(nearest)
        few = class_pairs.loc[class_pairs[own].index.union(near.index)].reset_index(drop=True)
        spreads = [name for name in ("std", "q05", "median", "q95") if name in few]
        return few.assign(**dict.fromkeys(spreads, np.nan))

    return table


@pytest.fixture(scope="session")
def very_many_classes() -> dict[str, pd.DataFrame]:
    """The tables of 5,000 classes of two images by `gap_cosine`; classes lie on a line."""
    n, draw = 5000, np.random.default_rng(0)
    names = [f"n{number:08d}" for number in range(n)]
    spots = draw.random(n)
    line, others = np.argsort(spots), np.delete(np.arange(-10, 11), 10)
    near = line[(np.argsort(line)[:, None] + others) % n]
    a, b = np.repeat(np.arange(n), 21), np.column_stack([np.arange(n), near]).ravel()
    sides = {
        side: pd.Categorical.from_codes(at, names) for side, at in (("class_a", a), ("class_b", b))
    }
    means = np.where(a == b, 0.1, 0.1 + np.abs(spots[a] - spots[b]))
    class_pairs = pd.DataFrame({
        "measure": pd.Categorical(["gap_cosine"] * len(a)), **sides, "mean": means,
        **dict.fromkeys(("std", "q05", "median", "q95"), np.nan),
        "n_pairs": np.where(a == b, 1, 4),
    })  # fmt: skip
    sameness = draw.uniform(-1, 1, n)
    ends = {"sameness_low": np.nan, "sameness_high": np.nan}
    per_class = pd.DataFrame({
        "measure": "gap_cosine", "class": names, "n": 2, "auc": (1 + sameness) / 2,
        "sameness": sameness, **ends, "balanced_accuracy": (1 + sameness) / 2, "intra_mean": 0.1,
        "inter_mean": 0.4,
    })  # fmt: skip
    return {"class_pairs": class_pairs, "per_class": per_class}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real images and weights; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real images and weights in {SHARED}")
    return SHARED


NETWORK = """
from torch import nn

TRANSFORM = {"resize": [12, 12]}


def net(classes=3):
    body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))
"""


@dataclass(frozen=True)
class TinySet:
    """A few images of three classes, and the file of a network that takes milliseconds."""

    folder: Path
    images: Path
    network: str


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> TinySet:
    folder = tmp_path_factory.mktemp("tiny")
    draw = np.random.default_rng(0)
    for label in ("a<b>&", "b", "c"):
        colour = draw.integers(0, 256, 3)
        for number in range(9):
            pixels = (
                colour + 3 * draw.integers(0, 256, (3, 3, 3)).repeat(4, axis=0).repeat(5, 1)
            ) // 4
            path = folder / "images" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / "net.py").write_text(NETWORK)
    return TinySet(folder, folder / "images", f"{folder / 'net.py'}:net")


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def copy_checkout():
    """Copies what a build reads of this checkout, links as links, to a folder."""

    def copy(to: Path) -> Path:
        to.mkdir()
        for name in ("alike", "analysis", "extract", "flows", "index", "serve", "train", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, to / name, symlinks=True, ignore=ignored)
        for path in ROOT.iterdir():
            if path.is_file() and not path.name.startswith("."):
                shutil.copy(path, to)
        return to

    return copy


@pytest.fixture(scope="session")
def checkout(copy_checkout, tmp_path_factory) -> Path:
    """A copy of this checkout, to be built in."""
    return copy_checkout(tmp_path_factory.mktemp("checkout") / "alike")


@pytest.fixture(scope="session")
def wheel(checkout) -> Path:
    """The wheel of this checkout, built without a network."""
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    (checkout / "dist").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True, capture_output=True)
    return next((checkout / "dist").glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder for `PYTHONPATH` that holds what a user installs: the wheel, unpacked."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


QUICK = "quick"
"""Mark of the tests that `make quick` runs: one a file at least, each well under a second."""


LONGEST = (
    "test_foreign_folder.py",
    "serve/test_browser.py",
    "flows/test_demo.py",
    "flows/test_other_s3.py",
    "flows/test_same_again.py",
    "flows/test_serving.py",
    "flows/test_soak.py",
    "flows/test_remote_store.py",
    "flows/test_cluster_kill.py",
    "flows/test_train_processes.py",
    "flows/test_prefect.py",
    "index/test_tail.py",
    "flows/test_cluster.py",
    "flows/test_several_networks.py",
    "flows/test_run_kill.py",
    "flows/test_sequences.py",
)
"""Files that take longest: they come first, so that no process waits at the end for one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).resolve().parent
    rank = {tests / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(LONGEST)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only the tests that are marked quick")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{QUICK}: run by `make quick`")
    if config.option.quick:
        config.option.markexpr = QUICK


@pytest.fixture(scope="session", autouse=True)
def _own_agreements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests agree to run is kept in a folder of theirs, never in the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that lead to an S3-like service: moto's server, a process of its own here.

    With `ALIKE_S3=localbucket` it is that program, which shares no line with moto.
    """
    with _s3_service(os.environ.get("ALIKE_S3", "moto"), tmp_path_factory) as variables:
        yield variables


@pytest.fixture(scope="session")
def other_s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The same of a second implementation of S3."""
    with _s3_service("localbucket", tmp_path_factory) as variables:
        yield variables


@contextmanager
def _s3_service(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    packages = {"moto": ("s3fs", "moto.server", "flask"), "localbucket": ("s3fs", "localbucket")}
    for package in packages[name]:
        pytest.importorskip(package)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp(name)
    log = folder / "log"
    commands = {
        "moto": ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        "localbucket": ["-m", "localbucket", str(folder / "data"), "--port", str(port)],
    }
    command = [sys.executable, *commands[name]]
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 300
        while server.poll() is None and time.monotonic() < until:
            try:
                urllib.request.urlopen(url, timeout=1).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        else:
            pytest.fail(log.read_text())
        yield {
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
        }
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3_requests(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that this process sends to `s3_server`, each as "verb key", as they come."""
    import s3fs

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    sent: list[str] = []
    send = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, verb: str, *places: Any, **named: Any) -> Any:
        sent.append(f"{verb} {named.get('Key') or named.get('Prefix') or ''}")
        return await send(self, verb, *places, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    return sent
