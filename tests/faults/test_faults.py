"""Whatever happens to a store's files: a right answer, one clear line, or a repair.

A good store and its answers are made once. Every case copies it, damages one thing, and runs the
first reader, `verify`, one drawn command, and the extraction that mends. 48 fixed cases run always,
1,600 with ALIKE_FULL=1; `test_run_faults.py` has the other 12 and 400. `ALIKE_CASES=400:800` takes
a part of them.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commands import Told, accepted, one_line, run
from damages import DAMAGES, Case, cases
from PIL import Image

COUNT = 1600 if os.environ.get("ALIKE_FULL") else 48
FIRST, LAST = (int(one) for one in os.environ.get("ALIKE_CASES", f"0:{COUNT}").split(":"))
NETWORK = """
from torch import nn
TRANSFORM = {"resize": [12, 12], "crop": None, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
CLASS_NAMES = ["0", "1", "2"]
def small():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )
"""

LS = ("store", "ls", "{store}", "--json")
VERIFY = ("store", "verify", "{store}", "--check-only", "--json")
MEND = (
    "extract", "{base}/images", "--network", "{base}/nets.py:small", "--weights", "none",
    "--store", "{store}", "--train-share", "0.3", "--taps", "last_conv,fc,logits", "--json",
)  # fmt: skip
READERS = (
    ("store", "ls", "{store}", "--bad", "--json"),
    ("store", "log", "{store}", "--json"),
    ("store", "gc", "{store}", "--dry-run", "--json"),
    ("neighbours", "3", "--store", "{store}", "-k", "3", "--json"),
    ("neighbours", "{base}/images/1/4.png", "--store", "{store}", "-k", "3", "--json"),
    ("neighbours", "7", "--store", "{store}", "--same-class", "--json"),
    ("explain", "3", "--store", "{store}", "--methods", "cam", "--to", "{out}", "--json"),
    ("export", "--store", "{store}", "--to", "{out}/e.parquet"),
    ("store", "export", "{store}", "--to", "{out}/g.h5", "--json"),
    ("report", "--store", "{store}", "--to", "{out}/r.html"),
    ("index", "--store", "{store}", "--json"),
    ("analyse", "--store", "{store}", "--measures", "gap_cosine", "--json"),
    (
        "compare", "{key}", "{key}", "--store", "{store}", "--store-b", "{base}/store", "--measure",
        "gap_euclid", "--json",
    ),
    ("map", "--store", "{store}", "--json"),
    ("retrain", "--store", "{store}", "--epochs", "1", "--to", "{out}/run", "--json"),
    ("serve", "--store", "{store}", "--port", "0"),
    ("card", "--store", "{store}", "--to", "{out}/card.json", "--json"),
    ("twins", "--store", "{store}", "--json"),
)  # fmt: skip
ANSWER = ("neighbours", "3", "--store", "{store}", "-k", "35", "--json")


@dataclass(frozen=True)
class Bench:
    """A good store, what its commands answer, and room for copies of it.

    Attributes:
        base: folder with images, network and the good store.
        good: command to its answer on the good store.
    """

    base: Path
    good: dict[tuple[str, ...], Told]

    def run(self, command: tuple[str, ...], store: Path, out: Path) -> Told:
        """Run a command on a store."""
        places = {"store": store, "base": self.base, "out": out}
        return run(command, {**places, "key": self.key})

    @property
    def key(self) -> str:
        """Of the features in the good store; nothing as long as there are none."""
        return "".join(place.name for place in self.base.glob("store/ledger/*"))


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Bench:
    base = tmp_path_factory.mktemp("good")
    draw = np.random.default_rng(0)
    for label in range(3):
        (base / "images" / str(label)).mkdir(parents=True)
        for number in range(12):
            pixels = draw.integers(0, 60, (12, 12, 3)).astype("uint8")
            pixels[:, 4 * label : 4 * label + 4] += 150
            Image.fromarray(pixels).save(base / "images" / str(label) / f"{number}.png")
    (base / "nets.py").write_text(NETWORK)
    made = Bench(base, {})
    store = base / "store"
    for command in (
        MEND,
        ("index", "--store", "{store}", "--json"),
        ("analyse", "--store", "{store}", "--measures", "gap_cosine", "--json"),
    ):
        told = made.run(command, store, base)
        assert told.status == 0, told.err
    for number, command in enumerate((LS, VERIFY, ANSWER, *READERS)):
        out = base / f"out{number}"
        out.mkdir()
        again = base / "again"
        shutil.copytree(store, again)
        made.good[command] = made.run(command, again, out)
        shutil.rmtree(again)
        assert made.good[command].status == 0, made.good[command].err
    return made


@pytest.mark.parametrize("case", cases(LAST)[FIRST:], ids=str)
def test_damage(case: Case, bench: Bench, tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    out.mkdir()
    shutil.copytree(bench.base / "store", store)
    name = case.befall(store)
    where = f"{case.damage.name}: {name}"

    told = bench.run(LS, store, out)
    assert accepted(told, bench.good[LS], name), f"{where}: ls: {told}"

    checked = bench.run(VERIFY, store, out)
    if checked.status == 1 and checked.out:
        assert json.loads(checked.out)["damage"], where
    else:
        assert accepted(checked, bench.good[VERIFY], name), f"{where}: verify: {checked}"
    if case.damage.told and not name.startswith("index/"):
        assert checked.status != 0, f"{where}: verify finds nothing"

    command = READERS[case.command % len(READERS)]
    told = bench.run(command, store, out)
    assert accepted(told, bench.good[command], name), f"{where}: {' '.join(command)}: {told}"

    answer = bench.run(ANSWER, store, out)
    assert accepted(answer, bench.good[ANSWER], name), f"{where}: neighbours: {answer}"
    if case.seed % 4 == 0:
        mended = bench.run(MEND, store, out)
        assert mended.status == 0 or one_line(mended), f"{where}: extract: {mended}"
        answer = bench.run(ANSWER, store, out)
        assert accepted(answer, bench.good[ANSWER], name), f"{where}: mended, then: {answer}"


def test_the_harness_sees_wrong_answers(bench: Bench) -> None:
    good = bench.good[ANSWER]
    assert accepted(good, good, "x.json")
    assert not accepted(Told(0, good.out.replace("0.", "1."), ""), good, "x.json")
    assert not accepted(Told(None, "", "it hangs"), good, "x.json")
    assert not accepted(Told(None, "", "Traceback: KeyError: 'x'"), good, "x.json")
    assert not accepted(Told(2, "", "alike: a\nb\n"), good, "x.json")
    assert accepted(Told(2, "", "alike: a is damaged\n"), good, "x.json")
    assert accepted(Told(2, "", "extract network: the code changed\nalike: a\n"), good, "x.json")
    assert not accepted(Told(2, "", "KeyError: 'x'\nalike: a\n"), good, "x.json")


@pytest.mark.quick
def test_every_kind_of_damage_is_among_the_fixed_cases() -> None:
    assert {case.damage.name for case in cases(48)} == {one.name for one in DAMAGES}
