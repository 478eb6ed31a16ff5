"""`alike list`: the rows of every table that can be extended."""

import importlib
from enum import StrEnum
from typing import Annotated, Any

import typer

from alike.flows.options import JsonOption

TABLES = {
    "datasets": ["alike.extract.images.sources.SOURCES"],
    "measures": [
        "alike.extract.measures.measures.MEASURES", "alike.extract.measures.sets.SET_MEASURES",
    ],
    "scores": ["alike.analysis.scores.table.SCORES"],
    "losses": ["alike.train.losses.LOSSES"],
    "explainers": ["alike.analysis.explain.explain.EXPLAINERS"],
    "pair-explainers": ["alike.analysis.explain.likeness_pixels.PAIR_EXPLAINERS"],
    "indexes": ["alike.index.kinds.INDEX_KINDS"],
}  # fmt: skip
"""Word of the command line to the tables that it lists, one after the other."""


class What(StrEnum):
    """The tables, by the word that names them on the command line."""

    NETWORKS = "networks"
    DATASETS = "datasets"
    MEASURES = "measures"
    SCORES = "scores"
    LOSSES = "losses"
    EXPLAINERS = "explainers"
    PAIR_EXPLAINERS = "pair-explainers"
    INDEXES = "indexes"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("list")(list_rows)


def list_rows(
    what: Annotated[What, typer.Argument(help="Which table.")],
    json: JsonOption = False,
) -> None:
    """List the networks, measures, scores, losses… that there are.

    Examples:
        alike list networks

        alike list measures --json
    """
    from alike.flows.console import print_json

    rows = _networks() if what is What.NETWORKS else _rows(TABLES[what.value])
    if json:
        print_json([{"name": name, "about": about} for name, about in rows.items()])
        return
    width = max(map(len, rows))
    for name, about in rows.items():
        typer.echo(f"{name:<{width}}  {about}".rstrip())


def _networks() -> dict[str, str]:
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    own = {"file.py:factory": "your own network", "timm:NAME": "a network of timm, if installed"}
    return {str(name): "torchvision" for name in names} | own


def _rows(tables: list[str]) -> dict[str, str]:
    rows: dict[str, Any] = {}
    for table in tables:
        module, _, name = table.rpartition(".")
        rows |= getattr(importlib.import_module(module), name)
    return {name: _about(row) for name, row in rows.items()}


def _about(row: Any) -> str:
    text = getattr(row, "about", None) or getattr(row, "__doc__", None) or ""
    return str(text).strip().partition("\n")[0]
