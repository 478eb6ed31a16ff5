"""`alike index`: choose and build the index of a measure, or bring it up to date."""

from typing import Annotated

import typer

_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("index")
    def index(
        store: Annotated[str, typer.Option(help="Where the features are.")],
        features: Annotated[
            str | None, typer.Option(help="Extraction; needed where the store has several.")
        ] = None,
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
        as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
    ) -> None:
        """Choose and build the index of a measure by measuring, or bring it up to date.

        `alike index --store digits.store --recall 0.99 --memory 2GB`
        """
        from extract.store import Store
        from flows.console import print_json, progress_bars
        from index.build import build_index

        chosen = Store.open(store).features(features)
        with progress_bars() as progress:
            report = build_index(
                chosen,
                measure,
                recall=recall,
                at=at,
                memory=None if memory is None else parse_bytes(memory),
                progress=progress,
            )
        card = report.card
        if as_json:
            print_json({**card.to_dict(), "action": report.action, "seconds": report.seconds})
            return
        typer.echo(f"{report.action}: {card.spec} over {card.n_rows} rows of {card.measure}")


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `4GB`, `500M` or `1e9`.

    Raises:
        BadInput: no size.
    """
    from extract.errors import BadInput

    number = text.strip().lower().removesuffix("ib").removesuffix("b")
    unit = number[-1:] if number[-1:] in "kmgt" else ""
    try:
        return int(float(number.removesuffix(unit)) * _BYTES[unit])
    except ValueError:
        raise BadInput(f"memory {text!r}: a size such as 4GB or 500M expected") from None
