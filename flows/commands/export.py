"""`alike export`: features and statistics as files for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from alike.flows.log_lines import say
from alike.flows.options import (
    PATH,
    FeaturesOption,
    JsonOption,
    Split,
    SplitOption,
    StoreOption,
    WhereOption,
    names_of,
)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("export")
    def export(
        store: StoreOption,
        to: Annotated[
            Path,
            typer.Option(
                **PATH,
                help="Output file. Its ending is the format: .parquet .csv .h5 .nc .zarr .npz "
                ".fiftyone.json",
            ),
        ],
        features: FeaturesOption = None,
        arrays: Annotated[
            str, typer.Option(help="Feature arrays, separated by commas. Empty: none.")
        ] = "gap",
        split: SplitOption = Split.HELD_OUT,
        where: WhereOption = None,
        measure: Annotated[
            str, typer.Option(help="Measure whose neighbours are written.")
        ] = "gap_cosine",
        maps: Annotated[bool, typer.Option(help="Add the coordinates of the 2-D map.")] = False,
        images: Annotated[bool, typer.Option(help="Add thumbnails to Parquet.")] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Write features, the tables of `alike analyse`, and their manifest to a file.

        `alike export --store pets.store --to pets.parquet`

        `alike export --store pets.store --to study.h5 --arrays gap,logits`

        `alike export --store pets.store --to atlas.parquet --maps --images`

        `alike export --store pets.store --to graph.npz`
        """
        from alike.flows.console import print_json, progress_bars
        from alike.flows.exporting import export as write

        with progress_bars() as progress:
            written = write(
                store,
                to,
                features,
                arrays=names_of(arrays) or [],
                split=split.value,
                where=where,
                measure=measure,
                maps=maps,
                images=images,
                progress=progress,
            )
        for note in written.notes:
            say(f"note: {note}")
        if as_json:
            print_json(
                {"key": written.key, "files": [str(path.resolve()) for path in written.files]}
            )
        else:
            for path in written.files:
                typer.echo(str(path))
