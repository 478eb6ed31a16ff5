"""`make bench` fails below nine tenths of a floor and on any wrong count, and writes floors."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("bench_of_alike", ROOT / "benchmarks" / "bench.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


@pytest.mark.quick
def test_what_slips_is_a_fault():
    floors = {"a / b": 2.0, "c / d": 1.0}
    good = [("a / b", 1.81, 0), ("c / d", 5.0, 0), ("new / e", 0.1, 0)]
    assert bench.faults(good, floors) == []
    bad = [("a / b", 1.79, 0), ("c / d", 1.0, 3)]
    assert bench.faults(bad, floors) == ["a / b: 1.790 is below 0.9 of 2.000", "c / d: 3 wrong"]


def test_floors_of_one_processor_are_replaced_and_others_stay():
    text = '# head\n\n[other]\n"x / y" = 1.5\n'
    once = bench.written(text, "mine, 2 cores", [("a / b", 1.23456, 0)])
    again = bench.written(once, "mine, 2 cores", [("a / b", 2.0, 0), ('c "d"', 1.0, 0)])
    assert again.startswith("# head\n")
    assert tomllib.loads(again) == {
        "other": {"x / y": 1.5},
        "mine, 2 cores": {"a / b": 2.0, 'c "d"': 1.0},
    }
    tomllib.loads((ROOT / "benchmarks" / "floors.toml").read_text(encoding="utf-8"))


def test_a_part_that_dies_is_a_fault_and_what_it_measured_stays(monkeypatch):
    def run(command, **_):
        code = 'print(\'{"name": "a", "ratio": 1.0, "wrong": 0}\', flush=True); '
        code += "print('{\"left out\": \"peer: no\"}', flush=True); raise SystemExit('no memory')"
        return real([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    real = bench.subprocess.run
    monkeypatch.setattr(bench.subprocess, "run", run)
    lines, absent = bench.run_part("pairs")
    assert lines[0] == ("a", 1.0, 0)
    assert absent == ["peer: no"]
    assert bench.faults(lines, {}) == ["pairs: died (no memory): 1 wrong"]
