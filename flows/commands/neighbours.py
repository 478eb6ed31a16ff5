"""`alike neighbours`: the stored images nearest to any image."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("neighbours")
    def neighbours(
        images: Annotated[
            list[str], typer.Argument(help="Image files, URLs, or numbers of stored rows.")
        ],
        store: Annotated[str, typer.Option(help="Where the features are.")],
        k: Annotated[int, typer.Option("-k", help="Neighbours an image.")] = 10,
        features: Annotated[
            str | None, typer.Option(help="Extraction; needed where the store has several.")
        ] = None,
        measure: Annotated[str, typer.Option(help="A measure that has an index.")] = "gap_cosine",
        contact_sheet: Annotated[
            Path | None, typer.Option(help="Write a PNG of queries and neighbours.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Show the stored images nearest to an image.

        `alike neighbours cat.jpg --store pets.store -k 5 --contact-sheet cat.png`

        `alike neighbours 17 --store pets.store --json`
        """
        from flows.console import print_json, print_table
        from index.query import NeighbourIndex

        opened = NeighbourIndex.open(store, features, measure)
        asked = [int(image) if image.isdigit() else image for image in images]
        table = opened.table(asked, opened.query(asked, k))
        if contact_sheet is not None:
            opened.contact_sheet(asked, table, contact_sheet)
        if as_json:
            print_json(table)
        else:
            print_table(table, f"nearest by {measure}")
            if contact_sheet is not None:
                typer.echo(f"contact sheet: {contact_sheet}")
