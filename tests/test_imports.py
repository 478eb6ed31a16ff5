"""The folders are floors of a house with one direction: parsed, not run."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("extract", "index", "analysis", "train", "flows", "serve")

MAY_IMPORT = {
    "extract": set(),
    "index": {"extract"},
    "analysis": {"extract"},
    "train": {"extract"},
    "flows": set(FOLDERS),
    "serve": {*FOLDERS} - {"flows"},
    "api": {*FOLDERS, "results", "client", "arguments"},
    "arguments": {"extract"},
    "client": {"extract", "connection", "arguments"},
    "connection": {"extract"},
    "results": {"extract", "analysis"},
    "__main__": {"flows"},
}
"""First level: folder, or module beside them, to the others that it may import."""

BASE = {
    "display", "errors", "progress", "machine", "limits", "identity", "documents", "replacing",
    "secrets", "places", "large_tables",
}  # fmt: skip
ROOMS = {
    "extract": {
        "images": BASE,
        "networks": BASE,
        "store": BASE | {"images.selection", "images.split", "row_groups", "command"},
        "measures": BASE | {"command"},
        "twins": BASE | {"images", "store", "command"},
    },
    "analysis": {
        "blocks": set(),
        "pairs": {"blocks"},
        "classes": {"blocks"},
        "neighbours": {"blocks", "pairs"},
        "scores": {"blocks", "pairs", "classes", "neighbours"},
        "probes": {"blocks", "pairs", "scores"},
        "people": {"blocks"},
        "explain": set(),
        "figures": {"class_pairs"},
        "maps": {"blocks"},
        "report": {
            "class_pairs",
            "scores",
            "explain",
            "figures",
            "maps",
            "twins",
            "ranking",
            "similarity",
            "data_limits",
            "sufficiency",
        },
        "export": {"class_pairs", "report"},
    },
}
"""Second level: room to the rooms and modules beside it that it may import."""

ONLY_IN = {
    "prefect": ("alike.flows.",),
    "typer": ("alike.flows.",),
    "rich": ("alike.flows.",),
    "faiss": ("alike.index.",),
    "dask": ("alike.analysis.", "alike.extract.distributed"),
    "distributed": ("alike.analysis.", "alike.extract.distributed"),
    "fastapi": ("alike.serve.",),
    "starlette": ("alike.serve.",),
    "uvicorn": ("alike.serve.",),
    "lightning": ("alike.train.",),
    "zarr": ("alike.extract.store.",),
}


def _name(path: Path) -> str:
    parts = ("alike", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


MODULES = {_name(path): path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
MODULES |= {f"alike.{path.stem}": path for path in (ROOT / "alike").glob("*.py")}
MODULES["alike"] = MODULES.pop("alike.__init__")


@cache
def handed_on(package: str) -> dict[str, str]:
    """Public name to defining module, for a folder whose stub hands names on."""
    stub = MODULES[package].with_suffix(".pyi") if package in MODULES else None
    if stub is None or not stub.exists():
        return {}
    nodes = ast.parse(stub.read_text(encoding="utf-8")).body
    found = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return {one.name: f"{package}.{node.module}" for node in found for one in node.names}


@cache
def imported(module: str) -> frozenset[tuple[str, bool]]:
    """Modules that a module imports, each with whether that is for type checkers alone."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        typed = id(node) in for_types
        if isinstance(node, ast.Import):
            names |= {(alias.name, typed) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                names.add((_defining(node.module, alias.name), typed))
    return frozenset(names)


def _defining(module: str, name: str) -> str:
    whole = f"{module}.{name}"
    return whole if whole in MODULES else handed_on(module).get(name, module)


def _folder(module: str) -> str:
    return module.split(".")[1] if module.startswith("alike.") else ""


def _breaches(module: str) -> list[str]:
    """Imports of a module that the two tables do not allow."""
    folder, *inner = module.split(".")[1:]
    room = inner[0] if len(inner) > 1 and inner[0] in ROOMS.get(folder, {}) else None
    wrong = []
    for target, _ in imported(module):
        other = _folder(target)
        if not other:
            continue
        if other != folder and other not in MAY_IMPORT[folder]:
            wrong.append(target)
        elif other == folder and room is not None:
            beside = target.removeprefix(f"alike.{folder}.")
            allowed = ROOMS[folder][room] | {room}
            if not any(beside == one or beside.startswith(f"{one}.") for one in allowed):
                wrong.append(target)
    return sorted(wrong)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"alike"}))
def test_floors(module):
    assert not _breaches(module)
    for target, _ in imported(module):
        places = ONLY_IN.get(target.partition(".")[0])
        assert places is None or module.startswith(places), f"{module} imports {target}"
        assert target.partition(".")[0] not in {*FOLDERS, "tests", "benchmarks"}


def _graph() -> dict[str, set[str]]:
    return {
        module: {target for target, _ in imported(module) if target in MODULES} - {module}
        for module in MODULES
    }


def test_no_module_reaches_itself():
    """Imports inside functions and for types count: a need is a need wherever it stands."""
    try:
        list(TopologicalSorter(_graph()).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("package", sorted(m for m in MODULES if handed_on(m)))
def test_what_a_folder_hands_on(package):
    """Each name is defined where the stub says, and none is also the name of a module there."""
    beside = {one.rpartition(".")[2] for one in MODULES if one.rpartition(".")[0] == package}
    for name, module in handed_on(package).items():
        assert module in MODULES, f"{package}: {module} does not exist"
        assert name not in beside


@pytest.mark.quick
def test_rule_sees_a_breach(monkeypatch):
    assert ("alike.extract.errors", False) in imported("alike.flows.cli")
    monkeypatch.setitem(MAY_IMPORT, "index", set())
    monkeypatch.setitem(ROOMS["analysis"], "report", set())
    assert any("alike.extract" in one for one in _breaches("alike.index.query"))
    assert any("scores" in one for one in _breaches("alike.analysis.report.words"))
