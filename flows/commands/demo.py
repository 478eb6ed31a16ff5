"""`alike demo`: the whole loop on digits."""

from pathlib import Path
from typing import Annotated

import typer

from alike.flows.commands.run import run_settings
from alike.flows.options import PATH, JsonOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    to: Annotated[Path, typer.Option(**PATH, help="Output folder.")] = Path("alike-demo"),
    json: JsonOption = False,
) -> None:
    """Try the whole loop on 1,797 real images of digits: no download, no server, no GPU.

    A small network is trained on one half of the images. The other half is held out from all
    training. It is evaluated before and after retraining with the consistency loss.

    Examples:
        alike demo

        alike demo --to ~/my-first-run
    """
    from alike.extract.places import expanded
    from alike.flows.console import progress_bars
    from alike.flows.demo import prepare_demo
    from alike.flows.orchestration import prepare

    folder = expanded(to).resolve()
    prepare(folder)
    with progress_bars() as progress:
        settings = prepare_demo(folder, progress)
    run_settings(settings, json)
