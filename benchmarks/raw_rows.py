"""Raw rows of a measurement as CSV, with what they came from in its first lines.

`pandas.read_csv(file, comment="#")` reads them.
"""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from benchmarks.bench import processor

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("alike", "numpy", "torch", "pandas")


def write_rows(name: str, table: pd.DataFrame, facts: Mapping[str, object] = {}) -> Path:
    """Write a table to `benchmarks/results/NAME.csv`.

    Args:
        name: of the file, without its ending.
        table: the rows.
        facts: what else a reader must know, one line each.

    Returns:
        The file.
    """
    module = Path(sys.argv[0]).stem
    # Of a place its name alone: where it lies is of this machine.
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    head = {
        "command": " ".join([f"python -m benchmarks.{module}", *words]),
        "versions": f"Python {sys.version.split()[0]}, {versions}",
        "processor": processor(),
        **facts,
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.csv"
    lines = "".join(f"# {fact}: {value}\n" for fact, value in head.items())
    file.write_text(lines + table.to_csv(index=False, float_format="%.6g"), encoding="utf-8")
    return file
