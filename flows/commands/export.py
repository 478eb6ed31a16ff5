"""`alike export`: features and statistics as files for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from alike.flows.options import (
    FeaturesOption,
    JsonOption,
    Split,
    SplitOption,
    StoreOption,
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
                help="File; its ending says what kind: .parquet .csv .h5 .nc .zarr .npz "
                ".fiftyone.json"
            ),
        ],
        features: FeaturesOption = None,
        arrays: Annotated[
            str, typer.Option(help="Feature arrays, with commas between; empty for none.")
        ] = "gap",
        split: SplitOption = Split.HELD_OUT,
        measure: Annotated[str, typer.Option(help="Whose neighbours are written.")] = "gap_cosine",
        maps: Annotated[bool, typer.Option(help="Add the places of the 2-D map.")] = False,
        images: Annotated[bool, typer.Option(help="Put small pictures into Parquet.")] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Write features, and what `alike analyse` found, with the manifest inside.

        `alike export --store pets.store --to pets.parquet`

        `alike export --store pets.store --to study.h5 --arrays gap,logits`

        `alike export --store pets.store --to atlas.parquet --maps --images`

        `alike export --store pets.store --to graph.npz`
        """
        from alike.analysis.analyse import Analysis
        from alike.analysis.export import ending_of
        from alike.analysis.export import export as write
        from alike.analysis.maps import MapSettings, make_map
        from alike.extract.errors import BadInput
        from alike.extract.store import Store
        from alike.flows.console import print_json, progress_bars

        ending_of(to)
        opened = Store.open(store)
        chosen = opened.features(features)
        try:
            analysis = Analysis.load(opened, chosen.key)
        except BadInput:
            # Features can be studied before anything was analysed.
            analysis = None
        if analysis and (warning := analysis.outdated(chosen.digest)):
            typer.echo(f"note: {warning}", err=True)
        with progress_bars() as progress:
            settings = MapSettings(measure, split.value)
            places = make_map(chosen, settings, progress=progress) if maps else None
            written = write(
                chosen,
                to,
                arrays=names_of(arrays) or [],
                tables=analysis.tables if analysis else None,
                analysed=analysis.settings if analysis else None,
                split=split.side,
                measure=measure,
                places=places,
                images=images,
                progress=progress,
            )
        if as_json:
            print_json({"key": chosen.key, "files": [str(path.resolve()) for path in written]})
        else:
            for path in written:
                typer.echo(str(path))
