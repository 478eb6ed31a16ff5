"""Log lines as JSON: every line on standard error is one object, and shows no secret."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from changing_set import RIGHT, Place
from scheduled_service import lines_of

from alike.extract import secrets
from alike.flows import console, log_lines
from alike.flows.log_lines import (
    PREFECT_JSON,
    JsonLines,
    choose,
    forget_choice,
    json_line,
    say,
    step_named,
)

ROOT = Path(__file__).parents[2]
COMMAND = "from alike.flows.cli import main; main()"
SECRET = "correct-horse-battery"


@pytest.fixture
def as_json():
    choose("json", by_option=True)
    yield
    forget_choice()


@pytest.mark.quick
def test_a_line_is_one_object_whatever_it_says(as_json, capsys, monkeypatch):
    monkeypatch.setattr(secrets, "_values", {})
    secrets.hide(SECRET, "${DB_PASSWORD}")
    say('two\nlines, "quotes", \x1b[1m, \u2028 and ä')
    with step_named("extract resnet18"):
        say(f"s3://me:pw@bucket/x with {SECRET}", level="warning")
    say("elsewhere", step="index", done=3)
    first, second, third = lines_of(capsys.readouterr().err.replace("\u2028", "\\u2028"))
    assert first["message"] == 'two\nlines, "quotes", \x1b[1m, \u2028 and ä'
    assert (first["level"], first["step"]) == ("info", "")
    assert second["message"] == "s3://***@bucket/x with ${DB_PASSWORD}"
    assert (second["level"], second["step"]) == ("warning", "extract resnet18")
    assert (third["step"], third["done"]) == ("index", 3)


@pytest.mark.quick
def test_an_option_goes_before_a_setting_and_text_is_plain(capsys):
    choose("text", by_option=True)
    choose("json")
    say("plain", level="error", step="index")
    forget_choice()
    assert capsys.readouterr().err == "plain\n"
    assert not log_lines.is_json()


@pytest.mark.quick
def test_what_a_library_prints_as_text_is_a_line_too(capsys, as_json, monkeypatch):
    """As Prefect does where its server does not answer: its second line has no end."""
    forget_choice()
    choose("json", by_option=True)  # again: between fixtures and a test pytest sets the stream
    monkeypatch.setattr(secrets, "_values", {})
    secrets.hide(SECRET, "${DB_PASSWORD}")
    sys.stderr.write("--- Error logging to API ---\n")
    sys.stderr.write(f"no answer to {SECRET}")
    say("goes on", step="index")
    print("in", "parts", file=sys.stderr)
    logging.getLogger("a.library").error("fails")
    sys.stderr.writelines(["\n", "[1, 2]\n", "and at\n\nthe end"])
    sys.stderr.flush()
    lines = lines_of(capsys.readouterr().err)
    assert [(line["message"], line.get("logger")) for line in lines] == [
        ("--- Error logging to API ---", "stderr"),
        ("no answer to ${DB_PASSWORD}", "stderr"),
        ("goes on", None),
        ("in parts", "stderr"),
        ("fails", "a.library"),
        ("[1, 2]", "stderr"),
        ("and at", "stderr"),
        ("the end", "stderr"),
    ]
    assert {line["level"] for line in lines if line.get("logger") == "stderr"} == {"warning"}


def test_progress_and_other_loggers_are_lines_too(as_json, capsys, monkeypatch):
    clock = iter([0.0, 4.0, 6.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress_bars() as report:
        for done in (1, 2, 3):
            report("pairs", done, 10, "0.5 blocks/s")
        report("list", 0, 0, "a note")
    progress, note = lines_of(capsys.readouterr().err)
    assert (progress["step"], progress["message"], progress["done"], progress["total"]) == (
        "pairs", "3/10 0.5 blocks/s, 21 s left", 3, 10,
    )  # fmt: skip
    assert (note["step"], note["message"]) == ("list", "a note")
    record = logging.makeLogRecord({"msg": "%s is late", "args": ("worker",), "levelname": "ERROR"})
    record.task_run_name = "index resnet18"
    try:
        raise ValueError("s3://me:pw@bucket")
    except ValueError:
        record.exc_info = sys.exc_info()
    (line,) = lines_of(JsonLines("ignored", None, "%").format(record))
    assert (line["level"], line["step"], line["message"]) == (
        "error", "index resnet18", "worker is late",
    )  # fmt: skip
    assert "ValueError: s3://***@bucket" in line["traceback"]
    assert json.loads(json_line("x", level="info", step="", seconds=0.5))["time"] == (
        "1970-01-01T00:00:00.500+00:00"
    )


def alike(*words, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, words)],
        env={**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


def test_an_error_is_a_line(tmp_path):
    done = alike("--log-format", "json", "run", tmp_path / "none.toml")
    (line,) = lines_of(done.stderr)
    assert (done.returncode, line["level"]) == (2, "error")
    assert "no such file" in line["message"]
    assert not line["message"].startswith("alike:")
    (plain,) = alike("run", tmp_path / "none.toml").stderr.splitlines()
    assert plain == f"alike: {line['message']}"


@pytest.mark.skipif(os.environ.get("ALIKE_FULL") != "1", reason="30 CPU s: set ALIKE_FULL=1")
def test_a_whole_run_by_its_settings(tmp_path):
    """Under Prefect, as it is; the command of the alarm is a secret, and fails."""
    place = Place(tmp_path, now={**RIGHT, "measures": ["gap_cosine"]})
    place.stores["out"] = (
        'logs = "json"\n[alarm]\nwhen = ["images < 1000"]\ncommand = ["no-such-${HOOK_TOKEN}"]\n'
    )
    done = alike("run", place.write_settings("out"), "--json", HOOK_TOKEN=SECRET)
    assert done.returncode == 3, done.stderr
    lines = lines_of(done.stderr)
    steps = {line["step"] for line in lines}
    assert {"analyse net.py:small", "index net.py:small"} <= steps, steps
    said = "\n".join(line["message"] for line in lines)
    assert "no-such-${HOOK_TOKEN}" in said, said
    assert SECRET not in done.stderr + done.stdout
    assert json.loads(done.stdout)["alarms"]


def test_lines_of_prefect_are_lines_from_every_logger():
    names = ["prefect.client", "prefect._internal.concurrency", "uvicorn", "a.library"]
    code = (
        "import logging, sys; from prefect.logging.configuration import setup_logging\n"
        "setup_logging()\n"
        "for name in sys.argv[1:]: logging.getLogger(name).error('it\\nfails')\n"
        "sys.stderr.write('text at the end of a process')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        env={**os.environ, "PYTHONPATH": str(ROOT), **PREFECT_JSON},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    said = [*["it\nfails"] * len(names), "text at the end of a process"]
    assert [line["message"] for line in lines] == said
