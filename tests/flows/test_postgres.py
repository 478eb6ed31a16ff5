"""`alike schedule` whose Prefect server keeps its runs in PostgreSQL, as docs/operations.md says.

A database of the test's own, on the loopback address, by Debian's package `postgresql`.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from scheduled_service import START, Service, free_port, until

FULL = os.environ.get("ALIKE_FULL") == "1"


def program(name):
    """Where a program of PostgreSQL is; Debian keeps them out of the path."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) if not places else str(places[0])


@pytest.fixture
def postgres():
    """Address of an empty database; of root it runs as the user that the package made."""
    if not FULL:
        pytest.skip("a minute: set ALIKE_FULL=1")
    if not program("initdb"):
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder, port = Path(tempfile.mkdtemp(prefix="postgres")), free_port()
    try:
        if as_user:
            shutil.chown(folder, "postgres", "postgres")
        options = ["-A", "trust", "-U", "alike", "--no-sync"]
        run = {"check": True, "capture_output": True, "cwd": folder}
        subprocess.run([*as_user, program("initdb"), "-D", folder / "data", *options], **run)
        with (folder / "log").open("wb") as out:
            server = subprocess.Popen(
                [*as_user, program("postgres"), "-D", folder / "data", "-h", "127.0.0.1",
                 "-p", str(port), "-k", folder],
                stdout=out, stderr=out, cwd=folder,
            )  # fmt: skip
        try:
            reach = ["-h", "127.0.0.1", "-p", str(port), "-U", "alike"]

            def made():
                command = [program("createdb"), *reach, "prefect"]
                return subprocess.run(command, capture_output=True).returncode == 0

            until(made, START, "the database is there")
            yield (
                [program("psql"), *reach, "-At", "prefect", "-c"],
                (f"postgresql+asyncpg://alike:unused@127.0.0.1:{port}/prefect"),
            )
        finally:
            pid = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGINT)
            server.wait(60)
    finally:
        shutil.rmtree(folder)


def test_runs_are_kept_in_postgresql(postgres, tmp_path):
    ask, address = postgres
    service = Service(tmp_path, variables={"PREFECT_SERVER_DATABASE_CONNECTION_URL": address})
    service.start()
    try:
        killed = service.run_at_gate()
        service.the("run").kill()
        until(lambda: service.state(killed) == "CRASHED", START, "the run has crashed")
        service.open()
        run = service.ask()
        until(lambda: service.state(run) == "COMPLETED", 2 * START, "another run ends well")
        assert service.end() == 0
    finally:
        service.kill_all()

    def answer(question):
        return subprocess.run([*ask, question], capture_output=True, text=True).stdout.split()

    assert answer("select state_type from flow_run order by created") == ["CRASHED", "COMPLETED"]
    assert int(*answer("select count(*) from task_run where state_type = 'COMPLETED'")) >= 5
    assert answer("select count(*) from task_run where state_type = 'RUNNING'") == ["0"]
    assert not list((tmp_path / "out" / "prefect").glob("*.db"))
