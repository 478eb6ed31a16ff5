"""`alike export`: features and statistics as files for other tools."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("export")
    def export(
        store: Annotated[str, typer.Option(help="Where the features are.")],
        to: Annotated[
            Path,
            typer.Option(
                help="File; its ending says what kind: .parquet .csv .h5 .nc .zarr .npz "
                ".fiftyone.json"
            ),
        ],
        features: Annotated[
            str | None, typer.Option(help="Extraction; needed where the store has several.")
        ] = None,
        arrays: Annotated[
            str, typer.Option(help="Feature arrays, with commas between; empty for none.")
        ] = "gap",
        split: Annotated[str, typer.Option(help="held_out, train or all.")] = "all",
        measure: Annotated[str, typer.Option(help="Whose neighbours are written.")] = "gap_cosine",
        maps: Annotated[bool, typer.Option(help="Add the places of the 2-D map.")] = False,
        images: Annotated[bool, typer.Option(help="Put small pictures into Parquet.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Write features, and what `alike analyse` found, with the manifest inside.

        `alike export --store pets.store --to pets.parquet`

        `alike export --store pets.store --to study.h5 --arrays gap,logits`

        `alike export --store pets.store --to atlas.parquet --split held_out --maps --images`

        `alike export --store pets.store --to graph.npz --split held_out`
        """
        from analysis.analyse import Analysis
        from analysis.export import ending_of
        from analysis.export import export as write
        from analysis.maps import MapSettings, make_map
        from extract.errors import BadInput
        from extract.store import Store
        from flows.console import print_json, progress_bars

        ending_of(to)
        opened = Store.open(store)
        chosen = opened.features(features)
        try:
            tables = dict(Analysis.load(opened, chosen.key).tables)
        except BadInput:
            # Features can be studied before anything was analysed.
            tables = {}
        with progress_bars() as progress:
            settings = MapSettings(measure, split)
            places = make_map(chosen, settings, progress=progress) if maps else None
            written = write(
                chosen,
                to,
                arrays=[name for name in arrays.split(",") if name],
                tables=tables,
                split=None if split == "all" else split,
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
