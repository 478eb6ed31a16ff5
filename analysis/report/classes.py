"""The section of classes: which are similar, which are spread out, which overlap."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from alike.analysis.class_pairs import why_no_matrix
from alike.analysis.figures import classes as figures_classes
from alike.analysis.report.lookup import table_of
from alike.analysis.report.parts import columns, details, figure, section, table
from alike.analysis.report.subject import Subject, titled
from alike.analysis.report.words import DASH, count, interval_words, number, words

MOST_IN_THREE = 14
MOST_LISTED = 1000
"""Classes of the table: each takes some 500 bytes of the page."""
ORDERED = (
    "Classes are ordered by similarity. The diagonal shows the mean distance within a class. "
    "Dark cells are small distances."
)
EACH_ALONE = (
    "Each interval is that of its class alone: of 20 classes, one is missed by chance. Classes of "
    "fewer than 5 images have none."
)


def classes(subject: Subject) -> str:
    """Which classes are similar, which are spread out."""
    pairs = [
        (name, of_measure)
        for name, analysis in subject.named
        if not (of_measure := table_of(analysis, "class_pairs", subject.measure)).empty
    ]
    reasons = [why for _, table in pairs if (why := why_no_matrix(table))]
    lead = f"{reasons[-1]}. The nearest pairs are below." if reasons else ORDERED
    matrices = "" if reasons else _matrices(subject.measure, pairs)
    return section("classes", "Classes", lead, matrices + _per_class(subject) + _confused(subject))


def _matrices(measure: str, pairs: list[tuple[str, pd.DataFrame]]) -> str:
    squares = [(name, figures_classes.class_matrix(table, measure)) for name, table in pairs]
    if not squares:
        return ""
    order = figures_classes.similarity_order(squares[-1][1])
    if len(squares) == 1:
        heat_map = figures_classes.matrix_figure(squares[0][1], order)
        title = "Mean distance between classes"
        return figure(heat_map, "matrix-network", title=title, caption=_blocks(order))
    return _two_matrices(
        [(name, figures_classes.relative(square)) for name, square in squares], order
    )


def _two_matrices(squares: list[tuple[str, pd.DataFrame]], order: list[str]) -> str:
    """Before, after and change, in units of the mean distance between classes."""
    low = min(float(np.nanmin(square.to_numpy(float))) for _, square in squares)
    high = max(float(np.nanmax(square.to_numpy(float))) for _, square in squares)
    few = len(order) <= MOST_IN_THREE
    height = 300 if few else figures_classes.HEIGHT
    note = f"1 is the mean distance between two classes. {_blocks(order)}"
    figures = [
        figure(
            figures_classes.matrix_figure(square, order, span=(low, high), height=height),
            f"matrix-{name}",
            title=titled(name, "Between classes"),
            caption=note,
        )
        for name, square in squares
    ]
    before, after = (square.reindex(index=order, columns=order) for _, square in squares)
    change = figure(
        figures_classes.matrix_figure(after - before, order, change=True, height=height),
        "matrix-change",
        title="Change",
        caption="Teal: the distance became smaller. Orange: it became larger. Better features "
        "give a teal diagonal on orange.",
    )
    return columns(*figures, change) if few else columns(*figures) + change


def _blocks(order: list[str]) -> str:
    if len(order) <= figures_classes.MOST_CELLS:
        return ""
    return (
        f"Of the {count(len(order))} classes, neighbouring ones are averaged into "
        f"{figures_classes.MOST_CELLS} blocks. The export has the full table."
    )


def _per_class(subject: Subject) -> str:
    tables = [table_of(analysis, "per_class", subject.measure) for _, analysis in subject.named]
    tables = [one for one in tables if not one.empty]
    if not tables:
        return ""
    before = tables[0] if len(tables) == 2 else None
    chart = figure(
        figures_classes.per_class_figure(before, tables[-1], "sameness"),
        "per-class",
        title="Sameness of every class",
    )
    n = len(tables[-1])
    which = "All" if n <= MOST_LISTED else f"The {count(MOST_LISTED)} worst of"
    return chart + details(
        f"{which} {count(n)} classes as a table", _class_table(before, tables[-1])
    )


def _class_table(before: pd.DataFrame | None, after: pd.DataFrame) -> str:
    spans = ("sameness_low", "sameness_high")
    names = [c for c in after.columns if c not in {"measure", "class", "n", *spans}]
    # An older analysis has none.
    surely = set(spans) <= set(after.columns)
    old = None if before is None else before.set_index("class")
    heads = [("Class", "t"), ("Images", "n")]
    heads += [("Sameness before", "n")] if old is not None else []
    for name in names:
        heads.append((words(name).label, "n"))
        heads += [("95 % interval", "n")] if surely and name == "sameness" else []
    rows = []
    for row in after.sort_values("sameness").head(MOST_LISTED).to_dict("records"):
        cells: list[object] = [str(row["class"]), (count(row["n"]), row["n"])]
        if old is not None:
            then = old["sameness"].get(row["class"], float("nan"))
            cells.append((number(then), then))
        for name in names:
            cells.append((number(row[name], words(name).form), row[name]))
            if surely and name == "sameness":
                cells.append((interval_words(*(row[end] for end in spans)), row[spans[0]]))
        rows.append(cells)
    caption = "Worst first." + (f" {EACH_ALONE}" if surely else "")
    if len(after) > MOST_LISTED:
        caption += " `alike export` writes the table of all classes."
    return table(heads, rows, tall=len(after) > 20, caption=caption)


def _confused(subject: Subject) -> str:
    pairs = table_of(subject.last, "class_pairs", subject.measure)
    if pairs.empty:
        return ""
    near = figures_classes.closest_pairs(pairs, subject.measure, 8)
    heads = [
        ("Class", "t"),
        ("and class", "t"),
        ("Distance between", "n"),
        ("within", "n"),
        ("ratio", "n"),
    ]
    rows: list[Sequence[object]] = [
        (
            row.class_a,
            row.class_b,
            (number(row.between, "distance"), row.between),
            (number(row.within, "distance"), row.within),
            (f"{row.ratio:.2f}" if np.isfinite(row.ratio) else DASH, row.ratio),
        )
        for row in near.itertuples()
    ]
    title = "<h3>Classes that lie nearest to each other</h3>"
    caption = "At a ratio near 1, images lie as near to the other class as to their own."
    return title + table(heads, rows, caption=caption)
