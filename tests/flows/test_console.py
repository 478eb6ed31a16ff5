"""Progress: how many, how fast, how long still; bars on a terminal, lines elsewhere."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from alike.analysis.explain import PAIR_EXPLAINERS
from alike.analysis.explain.grade.grade import table_of
from alike.analysis.explain.grade.pairs import PAIR_NUMBERS
from alike.flows import console
from alike.flows.explaining import grades_shown


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


@pytest.mark.quick
def test_grades_fit_a_terminal_of_100_columns(monkeypatch):
    draw = np.random.default_rng(0)
    names = ["likeness", *PAIR_EXPLAINERS, "energy", "random"]
    numbers = {
        name: {
            number: -0.02 - 0.001 * draw.random(9) if number != "agreement" else draw.normal(size=9)
            for number in PAIR_NUMBERS
        }
        for name in names
    }
    numbers["energy"]["deletion_to_energy"] = np.full(9, np.nan)
    numbers["likeness"]["deletion"][3] = np.nan
    table = table_of(numbers, 9, (7, 7), PAIR_NUMBERS)
    table = pd.concat([table.assign(pairs="same class"), table.assign(pairs="different classes")])
    shown = grades_shown(table)
    title = "9 pairs, 49 cells, 8 of likeness"
    assert list(shown) == [f", same class, {title}", f", different classes, {title}"]
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for part in shown.values():
        console.print_table(part)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in terminal.getvalue().splitlines()]
    assert len(lines) == 2 * (2 + len(names))
    for name in names:
        assert sum(line.split()[:1] == [name] for line in lines) == 2
    row = table[table["explainer"] == "energy"].iloc[0]
    cells = next(line.split() for line in lines if line.startswith("energy"))
    assert cells[1] == f"{row['deletion']:.3f}".replace("0.", ".")
    assert cells[2] == f"{row['deletion_to_random']:.3f}*".replace("0.", ".")
    assert max(map(len, lines)) <= 100


@pytest.mark.quick
def test_names_that_look_like_markup_are_printed_as_they_are(capsys):
    """A file may be named so, and a message may name a section of the settings."""
    names = ["w[/b].png", "[images] bad_share", "[red]x[/red]", "\\[b]"]
    console.print_table(pd.DataFrame({"[path]": names, "share": 0.25}), "[bold]title")
    shown = capsys.readouterr().out
    assert all(name in shown for name in ["[path]", "[bold]title", *names])


@pytest.mark.quick
def test_columns_of_one_name_are_printed_both(capsys):
    """As of a run that is compared with itself."""
    table = pd.DataFrame([("a", 0.5, 0.25), ("b", 1.0, 0.75)], columns=["score", "last", "last"])
    console.print_table(table)
    lines = capsys.readouterr().out.split("\n")
    assert [line.split() for line in lines[:2]] == [["score", "last", "last"], ["a", "0.5", "0.25"]]


def test_a_table_shows_urls_of_images_without_their_secrets(capsys):
    console.print_table(pd.DataFrame({"path": ["s3://b/1.png?X-Amz-Signature=abc", "a?b.png"]}))
    assert capsys.readouterr().out.split() == ["path", "s3://b/1.png?***", "a?b.png"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_documents_are_json_in_any_encoding_of_the_terminal(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    value = {"label": "Käfer 虫 🐞"}
    console.print_json(value)
    sys.stdout.flush()
    assert json.loads(written.getvalue().decode(encoding)) == value


def test_streams_that_are_closed_or_cannot_write_all_text_end_no_command():
    script = "import sys; from alike.flows.cli import _ready_streams; _ready_streams(); {}"
    said = 'print("K\\u00e4fer"); print("warned", file=sys.stderr)'
    for closed, status in ((">&-", 0), ("2>&-", 0), (">&- 2>&-", 0)):
        command = [sys.executable, "-c", script.format(f"{said}; open('/dev/null')")]
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
        done = subprocess.run(
            shell, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
        )
        assert done.returncode == status, (closed, done.stderr)
        assert done.stdout in (b"", b"K\\xe4fer\n")
