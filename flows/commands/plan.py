"""`alike plan`: what a run would take of disk, memory and time, before it starts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alike.flows.options import JsonOption, path_of

if TYPE_CHECKING:
    from alike.flows.planning import Plan


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


def plan(
    settings: Annotated[
        Path, typer.Argument(parser=path_of, help="Settings file, such as pipeline.toml.")
    ],
    images: Annotated[
        str | None,
        typer.Option(help="Number of images, such as 100e6. [default: as many as there are]"),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs that extract. [default: this machine's]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say how large the store of a run gets, how much memory it takes, and how long every step.

    A sample of the images is extracted and analysed in less than a minute, in a folder that is
    deleted. The exit status is 2 if the run cannot fit on this machine.

    Examples:
        alike plan pipeline.toml

        alike plan pipeline.toml --images 100e6 --gpus 8
    """
    from dataclasses import asdict

    from alike.extract.errors import BadInput
    from alike.flows.console import print_json
    from alike.flows.planning import plan as scaled
    from alike.flows.sampling import measure
    from alike.flows.settings import read_pipeline

    count = _count(images)
    pipeline = read_pipeline(settings)
    made = scaled(pipeline, measure(pipeline), count, gpus)
    if json:
        print_json({**asdict(made), "bytes": made.bytes})
    else:
        _print(made)
    if made.advice:
        raise BadInput("; ".join(made.advice))


def _count(text: str | None) -> int | None:
    from alike.extract.errors import BadInput

    if text is None:
        return None
    try:
        number = float(text.replace("_", "").replace(",", ""))
    except ValueError:
        number = -1.0
    if not 1 <= number <= 1e15 or number != int(number):
        raise BadInput(
            f"--images {text!r}: a whole number from 1 to 1e15 is expected, such as 100e6"
        )
    return int(number)


def _size(count: float) -> str:
    """Bytes in the unit that a disk is sold by."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _print(made: "Plan") -> None:
    from alike.analysis.outlook import duration

    gib = 2**30
    networks = "1 network" if made.networks == 1 else f"{made.networks} networks"
    typer.echo(f"{made.images:,} image{'s' if made.images > 1 else ''}, {networks}")
    parts = sorted(made.store.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{name} {_size(size)}" for name, size in parts if size >= made.bytes / 1000)
    typer.echo(f"store: {_size(made.bytes)} ({shown})")
    typer.echo(
        f"memory: {made.memory['listing'] / gib:.3g} GiB for the listing, "
        f"{made.memory['worker'] / gib:.3g} GiB a worker of the extraction, "
        f"{made.memory['analysis'] / gib:.3g} GiB for index and analysis"
    )
    if made.temporary:
        typer.echo(f"temporary files: {_size(made.temporary)} while pairs are counted (TMPDIR)")
    for name, seconds in made.seconds.items():
        if seconds:
            typer.echo(f"{name}: about {duration(seconds)}")
    typer.echo(f"bound by {made.bound}")
    for note in made.notes:
        typer.echo(f"note: {note}")
