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
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput, StoreFull

EMBEDDED = {
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",
    # A busy machine is slow, not broken: no run ends for a state that Prefect was late to write.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "120",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "120",
    "PREFECT_API_REQUEST_TIMEOUT": "300",
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
        BadInput: no server answers at `PREFECT_API_URL`.
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
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    if free < LEAST_DISK:
        raise StoreFull(
            f"{home.parent} has {free / 1e6:.0f} MB left on its disk, a run needs "
            f"{LEAST_DISK / 1e6:.0f} MB beside its features: make room, or name another folder"
        )


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
    """A plain function as the Prefect task `name`.

    Nothing is cached or persisted by Prefect: steps exchange keys of stored artefacts, and whether
    one must run again is decided from the store (`alike.flows.memo`), which survives Prefect.
    """
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    as_task = task(name=name, cache_policy=NO_CACHE, persist_result=False)
    wrapped: Callable[..., Any] = as_task(function)
    return wrapped
