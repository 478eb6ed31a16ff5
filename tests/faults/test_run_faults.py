"""Whatever happens to the files of a run beside its store: as `test_faults.py`, for `alike run`.

A small run that retrained its network is made once, and so is a run of `alike retrain` on its
store. Every case copies both, damages one file, runs one drawn command and `alike run`, and
compares with the good answers: the tables by their bytes, what is served by its key.
"""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from commands import Told, accepted, one_line, run
from damages import RUN_DAMAGES, Case, cases
from PIL import Image

from alike.analysis.stored import Analysis
from alike.extract.store import Store
from alike.flows import orchestration, retraining
from alike.flows import run as whole_run

COUNT = 400 if os.environ.get("ALIKE_FULL") else 12
FIRST, LAST = (int(one) for one in os.environ.get("ALIKE_RUN_CASES", f"0:{COUNT}").split(":"))

NETWORK = """
from torch import nn
TRANSFORM = {"resize": [8, 8], "crop": None, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
def small(classes=2):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes)
    )
"""

SETTINGS = """
[images]
source = "images"
[network]
name = "nets.py:small"
[analyse]
measures = ["gap_cosine"]
bootstrap = 10
[explain]
examples = 0
confused = 0
[retrain]
when = "sameness < 2"
epochs = 3
minimum_gain = -2
accuracy_margin = 1
[output]
folder = "out"
"""

RUN = ("run", "{place}/pipeline.toml", "--json")
RETRAIN = ("retrain", "--store", "{place}/out/store", "--epochs", "1", "--to", "{place}/again")
READERS = (
    (*RETRAIN, "--json"),
    RUN,
    (
        "extract", "{place}/images", "--network", "{place}/nets.py:small", "--weights",
        "{place}/again", "--store", "{place}/new", "--train-share", "0.5", "--json",
    ),
    ("neighbours", "3", "--store", "{place}/out/store", "-k", "3", "--json"),
    ("analyse", "--store", "{place}/out/store", "--measures", "gap_cosine", "--json"),
    ("runs", "ls", "{place}/pipeline.toml", "--json"),
    ("runs", "show", "{place}/pipeline.toml", "--json"),
    ("status", "{place}/pipeline.toml", "--json"),
)  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """A good run and what its commands answer.

    Attributes:
        base: folder of images, network, settings, and of the runs.
        good: command to its answer on a copy of the folder.
        served: key of the network that the run serves, with the bytes of its tables.
    """

    base: Path
    good: dict[tuple[str, ...], Told]
    served: tuple[str, dict[str, bytes]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        # Steps are called as they are; Prefect's server takes longer than all the rest.
        for module in (whole_run, retraining):
            patch.setattr(module, "step", lambda function, _: function)
        # The report shows the tables; drawing it takes longer than all the rest.
        patch.setattr(
            whole_run,
            "_report",
            lambda run, before, rounds, path, past: path.write_text(rounds.served),
        )
        patch.setattr(orchestration, "prepare", lambda *_, **__: None)
        patch.setattr("alike.flows.pipeline.run_pipeline", whole_run.run_settings_file)
        yield _made(tmp_path_factory.mktemp("run"))


def _made(folder: Path) -> Answers:
    base = folder / "base"
    draw = np.random.default_rng(0)
    for label in range(2):
        (base / "images" / str(label)).mkdir(parents=True)
        for number in range(16):
            pixels = draw.integers(0, 200, (8, 8, 3)).astype("uint8")
            pixels[:, 4 * label : 4 * label + 4] += 40
            Image.fromarray(pixels).save(base / "images" / str(label) / f"{number}.png")
    (base / "nets.py").write_text(NETWORK)
    (base / "pipeline.toml").write_text(SETTINGS)
    for command in (RUN, RETRAIN):
        told = run(command, {"place": base})
        assert told.status == 0, told.err
    made = Answers(base, {}, served(base))
    assert "weights/gap_supcon" in (base / "out" / "decisions.jsonl").read_text()
    for command in READERS:
        copy = folder / "copy"
        shutil.copytree(base, copy)
        made.good[command] = plain(run(command, {"place": copy}))
        assert made.good[command].status == 0, made.good[command].err
        shutil.rmtree(copy)
    return made


def served(place: Path) -> tuple[str, dict[str, bytes]]:
    """What a run serves: the key, and its tables as they are written anew."""
    store = Store.open(place / "out" / "store")
    key = store.features().key
    tables = Analysis.load(store, key).tables
    return key, {name: table.to_csv().encode() for name, table in sorted(tables.items())}


VARYING = ("seconds", "reused", "notes", "decisions", "n_computed", "last_epoch", "stages")


def plain(told: Told) -> Told:
    """An answer without how it came about: whether it was there already, and in what time."""
    if told.status != 0:
        return told
    answer = json.loads(told.out)
    if isinstance(answer, dict):
        answer = {name: value for name, value in answer.items() if name not in VARYING}
    return replace(told, out=json.dumps(answer))


@pytest.mark.parametrize("case", cases(LAST, RUN_DAMAGES)[FIRST:], ids=str)
def test_damage_to_a_run(case: Case, answers: Answers, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(answers.base, place)
    name = case.befall(place)
    where = f"{case.damage.name}: {name}"

    command = READERS[case.command % len(READERS)]
    told = plain(run(command, {"place": place}))
    assert accepted(told, answers.good[command], name), f"{where}: {command[0]}: {told}"

    told = run(RUN, {"place": place})
    if told.status == 0:
        assert served(place) == answers.served, f"{where}: run: {told}"
    else:
        assert one_line(told), f"{where}: run: {told}"
        assert Path(name).stem in told.err, f"{where}: run does not name the file: {told}"


@pytest.mark.quick
def test_every_kind_of_damage_befalls_a_run() -> None:
    assert {case.damage.name for case in cases(400, RUN_DAMAGES)} == {
        one.name for one in RUN_DAMAGES
    }
