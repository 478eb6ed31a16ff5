"""compose.yaml, which cannot be run without Docker: its commands and names are those that exist."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from alike.flows.cli import app

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]


@pytest.mark.quick
def test_services_depend_on_services_and_secrets_come_from_outside(services):
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        for variable, value in service.get("environment", {}).items():
            if any(word in variable for word in ("PASSWORD", "SECRET", "TOKEN")):
                assert str(value).startswith("${"), (name, variable)
        # Nothing but the page and Prefect's own can be reached, and from this machine alone.
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.quick
def test_the_commands_of_alike_are_understood(services):
    ours = [one["command"] for one in services.values() if one.get("command", [""])[0] == "alike"]
    assert len(ours) == 2
    for words in ours:
        # An option that does not exist is refused before the help is shown.
        done = CliRunner().invoke(app, [*words[1:], "--help"])
        assert done.exit_code == 0, done.output
    assert CliRunner().invoke(app, ["schedule", "--no-such", "--help"]).exit_code != 0


def test_the_commands_of_dask_and_prefect_know_their_options(services):
    for program in ("dask", "prefect"):
        for words in (one.get("command", [""]) for one in services.values()):
            if words[0] != program:
                continue
            n_names = 3 if program == "prefect" else 2
            told = subprocess.run(
                [sys.executable, "-m", program, *words[1:n_names], "--help"],
                capture_output=True,
                text=True,
            )
            assert told.returncode == 0, told.stderr
            for option in (word for word in words if word.startswith("--")):
                assert option in told.stdout or option.replace("--no-", "--") in told.stdout, option
