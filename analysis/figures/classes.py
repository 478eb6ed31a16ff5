"""Figures of classes: which are alike, which fall apart; from two classes to thousands."""

from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from alike.analysis.class_pairs import named_codes, nearest_pairs, why_no_matrix
from alike.analysis.figures.figures import AFTER, BEFORE, blank, literal
from alike.extract.errors import BadInput

NEAR_TO_FAR = [
    [0.0, "#0b3954"],
    [0.2, "#16637a"],
    [0.4, "#3d93a0"],
    [0.6, "#86bcbd"],
    [0.8, "#c7dcd6"],
    [1.0, "#f1ece0"],
]
CLOSER_TO_APART = [
    [0.0, "#0f8b8d"],
    [0.25, "#86bcbd"],
    [0.5, "#efece4"],
    [0.75, "#edb48f"],
    [1.0, "#d9622b"],
]
MOST_CELLS = 240
MOST_NAMES = 60
MOST_ROWS = 30
MOST_ON_CURVE = 1000
"""Classes of the sorted curve: a screen has not the pixels for more."""
HEIGHT, HEIGHT_OF_MANY = 480, 680
LONGEST_TICK = 16
"""Characters of a tick label: longer names leave no room for the matrix."""
LONGEST_ROW = 32
"""The same where names stand on one side alone."""


def class_matrix(class_pairs: pd.DataFrame, measure: str = "gap_cosine") -> pd.DataFrame:
    """The mean distances as a square frame, classes on both axes in the table's order.

    Raises:
        BadInput: more than 2,048 classes, whose table has not all pairs.
    """
    rows = class_pairs[class_pairs["measure"] == measure]
    if why := why_no_matrix(rows):
        raise BadInput(f"{why}: use `closest_pairs`")
    names, a, b = named_codes(rows)
    square = np.full((len(names), len(names)), np.nan)
    square[a, b] = rows["mean"].to_numpy(float)
    frame = pd.DataFrame(square, names, names)
    return frame.fillna(frame.T)


def relative(square: pd.DataFrame) -> pd.DataFrame:
    """Distances in units of the mean distance between two different classes.

    Two networks spread their features over different distances; only in such units can their
    matrices be laid over each other.
    """
    values = square.to_numpy(float)
    between = values[~np.eye(len(values), dtype=bool)]
    return square / np.nanmean(between)


