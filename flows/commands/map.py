"""`alike map`: the 2-D map of a set of images, made once and stored."""

from pathlib import Path
from typing import Annotated

import typer

from alike.flows.log_lines import say
from alike.flows.options import (
    PATH,
    ClusterOption,
    FeaturesOption,
    JsonOption,
    Split,
    SplitOption,
    StoreOption,
    WhereOption,
    finite,
)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("map")
    def map_(
        store: StoreOption,
        features: FeaturesOption = None,
        measure: Annotated[
            str, typer.Option(help="Measure whose vectors are mapped.")
        ] = "gap_cosine",
        split: SplitOption = Split.HELD_OUT,
        where: WhereOption = None,
        perplexity: Annotated[
            float, typer.Option(min=2, callback=finite, help="Effective number of neighbours.")
        ] = 30.0,
        sample: Annotated[
            int, typer.Option(min=100, help="Largest number of images to fit t-SNE on.")
        ] = 200_000,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the map.")] = 0,
        like: Annotated[
            str | None, typer.Option(help="Key of an extraction whose map is the start.")
        ] = None,
        to: Annotated[
            Path | None, typer.Option(**PATH, help="CSV or Parquet file to write as well.")
        ] = None,
        cluster: ClusterOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Compute the PCA and t-SNE map of the report, and store it.

        `alike map --store pets.store`

        `alike map --store pets.store --split all --perplexity 50 --to map.csv`
        """
        from alike.analysis.export import Result
        from alike.analysis.maps import FEWEST, MapSettings, make_map, perplexity_of
        from alike.extract.replacing import aside, check_target
        from alike.extract.store import Store
        from alike.flows.cluster import row_jobs, row_mapper
        from alike.flows.console import print_json, progress_bars

        if to is not None:
            check_target(to, endings=[".csv", ".parquet"])
        opened = Store.open(store)
        chosen = opened.features(features).only(where)
        settings = MapSettings(measure, split.value, perplexity, sample, seed)
        other = opened.features(like).only(where) if like else None
        several = [chosen, *([] if other is None else [other])]
        with row_jobs(cluster, several, measure) as jobs, progress_bars() as progress:
            first = None
            if other is not None:
                rows = row_mapper(jobs, other, measure, "map")
                first = make_map(other, settings, map_blocks=rows, progress=progress)
            rows = row_mapper(jobs, chosen, measure, "map")
            table = make_map(chosen, settings, like=first, map_blocks=rows, progress=progress)
        left_out = table.attrs.get("left_out", 0)
        if left_out:
            why = f"they have no value of an array that {measure} reads"
            say(f"note: {left_out} images are left out: {why}")
        fitted = perplexity_of(len(table), perplexity, sample)
        if len(table) < FEWEST:
            say(f"note: the t-SNE of fewer than {FEWEST} images is their PCA")
        elif fitted < perplexity:
            few = f"a third of the other {'fitted ' if len(table) > sample else ''}images"
            say(f"note: perplexity {perplexity:g} is lowered to {fitted:g}, {few}")
        if to is not None:
            result = Result("map", table, {}, {"key": chosen.key, **table.attrs})
            with aside(to) as part:
                result.to_csv(part) if to.suffix.lower() == ".csv" else result.to_parquet(part)
        shown = {"key": chosen.key, "images": len(table), **table.attrs}
        if as_json:
            print_json(shown)
        else:
            typer.echo(f"{len(table)} images mapped by {measure}; stored for the report")
