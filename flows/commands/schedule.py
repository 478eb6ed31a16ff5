"""`alike schedule`: the flow of a settings file, by the clock."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schedule")(schedule)


def schedule(
    settings: Annotated[Path, typer.Argument(help="The settings file, such as pipeline.toml.")],
    cron: Annotated[str, typer.Option(help="When to run: minute hour day month weekday.")],
    port: Annotated[int, typer.Option(help="Port of the Prefect server that is started.")] = 4200,
) -> None:
    """Serve the flow as a Prefect deployment until interrupted (Ctrl-C).

    A run in which nothing has changed computes nothing. The Prefect server named by the variable
    PREFECT_API_URL is used; where there is none, one is started on this machine's loopback address.

    Examples:
        alike schedule pipeline.toml --cron "0 2 * * *"

        PREFECT_API_URL=http://prefect.lab:4200/api alike schedule pipeline.toml --cron "0 2 * * *"
    """
    from alike.flows.schedule import serve_schedule

    serve_schedule(settings, cron, port=port)
