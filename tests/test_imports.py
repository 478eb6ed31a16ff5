"""The folders are layers with one direction (DESIGN section 3): parsed, not run."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"extract", "index", "analysis", "train", "flows", "serve"}

MAY_IMPORT = {
    "extract": set(),
    "index": {"extract"},
    "analysis": {"extract"},
    "train": {"extract"},
    "flows": OURS,
    "serve": OURS - {"flows"},
}

ONLY_IN = {
    "prefect": ("flows/",),
    "typer": ("flows/",),
    "rich": ("flows/",),
    "faiss": ("index/",),
    "dask": ("analysis/", "extract/distributed.py"),
    "distributed": ("analysis/", "extract/distributed.py"),
    "fastapi": ("serve/",),
    "starlette": ("serve/",),
    "uvicorn": ("serve/",),
    "lightning": ("train/",),
    "zarr": ("extract/store",),
}

FILES = sorted(path.relative_to(ROOT) for folder in OURS for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_layers(file):
    folder = file.parts[0]
    names = imported(ROOT / file)
    forbidden = (names & OURS) - MAY_IMPORT[folder] - {folder}
    assert not forbidden, f"{file} imports {forbidden}"
    for library, places in ONLY_IN.items():
        if library in names:
            assert file.as_posix().startswith(places), f"{file} imports {library}"


def test_rule_sees_a_breach():
    assert imported(ROOT / "flows" / "cli.py") >= {"typer", "extract"}
