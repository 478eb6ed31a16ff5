"""Progress: how many, how fast, how long still; bars on a terminal, lines elsewhere."""

import io
import re
import sys

import pytest

from alike.flows import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_tell_rate_and_time_left(monkeypatch, capsys):
    clock = iter([0.0, 4.0, 6.0, 12.0, 30.0, 31.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress_bars() as report:
        for done in (1, 2, 3, 6, 10):
            report("pairs", done, 10, "0.5 blocks/s")
        report("pairs", 1, 10)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "pairs: 3/10 0.5 blocks/s, 21 s left",
        "pairs: 6/10 0.5 blocks/s, 10 s left",
        "pairs: 10/10 0.5 blocks/s",
    ]


def test_bars_tell_rate_and_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with console.progress_bars() as report:
        report("pairs", 3, 10, "0.5 blocks/s")
    said = sys.stderr.getvalue()
    for part in ("pairs", "3/10", "0.5 blocks/s"):
        assert part in said
    assert re.search(r"[-\d]:[-\d]{2}:[-\d]{2}", said)


@pytest.mark.quick
def test_json_has_no_nan(capsys):
    console.print_json({"value": float("nan"), "other": 1.5})
    assert '"value": null' in capsys.readouterr().out
