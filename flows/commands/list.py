"""`alike list`: the rows of every table that can be extended."""

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("list")
    def list_(what: str) -> None:
        """List what there is."""
        print(what)
