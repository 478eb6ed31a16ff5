"""`alike card`: a network on a set of images as one small file to cite."""

from pathlib import Path
from typing import Annotated

import typer

from alike.flows.options import PATH, FeaturesOption, JsonOption


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("card")
    def card(
        place: Annotated[
            str | None,
            typer.Argument(
                metavar="STORE", help="Store of the features: a folder or a URL; or --store."
            ),
        ] = None,
        store: Annotated[
            str | None,
            typer.Option("--store", help="Store of the features, the same as an argument."),
        ] = None,
        features: FeaturesOption = None,
        to: Annotated[
            Path,
            typer.Option(**PATH, help="Output file; its ending is the format: .json or .html."),
        ] = Path("card.json"),
        as_json: JsonOption = False,
    ) -> None:
        """Write scores, scale, seeds and hashes of an analysis, and a line to cite.

        The same store gives the same bytes.

        `alike card pets.store --to card.html`
        """
        from alike.analysis.export import manifest_json
        from alike.analysis.report import card_of, card_page
        from alike.analysis.stored import Analysis
        from alike.extract.errors import BadInput
        from alike.extract.replacing import aside, check_target
        from alike.extract.store import Store
        from alike.flows.console import print_json

        check_target(to, endings=[".json", ".html"])
        if (place is None) == (store is None):
            raise BadInput("give one store: alike card STORE, or alike card --store STORE")
        opened = Store.open(str(place or store))
        chosen = opened.features(features)
        analysis = Analysis.load(opened, chosen.key)
        note = analysis.outdated(chosen)
        if note:
            raise BadInput(f"{note}; a card of it would not be of this store")
        content = card_of(analysis, chosen)
        written = (
            manifest_json(content) + "\n" if to.suffix.lower() == ".json" else card_page(content)
        )
        with aside(to) as part:
            part.write_text(written, encoding="utf-8")
        if as_json:
            print_json(content)
        else:
            typer.echo(content["citation"])
            typer.echo(str(to.resolve()))
