"""A hook of mkdocs: one page of reference for each package that hands on public names."""

import ast
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "api/alike.md": "alike",
    "api/images.md": "alike.extract.images",
    "api/networks.md": "alike.extract.networks",
    "api/twins.md": "alike.extract.twins",
    "api/store.md": "alike.extract.store",
    "api/measures.md": "alike.extract.measures",
    "api/blocks.md": "alike.analysis.blocks",
    "api/pairs.md": "alike.analysis.pairs",
    "api/classes.md": "alike.analysis.classes",
    "api/neighbours.md": "alike.analysis.neighbours",
    "api/scores.md": "alike.analysis.scores",
    "api/probes.md": "alike.analysis.probes",
    "api/people.md": "alike.analysis.people",
    "api/explain.md": "alike.analysis.explain",
    "api/continuity.md": "alike.analysis.explain.continuity",
    "api/grade.md": "alike.analysis.explain.grade",
    "api/lrp.md": "alike.analysis.explain.lrp",
    "api/figures.md": "alike.analysis.figures",
    "api/maps.md": "alike.analysis.maps",
    "api/report.md": "alike.analysis.report",
    "api/export.md": "alike.analysis.export",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages to those that lie in docs/."""
    for page, package in PAGES.items():
        files.append(File.generated(config, page, content=_page(package)))
    return files


def _page(package: str) -> str:
    folder = ROOT.joinpath(*package.split("."))
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    names = sorted(_names(package), key=_last)
    entries = "\n\n".join(f"::: {name}" for name in names if name not in _elsewhere(package))
    links = "\n".join(
        f"- [`{package}.{name.rpartition('.')[2]}`][{name}]"
        for name in names
        if name in _elsewhere(package)
    )
    return f"# {package}\n\n{about}\n\n{links}\n\n{entries}\n"


def _names(package: str) -> list[str]:
    """The public names of a package, each as the module that defines it says it."""
    folder = ROOT.joinpath(*package.split("."))
    stub = ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8"))
    return [
        f"{package}.{node.module}.{one.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for one in node.names
    ]


@cache
def _elsewhere(package: str) -> frozenset[str]:
    """Names that a page of a folder inside the package describes: here they are links."""
    inside = [one for one in PAGES.values() if one.startswith(f"{package}.")]
    return frozenset(name for one in inside for name in _names(one))


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower()
