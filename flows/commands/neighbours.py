"""`alike neighbours`: the stored images nearest to any image."""

from pathlib import Path
from typing import Annotated, Any

import typer

from alike.flows.log_lines import say
from alike.flows.options import (
    PATH,
    FeaturesOption,
    JsonOption,
    StoreOption,
    TrustOption,
    WhereOption,
)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("neighbours")
    def neighbours(
        images: Annotated[
            list[str],
            typer.Argument(help="Image files, URLs, numbers of stored rows, or one folder."),
        ],
        store: StoreOption,
        k: Annotated[
            int, typer.Option("-k", min=1, help="Number of neighbours of each image.")
        ] = 10,
        features: FeaturesOption = None,
        measure: Annotated[str, typer.Option(help="Measure of the index.")] = "gap_cosine",
        same_class: Annotated[
            bool, typer.Option("--same-class", help="Only images of the query's class.")
        ] = False,
        other_class: Annotated[
            bool, typer.Option("--other-class", help="Only images of other classes.")
        ] = False,
        among: Annotated[
            list[str] | None, typer.Option(help="Only images of this class. Repeatable.")
        ] = None,
        where: WhereOption = None,
        label: Annotated[
            str | None, typer.Option(help="Class of queries that are not stored.")
        ] = None,
        rerank: Annotated[
            str | None, typer.Option(help="Compare feature maps part by part: chamfer or sinkhorn.")
        ] = None,
        contact_sheet: Annotated[
            Path | None, typer.Option(**PATH, help="Write a PNG with queries and neighbours.")
        ] = None,
        to: Annotated[
            Path | None, typer.Option(**PATH, help="Write a Parquet file, for a folder of queries.")
        ] = None,
        trust: TrustOption = False,
        as_json: JsonOption = False,
    ) -> None:
        """Show the stored images nearest to an image. A stored image is never its own neighbour.

        If there is no index yet, it is built first.

        `alike neighbours cat.jpg --store pets.store -k 5 --contact-sheet cat.png`

        `alike neighbours 17 --store pets.store --other-class --json`

        `alike neighbours new_images/ --store pets.store --to answers.parquet`
        """
        from alike.extract.errors import BadInput
        from alike.extract.replacing import check_target
        from alike.extract.store import without_record
        from alike.flows.console import print_json, print_table
        from alike.index.filters import Among
        from alike.index.query import NeighbourIndex
        from alike.index.show import fewer_than, neighbour_table, write_contact_sheet

        if same_class and other_class:
            raise BadInput("--same-class and --other-class exclude each other: give one of them")
        relation = "same" if same_class else "other" if other_class else "any"
        allowed = Among(relation, tuple(among or ()), where or "")
        # with --to a URL is that of a folder
        place = "://" in images[0] and to is not None
        folder = len(images) == 1 and (place or Path(images[0]).is_dir())
        if folder != (to is not None):
            raise BadInput("a folder of queries needs --to FILE.parquet, and --to needs a folder")
        if folder and contact_sheet is not None:
            raise BadInput("--contact-sheet shows named images: give them instead of their folder")
        if contact_sheet is not None:
            check_target(contact_sheet, endings=[".png"])
        if to is not None:
            check_target(to, endings=[".parquet"])
        _build_missing(store, features, measure, as_json)
        opened = NeighbourIndex.open(store, features, measure)
        if to is not None:
            ways = {"among": allowed, "label": label, "rerank": rerank}
            _many(opened, images[0], to, k, ways, as_json)
            return
        asked = [int(image) if image.isdecimal() else image for image in images]
        answers = opened.query(asked, k, among=allowed, label=label, rerank=rerank)
        named = opened.read([image for image in asked if isinstance(image, int)])
        paths = {query.row: query.name for query in named}
        names = [paths[image] if isinstance(image, int) else image for image in asked]
        table = neighbour_table(opened, names, answers)
        pending = without_record(opened.features) if len(table) < k * len(images) else ""
        fewer = fewer_than(k, answers.rows)
        for line in filter(None, (fewer, pending)):
            say(f"note: {line}")
        if contact_sheet is not None:
            write_contact_sheet(opened, asked, table, contact_sheet, label)
        if as_json:
            print_json(table)
            return
        print_table(table.drop(columns=["number"]), f"nearest by {rerank or measure}")
        if not len(table):
            typer.echo("no stored image may be an answer: ask with fewer filters")
        if contact_sheet is not None:
            typer.echo(f"contact sheet: {contact_sheet}")


def _build_missing(store: str, key: str | None, measure: str, as_json: bool) -> None:
    from alike.extract.store import Store
    from alike.flows.console import progress_bars
    from alike.flows.indexing import build_missing

    features = Store.open(store).features(key)
    with progress_bars() as progress:
        build_missing(features, measure, lambda line: typer.echo(line, err=as_json), progress)


def _many(opened: Any, folder: str, to: Path, k: int, ways: dict[str, Any], as_json: bool) -> None:
    from alike.extract.images import open_source
    from alike.flows.console import print_json, print_table, progress_bars
    from alike.index.many import query_many

    with progress_bars() as progress:
        report = query_many(opened, open_source(folder), to, k, progress=progress, **ways)
    if as_json:
        print_json({"path": report.path, "n_queries": report.n_queries, "bad": report.bad})
        return
    typer.echo(f"neighbours of {report.n_queries} images: {report.path}")
    if len(report.bad):
        print_table(report.bad, f"{len(report.bad)} images could not be used")
