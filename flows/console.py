"""What the command line prints: tables, JSON, progress bars; plain lines where no terminal is."""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alike.extract.progress import Progress
from alike.extract.secrets import shown_place
from alike.flows.log_lines import is_json, say

if TYPE_CHECKING:
    import pandas as pd


def print_json(value: object) -> None:
    """Print one JSON document to standard output; NaN becomes null."""
    # A terminal of another encoding gets escapes that JSON knows.
    escaped = (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(_plain(value), ensure_ascii=escaped, indent=2) + "\n")


def _plain(value: Any) -> Any:
    import numpy as np
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return [_plain(row) for row in value.to_dict(orient="records")]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)


def print_table(table: "pd.DataFrame", title: str = "") -> None:
    """Print a table, its numbers to four significant digits; a dash for NaN.

    Of URLs of images neither password nor query values are shown: a screen is kept in many logs.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    # Two columns may have one name, as where a run is compared with itself.
    for name, dtype in zip(table.columns, table.dtypes, strict=True):
        number = dtype.kind in "if"
        shown.add_column(Text(str(name)), justify="right" if number else "left", overflow="fold")
    for row in table.itertuples(index=False):
        # As text: a name of a file may look like rich's markup.
        cells = (
            _number(cell) if isinstance(cell, float) else shown_place(str(cell)) for cell in row
        )
        shown.add_row(*map(Text, cells))
    console = Console(width=None if sys.stdout.isatty() else 200)
    if title:
        # Not the table's own title, which is folded into the width of a narrow table.
        console.print(Text(title, style="italic"))
    console.print(shown)


def _number(value: float) -> str:
    """Four significant digits; a dash for what is not there."""
    return "–" if math.isnan(value) else f"{value:.4g}"


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Progress on standard error: bars on a terminal, a line now and then elsewhere."""
    if sys.stderr.isatty() and not is_json():
        with _bars() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, note: str = "") -> None:
            if not total and note:
                bars.console.print(f"{stage}: {note}", markup=False, highlight=False)
                return
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)
            if done >= total:
                bars.remove_task(tasks.pop(stage))

        yield report


def _lines(every: float = 5.0) -> Progress:
    """A line now and then, with the time left; nothing about stages that are over sooner."""
    began: dict[str, tuple[float, int]] = {}
    last: dict[str, float] = {}

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        if not total and note:
            _say(stage, note)
            return
        now = time.monotonic()
        start, first = began.setdefault(stage, (now, done))
        if now - last.setdefault(stage, now) >= every:
            last[stage] = now
            parts = [note] if note else []
            if first < done < total:
                parts.append(f"{(now - start) / (done - first) * (total - done):.0f} s left")
            _say(stage, f"{done}/{total} {', '.join(parts)}".rstrip(), done=done, total=total)
        if done >= total:
            began.pop(stage, None)
            last.pop(stage, None)

    return report


def _say(stage: str, message: str, **facts: Any) -> None:
    """A line of a stage, which text begins with and JSON names as the step."""
    say(message if is_json() else f"{stage}: {message}", step=stage, **facts)
