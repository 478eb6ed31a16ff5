"""`alike map`: the 2-D map of a set of images, made once and stored."""

from pathlib import Path
from typing import Annotated

import typer

from alike.flows.options import (
    FeaturesOption,
    JsonOption,
    Split,
    SplitOption,
    StoreOption,
    finite,
)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("map")
    def map_(
        store: StoreOption,
        features: FeaturesOption = None,
        measure: Annotated[str, typer.Option(help="Whose vectors are mapped.")] = "gap_cosine",
        split: SplitOption = Split.HELD_OUT,
        perplexity: Annotated[
            float, typer.Option(min=2, callback=finite, help="About how many neighbours count.")
        ] = 30.0,
        sample: Annotated[
            int, typer.Option(min=100, help="Fit t-SNE on so many images at most.")
        ] = 200_000,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything random.")] = 0,
        like: Annotated[
            str | None, typer.Option(help="Begin where this other extraction's map ends.")
        ] = None,
        to: Annotated[
            Path | None, typer.Option(help="Also write this CSV or Parquet file.")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Make the PCA and t-SNE map that the report shows, and keep it in the store.

        `alike map --store pets.store`

        `alike map --store pets.store --split all --perplexity 50 --to map.csv`
        """
        from alike.analysis.export import Result
        from alike.analysis.maps import MapSettings, make_map
        from alike.extract.errors import BadInput
        from alike.extract.replacing import aside, check_target
        from alike.extract.store import Store
        from alike.flows.console import print_json, progress_bars

        if to is not None and to.suffix not in {".csv", ".parquet"}:
            raise BadInput(f"cannot write a map to {to.name}: expected .csv or .parquet.")
        if to is not None:
            check_target(to)
        opened = Store.open(store)
        chosen = opened.features(features)
        settings = MapSettings(measure, split.value, perplexity, sample, seed)
        with progress_bars() as progress:
            first = make_map(opened.features(like), settings, progress=progress) if like else None
            table = make_map(chosen, settings, like=first, progress=progress)
        if to is not None:
            result = Result("map", table, {}, {"key": chosen.key, **table.attrs})
            with aside(to) as part:
                result.to_csv(part) if to.suffix == ".csv" else result.to_parquet(part)
        shown = {"key": chosen.key, "images": len(table), **table.attrs}
        if as_json:
            print_json(shown)
        else:
            typer.echo(f"{len(table)} images mapped by {measure}; stored for the report")
