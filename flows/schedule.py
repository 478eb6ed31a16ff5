"""A settings file as a Prefect deployment that runs by the clock."""

import asyncio
import datetime
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from alike.extract.errors import AlikeError, BadInput
from alike.flows import log_lines
from alike.flows.check import REFUSED
from alike.flows.memo import alone_in
from alike.flows.names import run_tags
from alike.flows.orchestration import prepare
from alike.flows.prefect_server import start_server
from alike.flows.sections import Pipeline
from alike.flows.settings import read_pipeline

_CRON = "--cron {!r}: expected five fields, such as '0 2 * * *' for every night at two"
PLANNED = datetime.timedelta(seconds=10)
"""In which a Prefect server plans the runs of a schedule that was registered."""


def serve_schedule(
    settings: Path,
    cron: str,
    *,
    timezone: str | None = None,
    port: int = 4200,
    work_pool: str | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> None:
    """Serve the flow of a settings file until interrupted.

    A Prefect server named by `PREFECT_API_URL` is used; else one is started on the loopback
    address, its files in the run's folder, and stopped with us. So is a run that goes on. With a
    work pool the deployment is only registered: workers of that pool run it.

    Args:
        settings: the settings file.
        cron: minute, hour, day of the month, month, weekday.
        timezone: that the cron expression is of, such as Europe/Berlin; None: this machine's.
        port: of the server that is started.
        work_pool: whose workers run the flow; None: this process does.
        tell: called with a line that says when the flow runs.

    Raises:
        BadInput: the settings, the cron expression, the time zone or the work pool cannot work.
        StoreBusy: another process serves this file.
    """
    if len(cron.split()) != 5:
        raise BadInput(_CRON.format(cron))
    zone = zone_of(timezone)
    settings = settings.resolve()
    pipeline = read_pipeline(settings)
    log_lines.choose(pipeline.output.logs)
    check_apart(settings)
    name = deployment_name(settings, pipeline)
    with alone_in(pipeline.output.folder, f"schedule-{name[-8:]}", "another settings file"):
        prepare(pipeline.output.folder, quiet=False)
        ours = not os.environ.get("PREFECT_API_URL")
        if ours and work_pool is not None:
            raise BadInput(
                f"--work-pool {work_pool}: a work pool is on a Prefect server, so name that by "
                "PREFECT_API_URL"
            )
        if ours:
            os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        schedule = _schedule(cron, zone)
        told = _next_run(cron, zone)
        tell(f"{settings}: {cron} in {zone}; next {told}; deployment alike/{name}")
        log = pipeline.output.folder / "prefect" / "server.log"
        server = start_server(port, log) if ours else None
        from prefect.types.entrypoint import EntrypointType

        from alike.flows.pipeline import scheduled

        deployed: dict[str, Any] = {
            "name": name,
            "schedule": schedule,
            "parameters": {"path": str(settings)},
            "tags": run_tags(pipeline),
            "entrypoint_type": EntrypointType.MODULE_PATH,
        }
        if work_pool is None:
            from alike.flows.serving import serve

            late = partial(_tell_if_late, told, cron, zone, tell)
            serve(scheduled, deployed, one_at_a_time(pipeline), server, late)
            return
        limit = one_at_a_time(pipeline)
        _register(
            scheduled.to_deployment(**deployed, concurrency_limit=limit, work_pool_name=work_pool)
        )
        _tell_if_late(told, cron, zone, tell)
        tell(f"registered; `prefect worker start --pool {work_pool}` runs it")


def check_apart(settings: Path) -> None:
    """Check the settings as a run does, in a process of its own.

    A process that serves for a year does not hold the memory of torch: 0.2 GB instead of 1.1.

    Raises:
        BadInput: the first fault found.
        AlikeError: a fault of ours, or of a file.
    """
    command = [sys.executable, "-m", "alike.flows.check", str(settings)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        kind = BadInput if done.returncode == REFUSED else AlikeError
        reason = done.stdout.strip() or f"the check ended with status {done.returncode}"
        raise kind(reason)


def _register(deployment: Any) -> None:
    """Write a deployment to the server.

    Raises:
        BadInput: the server has no such work pool.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    pool = deployment.work_pool_name
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            raise BadInput(
                f"--work-pool {pool}: the server has none of that name; make it by "
                f"`prefect work-pool create {pool} --type process`"
            ) from None
    deployment.apply()


def one_at_a_time(pipeline: Pipeline) -> Any:
    """The limit of a deployment: a second run waits, or is cancelled by the server."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    waits = pipeline.prefect.busy == "wait"
    strategy = ConcurrencyLimitStrategy.ENQUEUE if waits else ConcurrencyLimitStrategy.CANCEL_NEW
    return ConcurrencyLimitConfig(limit=1, collision_strategy=strategy)


def deployment_name(settings: Path, pipeline: Pipeline) -> str:
    """The title or the folder's name, and the identity of the settings file.

    Two files of one title on one server, or one path on two machines, are two deployments.

    Args:
        settings: absolute path of the file.
        pipeline: what it says.
    """
    identity = hashlib.sha256(f"{socket.gethostname()}:{settings}".encode()).hexdigest()[:8]
    title = pipeline.title or settings.parent.name
    # Prefect takes no such letters in a name.
    readable = "".join("-" if letter in "/%&<>" else letter for letter in title)
    return f"alike-{readable}-{identity}"


def zone_of(name: str | None) -> str:
    """A time zone by its name; None: that of this machine.

    Raises:
        BadInput: no such zone, or this machine does not name its own.
    """
    zone = name or _machine_zone()
    if zone is None:
        raise BadInput("this machine does not name its time zone: give it by --timezone, or TZ=UTC")
    try:
        return ZoneInfo(zone).key
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        origin = "--timezone" if name else "the time zone of this machine,"
        raise BadInput(
            f"{origin} {zone!r}: expected a name such as Europe/Berlin or UTC"
        ) from error


def _machine_zone(root: Path = Path("/etc")) -> str | None:
    """As POSIX has it: TZ, then /etc/timezone, then where /etc/localtime leads; UTC without all."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if named:
        return named
    link, text = root / "localtime", root / "timezone"
    if text.is_file():
        return text.read_text(encoding="utf-8").strip()
    if not link.exists():
        return "UTC"
    _, separator, zone = str(link.resolve()).partition("zoneinfo/")
    return zone if separator else None


def _schedule(cron: str, zone: str) -> Any:
    """Ask Prefect; only once its server is named, for it reads its settings when imported."""
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        return CronSchedule(cron=cron, timezone=zone)
    except ValidationError as error:
        raise BadInput(_CRON.format(cron)) from error


def _tell_if_late(
    told: str,
    cron: str,
    zone: str,
    tell: Callable[[str], object],
    now: datetime.datetime | None = None,
) -> None:
    """Correct what was said of the first run, if the server may have skipped it.

    A server plans no run for a time before it knows the schedule, which it looks at every few
    seconds; to start it takes up to a minute.

    Args:
        told: the run that was said to be the next.
        cron: the schedule.
        zone: of it.
        tell: called with a line if another run may be the first.
        now: None: the time.
    """
    now = datetime.datetime.now(datetime.UTC) if now is None else now
    sure = _next_run(cron, zone, now + PLANNED)
    if sure != told:
        tell(f"the server may have been late for the run of {told}; next for sure {sure}")


def _next_run(cron: str, zone: str, start: datetime.datetime | None = None) -> str:
    from prefect.server.schemas.schedules import CronSchedule

    (when,) = asyncio.run(CronSchedule(cron=cron, timezone=zone).get_dates(1, start))
    return when.strftime("%Y-%m-%d %H:%M %z")
