"""`alike index`: choose and build the index of a measure, or bring it up to date."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import FeaturesOption, JsonOption, StoreOption

if TYPE_CHECKING:
    import pandas as pd

    from index.disk import Run
    from index.specs import Card


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("index")
    def index(
        store: StoreOption,
        features: FeaturesOption = None,
        measure: Annotated[
            str, typer.Option(help="A row of `alike list measures`.")
        ] = "gap_cosine",
        recall: Annotated[
            float, typer.Option(help="Share of the true neighbours to find; 1 asks for exact.")
        ] = 0.95,
        at: Annotated[int, typer.Option(help="How many neighbours recall counts.")] = 10,
        memory: Annotated[
            str | None, typer.Option(help="Most memory of the index in use, such as 4GB.")
        ] = None,
        latency: Annotated[
            float | None, typer.Option(help="Most milliseconds of one call of --batch queries.")
        ] = None,
        batch: Annotated[int, typer.Option(help="Queries that come at once.")] = 1,
        threads: Annotated[int | None, typer.Option(help="Threads of the search.")] = None,
        kind: Annotated[
            list[str] | None, typer.Option(help="Only this kind of index; may be repeated.")
        ] = None,
        on_disk: Annotated[
            bool,
            typer.Option("--on-disk", help="Leave lists on disk: for sets larger than memory."),
        ] = False,
        shards: Annotated[
            str | None,
            typer.Option(help="With --on-disk: Dask workers that build parts, a number or tcp://…"),
        ] = None,
        rebuild: Annotated[bool, typer.Option("--rebuild", help="Build anew.")] = False,
        effort: Annotated[float, typer.Option(help="Seconds to spend on candidates.")] = 900.0,
        as_json: JsonOption = False,
    ) -> None:
        """Choose and build the index of a measure by measuring, or bring it up to date.

        `alike index --store digits.store --recall 0.99 --memory 2GB`

        `alike index --store large.store --on-disk --memory 4GB --shards 8`
        """
        from extract.errors import BadInput
        from extract.store import Store
        from flows.console import print_json, print_table, progress_bars
        from flows.settings import parse_bytes
        from index.build import build_index
        from index.specs import Wish

        if shards is not None and not on_disk:
            raise BadInput(f"--shards {shards} builds lists on disk: give --on-disk too")
        most = None if memory is None else parse_bytes(memory)
        seconds = None if latency is None else latency / 1000
        wish = Wish(recall, at, most, seconds, batch, threads)
        chosen = Store.open(store).features(features)
        with progress_bars() as progress:
            report = build_index(
                chosen,
                measure,
                wish=wish,
                kinds=kind,
                on_disk=on_disk,
                run=shard_runner(shards),
                rebuild=rebuild,
                effort=effort,
                progress=progress,
            )
        if as_json:
            told = {"action": report.action, "note": report.note, "seconds": report.seconds}
            print_json({**report.card.to_dict(), **told})
            return
        if report.action in ("built", "rebuilt") and report.card.curve:
            print_table(curve_table(report.card), f"{measure}: what was measured")
        typer.echo(f"{report.action} in {report.seconds:.1f} s: {report.note}")


def shard_runner(workers: str | None) -> "Run":
    """What builds the shards: this process, or Dask workers."""
    from index.disk import one_by_one

    if workers is None:
        return one_by_one
    from extract.distributed import map_on_workers

    return partial(map_on_workers, workers=workers)


def curve_table(card: "Card") -> "pd.DataFrame":
    """The measured curve of a card, best recall first within a kind."""
    import pandas as pd

    rows = [
        {
            "kind": point.spec.kind,
            "index": str(point.spec),
            "recall": point.recall,
            "low": point.low,
            "high": point.high,
            "queries/s": point.queries_per_second,
            "ms a call": 1000 * point.latency,
            "build s": point.build_seconds,
            "MB": point.bytes / 1e6,
            "chosen": "*" if point.spec == card.spec else "",
        }
        for point in card.curve
    ]
    return pd.DataFrame(rows)
