"""Prefect, embedded: its settings must stand in the environment before it is imported.

Facts behind each setting: an empty `PREFECT_API_URL` loses task runs; the embedded server can take
25 s to start on a busy machine, over its own limit of 20 s; with analytics off nothing outside
this machine is looked up. Prefect's states are never the truth about data: the ledger is.
"""

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alike.extract.errors import BadInput, StoreFull
from alike.extract.replacing import refusal
from alike.flows.outputs import make_output

if TYPE_CHECKING:
    from alike.flows.steps import PipelineRun

_LEASES = "prefect.server.concurrency.lease_storage"

EMBEDDED = {
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",
    # A busy machine is slow, not broken: no run ends for a state that Prefect was late to write.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "120",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "120",
    "PREFECT_API_REQUEST_TIMEOUT": "300",
    # Slots of runs that were killed are given back although the server was started anew since.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": f"{_LEASES}.filesystem",
    # Else its database keeps every run for ever: now for 90 days, as long as Prefect's default is.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "true",
}

ALWAYS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # A failed step is reported by us, its own error first; Prefect's log still goes to its server.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


LEAST_DISK = 100_000_000
"""Bytes that must be free: on a full disk Prefect waits for its database until it gives up."""


def prepare(folder: Path, *, quiet: bool = True) -> None:
    """Set Prefect's environment; call it before anything imports Prefect.

    Args:
        folder: the run's folder; Prefect's own files go to its `prefect/`, unless the user has
            set `PREFECT_HOME`. A server named by `PREFECT_API_URL` is used where there is one.
        quiet: keep Prefect's log off the terminal.

    Raises:
        BadInput: no server answers at `PREFECT_API_URL`, or the folder cannot be written.
        StoreFull: the disk has no room for it.
    """
    wanted = dict(ALWAYS)
    if not quiet:
        wanted.pop("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL")
    server = os.environ.get("PREFECT_API_URL")
    if server:
        _check_server(server)
    else:
        os.environ.pop("PREFECT_API_URL", None)
        wanted |= EMBEDDED
    wanted["PREFECT_HOME"] = str(folder.resolve() / "prefect")
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    # Prefect makes only the last folder of this path itself, and then waits for ever.
    home = Path(os.environ["PREFECT_HOME"])
    make_output(folder)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(f"PREFECT_HOME={home}", error) from error
    free = shutil.disk_usage(home).free
    if free < LEAST_DISK:
        raise StoreFull(
            f"{home.parent} has {free / 1e6:.0f} MB left on its disk, a run needs "
            f"{LEAST_DISK / 1e6:.0f} MB beside its features: make room, or name another folder"
        )


NO_DISK = 1_000_000
"""Bytes: a disk with less has no room for a page of Prefect's database."""


def full_disk(folder: Path) -> str:
    """Says which disk of a run is full: that of its folder or of Prefect's; empty if none is.

    Prefect tells of its own only that its server failed.

    Args:
        folder: of the run.
    """
    for place in (folder, Path(os.environ.get("PREFECT_HOME", folder))):
        with suppress(OSError):
            if shutil.disk_usage(place).free < NO_DISK:
                return (
                    f"the disk of {place} is full: make room there, then run the same command "
                    "again; what was committed is kept"
                )
    return ""


def _check_server(url: str) -> None:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=60):
            pass
    except urllib.error.HTTPError:
        # something answers; whether it lets us in is its own to say
        return
    except (OSError, ValueError) as error:
        raise BadInput(
            f"PREFECT_API_URL={url}: no Prefect server answers there ({error}); "
            "start it, or unset the variable to run without one"
        ) from error


def step(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A step of a run as the Prefect task `name`.

    Args:
        function: of a run and what the step needs beside it.
        name: what it does, such as ``extract resnet18``.
    """

    def call(run: "PipelineRun", *arguments: Any) -> Any:
        from alike.flows.tasks import run_task

        return run_task(function, name, run, arguments)

    return call
