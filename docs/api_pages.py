"""A hook of mkdocs: one page of reference a folder, from the names that the folder hands on."""

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "api/images.md": "alike.extract.images",
    "api/networks.md": "alike.extract.networks",
    "api/store.md": "alike.extract.store",
    "api/measures.md": "alike.extract.measures",
    "api/blocks.md": "alike.analysis.blocks",
    "api/pairs.md": "alike.analysis.pairs",
    "api/classes.md": "alike.analysis.classes",
    "api/neighbours.md": "alike.analysis.neighbours",
    "api/scores.md": "alike.analysis.scores",
    "api/explain.md": "alike.analysis.explain",
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
    folder = ROOT.joinpath(*package.split(".")[1:])
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    stub = ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8"))
    names = [
        f"{package}.{node.module}.{one.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for one in node.names
    ]
    entries = "\n\n".join(f"::: {name}" for name in sorted(names, key=_last))
    return f"# {package}\n\n{about}\n\n{entries}\n"


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower()
