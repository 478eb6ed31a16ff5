"""Text in CSV files that a spreadsheet would run, made plain, and read back as it was."""

import csv
import re
from collections.abc import Callable
from typing import Any

import pandas as pd

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Beginning of text that a spreadsheet runs, and of what is written in its place."""


def inert(table: pd.DataFrame) -> pd.DataFrame:
    """Text that a spreadsheet would run (it begins with = + - @) after an apostrophe.

    Example:
        >>> inert(pd.DataFrame({"label": ["=1+1", "cat"], "score": [-1.0, 2.0]})).values.tolist()
        [["'=1+1", -1.0], ['cat', 2.0]]
    """
    return _texts(table, lambda value: f"'{value}" if FORMULA.match(value) else value)


def write_lines(table: pd.DataFrame, file: Any, *, header: bool = True, **how: Any) -> None:
    """Write the lines of a table to an open CSV file, its texts made plain.

    Args:
        table: without an index that means anything.
        file: open for text, or a path.
        header: whether the first line names the columns.
        how: options of `DataFrame.to_csv`.
    """
    returns = []

    def look(value: str) -> str:
        if "\r" in value:
            returns.append(value)
        return value

    _texts(table, look)
    # The writer quotes a line feed by itself, but not a carriage return, which ends a line too.
    quoting: Any = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    inert(table).to_csv(file, index=False, header=header, quoting=quoting, **how)


def as_it_was(table: pd.DataFrame) -> pd.DataFrame:
    """What `inert` was given.

    Example:
        >>> as_it_was(pd.DataFrame({"label": ["'=1+1", "cat", "'t"]}))["label"].tolist()
        ['=1+1', 'cat', "'t"]
    """
    return _texts(
        table,
        lambda value: value[1:] if value.startswith("'") and FORMULA.match(value) else value,
    )


def _texts(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    def one(value: object) -> object:
        return change(value) if isinstance(value, str) else value

    texts = table.select_dtypes(exclude=["number", "bool"])
    changed = {}
    for name in texts:
        column = texts[name]
        # A million rows of class pairs have few names.
        if isinstance(column.dtype, pd.CategoricalDtype):
            changed[name] = column.cat.rename_categories([one(c) for c in column.cat.categories])
        else:
            changed[name] = column.astype(object).map(one)
    return table.assign(**changed)
