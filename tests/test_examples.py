"""The examples in docstrings run, and public functions of tables have one."""

import doctest
import importlib
from inspect import isfunction
from pathlib import Path

import pytest

from alike.analysis.pairs import curves

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("extract", "index", "analysis", "train", "serve", "flows", "alike")
WITH_EXAMPLES = sorted(
    ".".join(("alike", *path.relative_to(ROOT).with_suffix("").parts)).replace(
        "alike.alike", "alike"
    )
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_symlink() and ">>> " in path.read_text(encoding="utf-8")
)
TABLES = {
    "MEASURES": "alike.extract.measures.measures",
    "SOURCES": "alike.extract.images.sources",
    "SCORES": "alike.analysis.scores.table",
    "LOSSES": "alike.train.losses",
    "EXPLAINERS": "alike.analysis.explain.explain",
    "INDEX_KINDS": "alike.index.kinds",
}


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples(module):
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
    assert failed == 0


@pytest.mark.quick
@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_shown(table):
    """A reader of the module that holds a table sees how it is used."""
    assert TABLES[table] in WITH_EXAMPLES
    text = ROOT.joinpath(*TABLES[table].split(".")[1:]).with_suffix(".py").read_text("utf-8")
    assert table in text


def _public(module):
    functions = [one for one in vars(module).values() if isfunction(one)]
    return [one.__name__ for one in functions if one.__module__ == module.__name__]


@pytest.mark.parametrize("name", _public(curves))
def test_every_curve_has_an_example(name):
    assert ">>>" in getattr(curves, name).__doc__
