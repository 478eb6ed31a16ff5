"""`alike schedule`: the flow of a settings file, by the clock."""

from pathlib import Path
from typing import Annotated

import typer

from alike.flows.options import path_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schedule")(schedule)


def schedule(
    settings: Annotated[
        Path, typer.Argument(parser=path_of, help="Settings file, such as pipeline.toml.")
    ],
    cron: Annotated[str, typer.Option(help="When to run: minute hour day month weekday.")],
    timezone: Annotated[
        str | None,
        typer.Option(help="Time zone of --cron, such as Europe/Berlin. [default: this machine's]"),
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the Prefect server, if one is started.")
    ] = 4200,
    work_pool: Annotated[
        str | None,
        typer.Option(help="Register the flow for the workers of this pool, and end."),
    ] = None,
) -> None:
    """Serve the flow as a Prefect deployment until interrupted (Ctrl-C, SIGTERM).

    A run in which nothing has changed computes nothing. The variable PREFECT_API_URL names the
    Prefect server. If it is not set, a server is started on this machine's loopback address.
    The first line says the time zone and the next run; if the server may skip that while it starts,
    a second line names the one after it. A run that goes on at the end is ended, and
    what it had stored is kept. With --work-pool the flow is registered, and workers of that pool
    run it (`prefect worker start --pool NAME`).

    Examples:
        alike schedule pipeline.toml --cron "0 2 * * *"

        alike schedule pipeline.toml --cron "0 2 * * *" --timezone Europe/Berlin

        PREFECT_API_URL=http://prefect.lab:4200/api alike schedule pipeline.toml --cron "0 2 * * *"

        alike schedule pipeline.toml --cron "0 2 * * *" --work-pool lab
    """
    from alike.flows.log_lines import is_json, say
    from alike.flows.schedule import serve_schedule

    def _tell(line: str) -> None:
        say(line) if is_json() else typer.echo(line)

    serve_schedule(settings, cron, timezone=timezone, port=port, work_pool=work_pool, tell=_tell)
