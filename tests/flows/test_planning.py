"""`alike plan`: what it says of sizes is what real runs take, and what cannot fit is refused.

`ALIKE_FULL=1` compares memory with the peak of real processes too.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from changing_set import without_prefect
from PIL import Image
from typer.testing import CliRunner

from alike.analysis.outlook import LONGEST, Load, seconds_a_pair
from alike.extract.errors import BadInput
from alike.extract.machine import usable_cores
from alike.extract.progress import silent
from alike.extract.store import Store
from alike.flows import run as whole_run
from alike.flows.cli import app
from alike.flows.planning import LISTED_BYTES, plan
from alike.flows.run import run_settings_file
from alike.flows.sampling import feature_bytes, measure
from alike.flows.settings import read_pipeline

FULL = os.environ.get("ALIKE_FULL") == "1"
SIZES = (60, 300, 1200)
SETTINGS = """
[images]
source = "set"
[network]
name = "net.py:small"
[analyse]
measures = ["gap_cosine", "gap_euclid"]
bootstrap = 10
[explain]
examples = 0
confused = 0
[output]
folder = "out"
"""
NETWORK = """
from torch import nn

TRANSFORM = {{"resize": [{side}, {side}]}}


def small(classes=5):
    body = nn.Sequential(nn.Conv2d(3, {width}, 3, padding=1), nn.ReLU())
    return nn.Sequential(
        body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear({width}, classes)
    )
"""


def make_set(folder: Path, n: int, side: int = 24, width: int = 8) -> Path:
    draw = np.random.default_rng(0)
    for number in range(n):
        file = folder / "set" / str(number % 5) / f"{number:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(file)
    (folder / "net.py").write_text(NETWORK.format(side=side, width=width))
    (folder / "pipeline.toml").write_text(SETTINGS)
    return folder / "pipeline.toml"


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Settings of 1,200 images, and what a sample of them measured."""
    folder = tmp_path_factory.mktemp("planned")
    settings = make_set(folder, max(SIZES))
    return settings, measure(read_pipeline(settings))


