"""What the import statements of a Python file name; the file is parsed, not run."""

import ast
from collections.abc import Iterator
from pathlib import Path


def import_statements(file: Path) -> Iterator[tuple[int, list[str]]]:
    """What the import statements of a file may load, wherever they stand in it.

    Returns:
        The number of leading dots (0: an absolute name) and the parts of the name; none for a file
        that cannot be read or parsed, whose own error is told where it is run.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            names = [alias.name for alias in node.names if alias.name != "*"]
            yield from ((node.level, parts) for parts in (base, *([*base, one] for one in names)))
