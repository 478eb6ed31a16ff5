"""`alike report`: one self-contained HTML page about an extraction, or about two."""

from pathlib import Path
from typing import Annotated

import typer

from alike.flows.log_lines import say
from alike.flows.options import PATH, FeaturesOption, JsonOption, StoreOption


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("report")
    def report(
        store: StoreOption,
        features: FeaturesOption = None,
        after: Annotated[
            str | None, typer.Option(help="Key of a second extraction to compare.")
        ] = None,
        to: Annotated[Path, typer.Option(**PATH, help="Output file.")] = Path("report.html"),
        title: Annotated[str, typer.Option(help="Title of the report.")] = "",
        maps: Annotated[bool, typer.Option(help="Show the map of the images.")] = True,
        thumbnails: Annotated[bool, typer.Option(help="Show the images.")] = True,
        as_json: JsonOption = False,
    ) -> None:
        """Write the report of an analysis as one HTML file that loads nothing else.

        `alike report --store pets.store --to pets.html`

        `alike report --store pets.store --features resnet18-aa… --after resnet18-bb…`
        """
        from alike.flows.console import print_json, progress_bars
        from alike.flows.reporting import write_report

        with progress_bars() as progress:
            written = write_report(
                store,
                features,
                after,
                to,
                title=title,
                maps=maps,
                thumbnails=thumbnails,
                progress=progress,
            )
        for note in written.notes:
            say(f"note: {note}")
        if as_json:
            print_json(
                {"report": str(written.path.resolve()), "before": written.key, "after": after}
            )
        else:
            typer.echo(f"report: {written.path.resolve()}")