@pytest.mark.quick
@pytest.mark.parametrize("n", [1, 127, 129, 1024, 1500])
def test_bytes_of_features_are_those_of_the_files(n, tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    listing = {"image_id": [f"{row:064x}" for row in range(2**200, 2**200 + n)]}
    table = pd.DataFrame(listing).assign(path=listing["image_id"], label="a", size=1, state="ok")
    store.list_images(table.assign(reason=""))
    shapes = {"fc": ((96,), "float32"), "maps": ((8, 6, 6), "float16")}
    features = store.create_features({"network": "n", "weights_hash": "0"}, "n", shapes)
    draw = np.random.default_rng(0)
    for unit in features.pending():
        rows = len(features.todo(unit))
        features.write_unit(
            unit,
            {
                "fc": draw.standard_normal((rows, 96), np.float32),
                "maps": np.maximum(draw.standard_normal((rows, 8, 6, 6)), 0).astype(np.float16),
            },
        )
    for name, spec in features.arrays.items():
        shards = [spec.shard_name(unit) for unit in range(-(-n // 1024))]
        files = [store.read_file(f"features.zarr/n/{name}/{shard}") for shard in shards]
        # Compressed bytes are those of the real chunks: all but the index of each shard.
        chunks = sum(map(len, files)) - len(files) * (1024 // spec.chunk_rows * 16 + 4)
        ratio = chunks / (n * spec.row_bytes)
        actual = sum(map(len, files))
        assert feature_bytes(spec, ratio, n) == pytest.approx(actual, abs=1 if ratio < 1 else 0)


def test_sizes_are_those_of_real_runs(sampled, tmp_path, monkeypatch):
    without_prefect(monkeypatch)
    monkeypatch.setattr(whole_run, "_report", lambda run, before, rounds, path, past: path.touch())
    settings, sample = sampled
    assert sample.listed == max(SIZES)
    for n in SIZES:
        folder = tmp_path / str(n)
        for file in sorted(settings.parent.glob("set/*/*.png"), key=lambda file: file.name)[:n]:
            to = folder / "set" / file.parent.name / file.name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
        for name in ("net.py", "pipeline.toml"):
            shutil.copyfile(settings.parent / name, folder / name)
        run_settings_file(folder / "pipeline.toml", silent)
        made = plan(read_pipeline(settings), sample, n)
        actual = bytes_below(folder / "out" / "store")
        assert made.images == n
        assert made.bytes == pytest.approx(actual, rel=0.25)
        arrays = bytes_below(folder / "out" / "store" / "features.zarr")
        assert made.store["features"] == pytest.approx(arrays, rel=0.25)
        assert made.advice == []
        assert made.bound.split(",")[0] in made.seconds


def test_what_grows_and_what_cannot_fit(sampled):
    settings, sample = sampled
    pipeline = read_pipeline(settings)
    small, large = plan(pipeline, sample, 10**6), plan(pipeline, sample, 10**7)
    for part in ("features", "manifest", "twins", "index"):
        assert large.store[part] == pytest.approx(10 * small.store[part], rel=0.05)
    assert large.memory["analysis"] > small.memory["analysis"]
    assert large.memory["worker"] == small.memory["worker"]
    few, many = plan(pipeline, sample, 10**6, 1), plan(pipeline, sample, 10**6, 8)
    assert few.seconds["extract"] >= many.seconds["extract"]
    refused = plan(pipeline, sample, 10**12)
    assert len(refused.advice) == 3
    assert "last_conv takes" in refused.advice[0]
    assert "leave it out of [extract] taps" in refused.advice[0]
    assert "listing takes" in refused.advice[1]
    assert "analysis takes" in refused.advice[2]
    more = large.memory["listing"] - small.memory["listing"]
    assert more == LISTED_BYTES * (10**7 - 10**6)


def test_twins_are_searched_in_pairs_up_to_a_size(sampled):
    settings, sample = sampled
    pipeline = read_pipeline(settings)
    rates = {**sample.rates, "twin": 0.0, "twin_pair": 1e-6}
    of_pairs = replace(sample, rates=rates)
    seconds = [plan(pipeline, of_pairs, n).seconds["twins"] for n in (1000, 10_000, 10**6)]
    assert seconds == pytest.approx([999 * 500e-6, 9999 * 5000e-6, 0.0])


def test_every_measure_takes_the_time_of_its_own_vectors(sampled):
    settings, sample = sampled
    pipeline, n, dim = read_pipeline(settings), 10_000, sample.arrays["gap"].tail[0]
    trained = pipeline.network.model_copy(update={"weights": "net.pth"})
    pipeline = pipeline.model_copy(update={"network": trained})
    assert sample.dims["gap_cosine"] == dim

    def seconds(**dims):
        return plan(pipeline, replace(sample, dims=dims, fixed={}), n).seconds["analyse"]

    one, six = seconds(a=dim), seconds(**dict.fromkeys("abcdef", dim))
    # The same network with random weights is evaluated by the headline's measure alone.
    assert six / one == pytest.approx((6 + 1) / (1 + 1))
    further = Load(n, 64 * dim, n).seconds(intervals=pipeline.analyse.bootstrap > 0)
    assert seconds(a=dim, b=64 * dim) == pytest.approx(one + further / usable_cores())
    assert seconds_a_pair(5 * LONGEST) == pytest.approx(5 * seconds_a_pair(LONGEST))


def test_twins_that_the_settings_ignore_take_no_time(tmp_path):
    settings = make_set(tmp_path, 24)
    settings.write_text(
        settings.read_text().replace('source = "set"', 'source = "set"\ntwins = "ignore"')
    )
    pipeline = read_pipeline(settings)
    sample = measure(pipeline, seconds=0.1)
    assert plan(pipeline, sample, 10_000).seconds["twins"] == 0


def test_stages_share_the_processor(sampled):
    """Processor time bounds an extraction without GPUs, the slowest of the stages one on GPUs."""
    settings, sample = sampled
    pipeline = read_pipeline(settings)
    stages = {"read": 0.001, "decode": 0.002, "forward": 0.01, "write": 0.001}
    made = replace(sample, stages=stages, rates={**sample.rates, "cpu": 0.1}, fixed={})
    cores = usable_cores()
    assert plan(pipeline, made, 1000).seconds["extract"] == pytest.approx(100 / cores)
    on_gpus = plan(pipeline, made, 1000, 8).seconds["extract"]
    assert on_gpus == pytest.approx(1000 * max(0.01 / 8, 0.004 / cores))


def test_the_command(sampled):
    settings, _ = sampled
    done = CliRunner().invoke(app, ["plan", str(settings), "--images", "1e3", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["images"] == 1000
    assert told["bytes"] == sum(told["store"].values())
    done = CliRunner().invoke(app, ["plan", str(settings), "--images", "1e13"])
    assert isinstance(done.exception, BadInput)
    assert "bound by" in done.stdout
    assert not (settings.parent / "out").exists()


@pytest.mark.quick
@pytest.mark.parametrize("images", ["many", "0", "-1", "nan", "1e99", "1.5"])
def test_a_number_that_is_none(images, tmp_path):
    settings = make_set(tmp_path, 0)
    done = CliRunner().invoke(app, ["plan", str(settings), "--images", images])
    assert isinstance(done.exception, BadInput)
    assert "a whole number from 1 to 1e15" in str(done.exception)


PEAK = """
import resource, sys
from pathlib import Path
from alike.extract.progress import silent
from alike.flows import retraining
from alike.flows import run as whole
for module in (whole, retraining):
    module.step = lambda function, _: function
whole._report = lambda run, before, rounds, path, past: path.touch()
whole.run_settings_file(Path("pipeline.toml"), silent)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.skipif(not FULL, reason="minutes: set ALIKE_FULL=1")
@pytest.mark.parametrize("n", [200, 1000, 2500])
def test_memory_is_that_of_real_processes(n, tmp_path):
    settings = make_set(tmp_path, n, width=96)
    told = subprocess.check_output(
        [sys.executable, "-m", "alike", "plan", str(settings), "--json"], text=True
    )
    peak = int(subprocess.check_output([sys.executable, "-c", PEAK], cwd=tmp_path, text=True))
    assert max(json.loads(told)["memory"].values()) == pytest.approx(peak, rel=0.25)


def test_candidates_of_neighbours_are_told_of_where_they_wait(sampled, monkeypatch):
    """Of 625,000 images that the budget allows, each with 6,250 of its class."""
    settings, sample = sampled
    pipeline = read_pipeline(settings)
    assert sample.largest == 240
    assert plan(pipeline, sample).temporary == 0
    rare = replace(sample, dims={"gap_cosine": 512}, largest=12)
    made = plan(pipeline, rare, 1_000_000)
    # The rank in a sample of 8,192 images: 81.9 are expected, four standard errors and 3 more.
    assert made.temporary == int(0.5 * (121 / 8192) * 625_000**2 * 10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**10))
    notes = plan(pipeline, rare, 1_000_000).notes
    assert any(one.startswith("candidates of neighbours take 28.8 GB, and ") for one in notes)
    workers = pipeline.cluster.model_copy(update={"workers": 2})
    spread = pipeline.model_copy(update={"cluster": workers})
    assert plan(spread, rare, 1_000_000).temporary == 0
