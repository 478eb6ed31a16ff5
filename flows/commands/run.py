"""`alike run`: the whole flow of a settings file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alike.flows.log_lines import say
from alike.flows.options import JsonOption, RehashOption, path_of

if TYPE_CHECKING:
    from alike.flows.finished import Finished


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    settings: Annotated[
        Path, typer.Argument(parser=path_of, help="Settings file, such as pipeline.toml.")
    ],
    rehash: RehashOption = False,
    json: JsonOption = False,
) -> None:
    """Extract, index, analyse, retrain if triggered, compare and report.

    Steps whose settings and inputs have not changed since the last run are not computed again.
    Paths in the settings are relative to the settings file. The exit status is 3 while a rule of
    [alarm] holds.

    Examples:
        alike run pipeline.toml

        alike run pipeline.toml --json
    """
    run_settings(settings, json, rehash)


def run_settings(settings: Path, json: bool, rehash: bool = False) -> None:
    """Run a settings file and say what came of it."""
    from alike.flows.alarm import STATUS
    from alike.flows.check import check
    from alike.flows.console import print_json, progress_bars
    from alike.flows.log_lines import choose
    from alike.flows.orchestration import prepare
    from alike.flows.run import refusal_recorded
    from alike.flows.settings import read_pipeline
    from alike.flows.unchanged import unchanged_run

    pipeline = read_pipeline(settings)
    choose(pipeline.output.logs)
    finished = None if rehash else unchanged_run(pipeline, say)
    if finished is None:
        with refusal_recorded(pipeline, say):
            check(pipeline)
            prepare(pipeline.output.folder)
        from alike.flows.pipeline import run_pipeline

        with progress_bars() as progress:
            finished = run_pipeline(settings, progress, say, rehash=rehash)
    if json:
        print_json(vars(finished))
    else:
        _print(finished)
    if finished.alarms:
        raise typer.Exit(STATUS)


def _print(finished: "Finished") -> None:
    """What came of a run, in lines."""
    if finished.reused:
        typer.echo("Nothing has changed since the last run: nothing was computed.")
    for name, seconds in finished.seconds.items():
        typer.echo(f"  {name:<22} {seconds:6.1f} s")
    if finished.bad:
        typer.echo(f"{finished.bad} images could not be used: see the report")
    for note in finished.notes:
        typer.echo(f"note: {note}")
    for decision in finished.decisions:
        typer.echo(decision)
    for name, key in finished.networks.items():
        typer.echo(f"{name}: {key}")
    typer.echo(f"Report: {finished.report}")
