"""`alike index`: choose and build the index of a measure, or bring it up to date."""

from typing import TYPE_CHECKING, Annotated

import typer

from alike.flows.options import (
    ClusterOption,
    FeaturesOption,
    JsonOption,
    OldShardsOption,
    StoreOption,
    finite,
)

if TYPE_CHECKING:
    import pandas as pd

    from alike.index.specs import Card


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
            float | None,
            typer.Option(
                callback=finite,
                help="Share of the true neighbours to find. 1: exact search.",
                show_default=_default("0.95"),
            ),
        ] = None,
        at: Annotated[
            int | None,
            typer.Option(
                min=1, help="Number of neighbours for recall.", show_default=_default("10")
            ),
        ] = None,
        memory: Annotated[
            str | None,
            typer.Option(
                help="Largest memory of the index, such as 4GB, or any.",
                show_default=_default("any"),
            ),
        ] = None,
        latency: Annotated[
            float | None,
            typer.Option(
                min=0,
                callback=finite,
                help="Largest time of a call of --batch queries, in milliseconds. 0: any.",
                show_default=_default("0"),
            ),
        ] = None,
        batch: Annotated[
            int | None,
            typer.Option(min=1, help="Queries in one call.", show_default=_default("1")),
        ] = None,
        threads: Annotated[
            int | None,
            typer.Option(
                min=0,
                help="Threads of the search. 0: the default of FAISS.",
                show_default=_default("0"),
            ),
        ] = None,
        kind: Annotated[
            list[str] | None,
            typer.Option(help="Kind of index to consider. Repeatable. [default: all]"),
        ] = None,
        on_disk: Annotated[
            bool | None,
            typer.Option(
                "--on-disk/--in-memory",
                help="Leave the lists on disk, for sets larger than memory.",
                show_default=_default("in memory"),
            ),
        ] = None,
        cluster: ClusterOption = None,
        shards: OldShardsOption = None,
        rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the index again.")] = False,
        effort: Annotated[
            float,
            typer.Option(min=0, callback=finite, help="Time to spend on candidates, in seconds."),
        ] = 900.0,
        as_json: JsonOption = False,
    ) -> None:
        """Choose an index by measurement and build it, or update the existing one.

        An option that is not given keeps its value in the existing index.

        `alike index --store digits.store --recall 0.99 --memory 2GB`

        `alike index --store large.store --on-disk --memory 4GB --cluster 8`
        """
        from alike.extract.errors import BadInput
        from alike.extract.store import Store
        from alike.flows.console import print_json, print_table, progress_bars
        from alike.flows.indexing import changed_wish, index_workers
        from alike.index.build import build_index, card_there
        from alike.index.specs import Wish

        chosen = Store.open(store).features(features)
        card = card_there(chosen, measure)
        there = Wish() if card is None else card.wish
        wish = changed_wish(there, recall, at, memory, latency, batch, threads)
        if on_disk is None:
            on_disk = card is not None and bool(card.lists)
        if shards is not None and not on_disk:
            raise BadInput(f"--shards {shards} builds lists on disk: give --on-disk too")
        if card is not None and (there != Wish() or card.lists):
            present = f"{there}, lists on disk" if card.lists else str(there)
            typer.echo(f"wish of the index there is: {present}", err=as_json)
        cluster = cluster or shards
        workers = index_workers(cluster, chosen, measure, on_disk=on_disk)
        with workers as built_by, progress_bars() as progress:
            report = build_index(
                chosen,
                measure,
                wish=wish,
                kinds=kind,
                on_disk=on_disk,
                rebuild=rebuild,
                effort=effort,
                progress=progress,
                **built_by,
            )
        if as_json:
            outcome = {"action": report.action, "note": report.note, "seconds": report.seconds}
            print_json({**report.card.to_dict(), **outcome})
            return
        if report.action in ("built", "rebuilt") and report.card.curve:
            print_table(curve_table(report.card), f"{measure}: what was measured")
        typer.echo(f"{report.action} in {report.seconds:.1f} s: {report.note}")


def _default(value: str) -> str:
    return f"that of the existing index, else {value}"


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
