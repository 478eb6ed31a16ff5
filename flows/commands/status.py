"""`alike status`: is all well with the runs of a settings file? An exit status for CI and cron."""

from pathlib import Path
from typing import Annotated

import typer

from alike.flows.log_lines import say
from alike.flows.options import JsonOption, path_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status)


def status(
    settings: Annotated[
        Path, typer.Argument(parser=path_of, help="Settings file, such as pipeline.toml.")
    ],
    notify: Annotated[
        bool,
        typer.Option("--notify", help="Raise alarms and deliver them, as a run does at its end."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Say when the last good run was, and what every rule of [alarm] says of it.

    The exit status is 0 if no rule holds, 3 if one does, and 2 if there is nothing to look at.
    Nothing is computed, and without --notify nothing is written.

    Examples:
        alike status pipeline.toml

        alike status pipeline.toml --notify
    """
    from dataclasses import asdict

    from alike.extract.errors import BadInput
    from alike.flows.alarm import STATUS, Alarms, alarms_held, findings_of, raise_alarms
    from alike.flows.console import print_json
    from alike.flows.history import History
    from alike.flows.recording import last_good
    from alike.flows.runs import store_of
    from alike.flows.settings import read_pipeline

    pipeline = read_pipeline(settings)
    store = store_of(str(settings))
    if notify:
        with alarms_held(pipeline):
            raise_alarms(pipeline, store, findings_of(pipeline, store), say)
    findings = findings_of(pipeline, store)
    history = History(store)
    records = history.records()
    last, fresh = last_good(records), history.last_good(records)
    failed = history.failed_since(records)
    raised = [one for one in Alarms(store).all() if one.open]
    alarmed = any(one.holds for one in findings)
    if not (records or fresh or alarmed or history.faults):
        raise BadInput(f"{settings} has no runs yet: run `alike run {settings}` first")
    if json:
        print_json(
            {
                "alarm": alarmed,
                "last_good": None if fresh is None else fresh.isoformat(),
                "failed_since": len(failed),
                "run": None if last is None else last.id,
                "rules": [asdict(one) for one in findings],
                "alarms": [asdict(one) for one in raised],
                "faults": history.faults,
            }
        )
    else:
        typer.echo(
            f"last good run: {'none yet' if fresh is None else f'{fresh:%Y-%m-%d %H:%M %Z}'}"
        )
        if failed:
            runs = "1 run" if len(failed) == 1 else f"{len(failed)} runs"
            typer.echo(f"{runs} failed since; the last: {failed[-1].error}")
        for one in findings:
            word = {True: "ALARM", False: "ok", None: "cannot be said"}[one.holds]
            typer.echo(f"{word}: {one.rule}: {one.says}")
        for fault in history.faults:
            typer.echo(f"note: {fault}")
    if alarmed:
        raise typer.Exit(STATUS)
