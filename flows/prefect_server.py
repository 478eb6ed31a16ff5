"""The Prefect server of a schedule: a process on the loopback address that ends with ours."""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from alike.extract.errors import AlikeError, BadInput
from alike.flows.log_lines import PREFECT_JSON, say
from alike.flows.parent import GRACE, end_with_parent

START_SECONDS = 180.0
MOST_LOG = 10 << 20
"""Bytes of a log that a new server goes on with; a larger one is put aside, once."""
FREE_SECONDS = 15.0
"""Within it the server of a schedule that was killed has ended."""


def start_server(port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start a Prefect server on the loopback address; returns its process once it answers.

    It ends with this process, also if this is killed. Ctrl-C on a terminal does not reach it: the
    runs tell it their end first.

    Raises:
        BadInput: the port is taken.
        AlikeError: the server ended or did not answer in time; its log is named.
    """
    _wait_for_port(port)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > MOST_LOG:
        log.replace(log.with_suffix(".log.1"))
    command = [sys.executable, "-m", "alike.flows.prefect_server", str(os.getpid()), str(port)]
    left_out = {"PREFECT_API_URL", *PREFECT_JSON}
    with log.open("ab") as out:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={name: value for name, value in os.environ.items() if name not in left_out},
            start_new_session=True,
        )
    atexit.register(stop_server, server)
    url = f"http://127.0.0.1:{port}/api"
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            raise AlikeError(f"the Prefect server ended with status {server.returncode}: see {log}")
        if _healthy(url):
            return server
        time.sleep(0.3)
    raise AlikeError(f"the Prefect server did not answer within {START_SECONDS:.0f} s: see {log}")


def _wait_for_port(port: int) -> None:
    """Wait a moment for the server of a schedule that was killed just now.

    Raises:
        BadInput: the port stays taken.
    """
    until = time.monotonic() + FREE_SECONDS
    waited = False
    while _answers(port):
        if time.monotonic() > until:
            raise BadInput(
                f"port {port} is in use; choose another by --port, or set PREFECT_API_URL to use "
                "the Prefect server that runs there"
            )
        if not waited:
            say(f"port {port} is in use: waiting {FREE_SECONDS:.0f} s for its end")
        waited = True
        time.sleep(0.3)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """End a server that `start_server` has started."""
    server.terminate()
    try:
        server.wait(GRACE)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def main() -> None:
    """Be the server. Arguments: the process to end with, and the port."""
    parent, port = sys.argv[1:]
    end_with_parent(int(parent))
    sys.argv = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    from prefect.cli import app

    app()


if __name__ == "__main__":
    main()
