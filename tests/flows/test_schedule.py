"""A schedule: whose deployment it is, which clock it goes by; no server is started here."""

import json
import os
import re
import subprocess
import sys

import pytest

from alike.extract.errors import BadInput, StoreBusy
from alike.flows import schedule
from alike.flows.schedule import _machine_zone, deployment_name, serve_schedule, zone_of
from alike.flows.settings import read_pipeline

SETTINGS = '[images]\nsource = "photos"\n[network]\nname = "resnet18"\n'


def settings_in(folder, more=""):
    folder.mkdir(parents=True)
    file = folder / "pipeline.toml"
    file.write_text(more + SETTINGS)
    return file


def test_two_files_of_one_title_are_two_deployments(tmp_path):
    files = [settings_in(tmp_path / name / "set", 'title = "Night/run"\n') for name in "ab"]
    names = [deployment_name(file, read_pipeline(file)) for file in files]
    assert len({*names}) == 2
    assert all(re.fullmatch(r"alike-Night-run-[0-9a-f]{8}", name) for name in names)
    assert names[0] == deployment_name(files[0], read_pipeline(files[0]))
    untitled = settings_in(tmp_path / "c" / "set")
    assert deployment_name(untitled, read_pipeline(untitled)).startswith("alike-set-")


@pytest.mark.quick
def test_the_same_path_on_two_machines_is_two_deployments(tmp_path, monkeypatch):
    file = settings_in(tmp_path / "a")
    here = deployment_name(file, read_pipeline(file))
    monkeypatch.setattr(schedule.socket, "gethostname", lambda: "elsewhere")
    assert deployment_name(file, read_pipeline(file)) != here


def test_a_second_schedule_of_a_file_is_refused(tmp_path, monkeypatch):
    file = settings_in(tmp_path / "a")
    monkeypatch.setattr(schedule, "check_apart", lambda settings: None)

    def prepare(folder, quiet):
        with pytest.raises(StoreBusy, match="another schedule-"):
            serve_schedule(file, "0 2 * * *", timezone="UTC")
        raise BadInput("reached")

    monkeypatch.setattr(schedule, "prepare", prepare)
    with pytest.raises(BadInput, match="reached"):
        serve_schedule(file, "0 2 * * *", timezone="UTC")


SERVE = """
import json, sys
from pathlib import Path
from alike.flows import schedule
schedule.check_apart = lambda settings: None
schedule.start_server = lambda port, log: None
asked, lines = {}, []
def next_run(*given):
    import alike.flows.serving as serving
    serving.serve = lambda flow, deployed, limit, server, registered: asked.update(deployed)
    return real(*given)
real, schedule._next_run = schedule._next_run, next_run
schedule.serve_schedule(Path(sys.argv[1]), "0 2 * * *", timezone="Europe/Berlin", tell=lines.append)
schedule._next_run = real
when = asked["schedule"]
import datetime
for second in (0, 55):
    begun = datetime.datetime(2026, 1, 30, 0, 59, second, tzinfo=datetime.UTC)
    told = schedule._next_run("0 2 * * *", "Europe/Berlin", begun)
    schedule._tell_if_late(told, "0 2 * * *", "Europe/Berlin", lines.append, begun)
print(json.dumps([lines, asked["name"], when.cron, when.timezone, asked["parameters"]]))
"""


def test_prefect_is_asked_for_the_zone_and_the_first_line_says_it(tmp_path):
    """In a process of its own: Prefect reads its settings as it is imported."""
    file = settings_in(tmp_path / "a")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", SERVE, str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    (line, late), name, cron, zone, parameters = json.loads(done.stdout.splitlines()[-1])
    assert (cron, zone, parameters) == ("0 2 * * *", "Europe/Berlin", {"path": str(file)})
    assert line.startswith(f"{file}: 0 2 * * * in Europe/Berlin; next ")
    assert re.search(r"next \d{4}-\d\d-\d\d 02:00 \+0[12]00; deployment alike/alike-a-", line)
    assert line.endswith(name)
    # At 59:00 the server knows the schedule in time for the run at 2; at 59:55 it may not.
    assert "late for the run of 2026-01-30 02:00 +0100; next for sure 2026-01-31 02:00" in late


def test_the_machines_zone_is_meant_unless_another_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", ":America/Lima")
    assert zone_of(None) == "America/Lima"
    assert zone_of("Asia/Tokyo") == "Asia/Tokyo"
    monkeypatch.delenv("TZ")
    assert _machine_zone(tmp_path) == "UTC"
    zones = tmp_path / "zoneinfo" / "Europe"
    zones.mkdir(parents=True)
    (zones / "Paris").touch()
    (tmp_path / "localtime").symlink_to(zones / "Paris")
    assert _machine_zone(tmp_path) == "Europe/Paris"
    (tmp_path / "timezone").write_text("Asia/Seoul\n")
    assert _machine_zone(tmp_path) == "Asia/Seoul"
    (tmp_path / "timezone").unlink()
    (tmp_path / "localtime").unlink()
    (tmp_path / "localtime").touch()
    assert _machine_zone(tmp_path) is None


@pytest.mark.parametrize("name", ["Mars/Base", "../UTC", "/etc/localtime", "", "a\0b"])
def test_a_zone_that_is_none_is_named(name, monkeypatch):
    monkeypatch.setenv("TZ", "Nowhere/Here")
    with pytest.raises(BadInput, match="expected a name such as Europe/Berlin"):
        zone_of(name or None)


def test_settings_are_checked_in_a_process_of_its_own(tmp_path, monkeypatch):
    """What does not fit is refused as by `alike run`; torch is not loaded where it is served."""
    file = settings_in(tmp_path / "a")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with pytest.raises(BadInput, match="photos do not exist"):
        schedule.check_apart(file)
    with pytest.raises(BadInput, match="no such file"):
        schedule.check_apart(tmp_path / "none.toml")
