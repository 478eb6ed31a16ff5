"""The notebook of the docs, cell by cell; Jupyter and its twenty packages are not needed for it."""

import ast
import json
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebook.ipynb"


def cells():
    """Source of each cell of code."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(one["source"]) for one in notebook["cells"] if one["cell_type"] == "code"]


def run(source, names):
    """The value of a cell's last line, as a kernel shows it; None if it is no expression."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), str(NOTEBOOK), "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_the_notebook_runs_and_shows_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    values = [run(source, names) for source in cells()]
    extraction, analysis, table, near = (one._repr_html_() for one in values[1:5])
    assert "images with features" in extraction
    assert "sameness" in analysis
    assert "worst class" in analysis
    assert table.count("<tr") == 1 + 5
    assert near.count("<img ") == 3 * (1 + 6)
    # Chance is a fifth; pixels alone do far better.
    assert 0.2 < values[5] <= 1
    # It is short enough to be read at once, and keeps no output that could grow old.
    assert sum(bool(line.strip()) for source in cells() for line in source.splitlines()) <= 25
    assert '"image/png"' not in NOTEBOOK.read_text(encoding="utf-8")