def similarity_order(square: pd.DataFrame) -> list[str]:
    """Classes ordered so that alike ones stand side by side.

    The leaves of average linkage over the mean distances between classes; up to 300 classes the
    order of the leaves is optimal (Bar-Joseph 2001, as in `scipy.cluster.hierarchy`).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    names = list(square.index)
    if len(names) < 3:
        return names
    values = square.to_numpy(float)
    values = np.nan_to_num((values + values.T) / 2, nan=np.nanmax(values, initial=1.0))
    values -= values.min()
    np.fill_diagonal(values, 0.0)
    tree = linkage(squareform(values, checks=False), "average", optimal_ordering=len(names) <= 300)
    return [names[i] for i in leaves_list(tree)]


def matrix_figure(
    square: pd.DataFrame,
    order: list[str],
    *,
    span: tuple[float, float] | None = None,
    change: bool = False,
    height: int | None = None,
    longest: int = LONGEST_TICK,
) -> go.Figure:
    """Mean distance between every two classes; the diagonal is the distance within a class.

    Args:
        square: classes x classes, as `class_matrix` gives it (or the difference of two).
        order: the classes from top to bottom.
        span: range of the colours, to compare two figures.
        change: colours for differences: teal came closer, orange went apart.
        height: in pixels; None: by the number of classes.
        longest: characters of a tick label; the hover has the whole name.
    """
    square = square.reindex(index=order, columns=order)
    values, labels = _coarse(square.to_numpy(float), order)
    low, high = span or (float(np.nanmin(values)), float(np.nanmax(values)))
    if change:
        high = max(abs(low), abs(high))
        low = -high
    with_names = len(labels) <= MOST_NAMES
    most = HEIGHT if with_names else HEIGHT_OF_MANY
    figure = blank(height or int(np.clip(150 + 22 * len(labels), 320, most)))
    positions, whole = list(range(len(labels))), [literal(name) for name in labels]
    figure.add_trace(
        go.Heatmap(
            z=values.astype(np.float32),
            x=positions,
            y=positions,
            text=None,
            customdata=[[[a, b] for b in whole] for a in whole] if with_names else None,
            colorscale=CLOSER_TO_APART if change else NEAR_TO_FAR,
            zmin=low,
            zmax=high,
            xgap=1 if with_names else 0,
            ygap=1 if with_names else 0,
            colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.9, "title": {"text": ""}},
            hovertemplate=(
                "\u2068%{customdata[0]}\u2069 – \u2068%{customdata[1]}\u2069<br>"
                if with_names
                else "\u2068%{y}\u2069 – \u2068%{x}\u2069<br>"
            )
            + ("change %{z:+.4f}" if change else "mean distance %{z:.4f}")
            + "<extra></extra>",
        )
    )
    ticks = positions if with_names else []
    names = [literal(shortened(labels[i], longest)) for i in ticks]
    short = max(map(len, labels)) <= 2
    figure.update_xaxes(
        tickvals=ticks, ticktext=names, showgrid=False,
        tickangle=0 if short else -45, constrain="domain",
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=ticks,
        ticktext=names,
        autorange="reversed",
        showgrid=False,
        scaleanchor="x",
        constrain="domain",
    )
    if not with_names:
        _hover_names(figure, whole)
    return figure


def shortened(name: str, longest: int) -> str:
    """A name of at most `longest` characters: its begin and its end tell it from others."""
    if len(name) <= longest:
        return name
    end = longest // 2 - 1
    return f"{name[: longest - end - 1]}…{name[-end:]}"


def _hover_names(figure: go.Figure, labels: list[str]) -> None:
    # Categories make the hover show names where there is no room for tick labels.
    figure.data[0].update(x=labels, y=labels)
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        axis.update(tickvals=None, ticktext=None, showticklabels=False, type="category")


def _coarse(values: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Neighbouring classes averaged into blocks where a screen has not enough pixels for all."""
    if len(names) <= MOST_CELLS:
        return values, names
    edges = np.linspace(0, len(names), MOST_CELLS + 1).astype(int)
    starts = edges[:-1]
    finite = np.where(np.isfinite(values), values, 0.0)
    present = np.isfinite(values).astype(float)
    sums, counts = (
        np.add.reduceat(np.add.reduceat(part, starts, 0), starts, 1) for part in (finite, present)
    )
    labels = [
        names[a] if b - a == 1 else f"{names[a]} … {names[b - 1]}" for a, b in pairwise(edges)
    ]
    return sums / np.where(counts > 0, counts, np.nan), labels


def closest_pairs(
    class_pairs: pd.DataFrame, measure: str = "gap_cosine", top: int = 20
) -> pd.DataFrame:
    """Pairs of different classes with the smallest mean distance, nearest first.

    Args:
        class_pairs: the table of an analysis, of however many classes.
        measure: one of its measures.
        top: most pairs.

    Returns:
        columns class_a, class_b, between (their mean distance), within (mean of the two classes'
        own), ratio (between / within; near 1 means that the two cannot be told apart).
    """
    rows = class_pairs[class_pairs["measure"] == measure]
    near = nearest_pairs(rows, measure, top)
    names, a, b = named_codes(rows)
    own = pd.Series(np.nan, names)
    own.iloc[a[a == b]] = rows["mean"].to_numpy(float)[a == b]
    first, second = (near[name].to_numpy(object) for name in ("class_a", "class_b"))
    between = near["mean"].to_numpy(float)
    within = (own[first].to_numpy() + own[second].to_numpy()) / 2
    ratio = between / np.where(within > 0, within, np.nan)
    columns = {"class_a": first, "class_b": second, "between": between}
    return pd.DataFrame({**columns, "within": within, "ratio": ratio})


