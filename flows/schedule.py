"""A settings file as a Prefect deployment that runs by the clock."""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from alike.extract.errors import AlikeError, BadInput
from alike.flows.check import check
from alike.flows.engine import prepare
from alike.flows.settings import read_pipeline

START_SECONDS = 180.0
_CRON = "--cron {!r}: expected five fields, such as '0 2 * * *' for every night at two"


def serve_schedule(settings: Path, cron: str, *, port: int = 4200) -> None:
    """Serve the flow of a settings file until interrupted.

    A Prefect server named by `PREFECT_API_URL` is used; else one is started on the loopback
    address, its files in the run's folder, and stopped with us.

    Raises:
        BadInput: the settings or the cron expression cannot work.
    """
    if len(cron.split()) != 5:
        raise BadInput(_CRON.format(cron))
    settings = settings.resolve()
    pipeline = read_pipeline(settings)
    check(pipeline)
    prepare(pipeline.output.folder, quiet=False)
    ours = not os.environ.get("PREFECT_API_URL")
    if ours:
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    _check_cron(cron)
    if ours:
        start_server(port, pipeline.output.folder / "prefect" / "server.log")
    from prefect.types.entrypoint import EntrypointType

    from alike.flows.pipeline import scheduled

    scheduled.serve(
        name=f"alike-{pipeline.title or settings.parent.name}",
        cron=cron,
        parameters={"path": str(settings)},
        entrypoint_type=EntrypointType.MODULE_PATH,
        limit=1,
    )


def _check_cron(cron: str) -> None:
    """Ask Prefect; only once its server is named, for it reads its settings when imported."""
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        CronSchedule(cron=cron)
    except ValidationError as error:
        raise BadInput(_CRON.format(cron)) from error


def start_server(port: int, log: Path) -> str:
    """Start a Prefect server on the loopback address; returns its API's URL once it answers.

    It ends with this process.

    Raises:
        BadInput: the port is taken.
        AlikeError: the server ended or did not answer in time; its log is named.
    """
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise BadInput(
                f"port {port} is in use; choose another by --port, or set PREFECT_API_URL to use "
                "the Prefect server that runs there"
            )
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start"]
    with log.open("ab") as out:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=out,
            stderr=out,
            env={name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
        )
    atexit.register(_stop, server)
    url = f"http://127.0.0.1:{port}/api"
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            raise AlikeError(f"the Prefect server ended with status {server.returncode}: see {log}")
        if _healthy(url):
            return url
        time.sleep(0.3)
    raise AlikeError(f"the Prefect server did not answer within {START_SECONDS:.0f} s: see {log}")


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