def per_class_figure(before: pd.DataFrame | None, after: pd.DataFrame, score: str) -> go.Figure:
    """A score of every class, worst at the top; before and after as the ends of a line.

    Args:
        before: table `per_class` of one measure, or None.
        after: the same of the second analysis (or of the only one).
        score: the column to draw.

    With more than 30 classes the figure turns into their sorted curve; of more than 1,000 it draws
    1,000, evenly over the ranks, the first and the last among them. Of one analysis, the intervals
    are drawn where the table has them.
    """
    table = after.set_index("class").sort_values(score, ascending=False)
    now = table[score]
    then = None if before is None else before.set_index("class")[score].reindex(now.index)
    if len(now) > MOST_ROWS:
        return _sorted_curve(then, now, score)
    figure = blank(60 + 24 * len(now))
    names = [literal(name) for name in now.index]
    if then is not None:
        for name, old, new in zip(names, then, now, strict=True):
            figure.add_trace(
                go.Scatter(
                    x=[old, new], y=[name, name], mode="lines", hoverinfo="skip", showlegend=False,
                    line={"color": AFTER if new >= old else BEFORE, "width": 2},
                )
            )  # fmt: skip
        figure.add_trace(_dots(then, names, BEFORE, "before"))
    dots = _dots(now, names, AFTER, "after" if then is not None else score)
    ends = [f"{score}_low", f"{score}_high"]
    if then is None and set(ends) <= set(table.columns):
        low, high = (table[end].to_numpy(np.float32) for end in ends)
        dots.error_x = {
            "type": "data", "symmetric": False, "array": high - now, "arrayminus": now - low,
            "color": AFTER, "thickness": 1.5, "width": 3,
        }  # fmt: skip
    figure.add_trace(dots)
    figure.update_layout(showlegend=then is not None)
    ticks = [literal(shortened(str(name), LONGEST_ROW)) for name in now.index]
    figure.update_yaxes(
        type="category", range=[-0.6, len(names) - 0.4], tickvals=names, ticktext=ticks
    )
    figure.update_xaxes(title_text=f"{score.replace('_', ' ')} (right is better)")
    return figure


def _dots(values: pd.Series, names: list[str], colour: str, label: str) -> go.Scatter:
    return go.Scatter(
        x=values.to_numpy(np.float32),
        y=names,
        mode="markers",
        name=label,
        marker={"color": colour, "size": 10},
        hovertemplate=f"%{{y}}<br>{label} %{{x:.3f}}<extra></extra>",
    )


def _sorted_curve(then: pd.Series | None, now: pd.Series, score: str) -> go.Figure:
    figure = blank(320)
    for values, colour, label in ((then, BEFORE, "before"), (now, AFTER, "after")):
        if values is None:
            continue
        few = min(len(values), MOST_ON_CURVE)
        ranks = np.linspace(0, len(values) - 1, few).round().astype(int)
        ascending = values.sort_values().iloc[ranks]
        figure.add_trace(
            go.Scatter(
                x=ranks + 1,
                y=ascending.to_numpy(np.float32),
                text=[literal(name) for name in ascending.index],
                mode="lines+markers",
                name=label if then is not None else score,
                line={"color": colour, "width": 2},
                marker={"size": 4},
                hovertemplate="%{text}<br>rank %{x}: %{y:.3f}<extra></extra>",
            )
        )
    figure.update_layout(showlegend=then is not None)
    part = f", {MOST_ON_CURVE:,} of {len(now):,} drawn" if len(now) > MOST_ON_CURVE else ""
    figure.update_xaxes(title_text=f"classes, worst first{part}")
    figure.update_yaxes(title_text=f"{score.replace('_', ' ')} (up is better)")
    return figure
