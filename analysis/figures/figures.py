"""Figures, defined once: the report, a page and a notebook show the same ones.

Every function takes a table of an analysis and returns a `plotly` figure with a transparent
ground, so that it sits on light and on dark paper alike. In a notebook the returned figure shows
itself.
"""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

SAME, DIFFERENT = "#0f8b8d", "#e07a3f"
BEFORE, AFTER = "#8b93a1", "#2f6fde"
QUIET = "#9aa1ac"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
GRID = "rgba(128,134,145,0.18)"
LINE = "rgba(128,134,145,0.45)"
INK = "#6b7280"

ROLES: dict[str, tuple[str, str]] = {
    "floor": (QUIET, "line-ns"),
    "untrained": (QUIET, "circle-open"),
    "before": (BEFORE, "circle"),
    "after": (AFTER, "circle"),
    "only": (AFTER, "circle"),
    "ceiling": (QUIET, "line-ns"),
}


def literal(name: object) -> str:
    """Text of a figure that stands there as it is: plotly reads `<b>` and `<br>` as markup.

    Every name that is not Alike's own passes through here: classes, networks, layers, runs. It is
    a value of the figure, never a part of a template, in which `%{` begins a variable.
    """
    return html.escape(str(name), quote=False)


def blank(height: int, **layout: Any) -> go.Figure:
    """An empty figure in the house style, `height` pixels high."""
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": LINE,
        "ticks": "",
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        # Names are whole: a cut could fall inside of what `literal` writes.
        hoverlabel={"font": {"family": FONT, "size": 13}, "namelength": -1},
        xaxis=axis,
        yaxis=axis,
        dragmode=False,
    )
    figure.update_layout(**layout)
    return figure


def ladder(rungs: pd.DataFrame) -> go.Figure:
    """Where a network stands between the floor and the ceiling, with intervals.

    Args:
        rungs: columns name, value, low, high (NaN where unknown), role (a key of `ROLES`);
            drawn from the top in this order.
    """
    # Plotly makes no room for the title of the axis where less than 64 pixels were left.
    height = max(36 * len(rungs) + 56, 140)
    figure = blank(height, showlegend=False, margin={"l": 8, "r": 52, "t": 8, "b": 8})
    names = [literal(name) for name in rungs["name"]]
    for name, rung in zip(names, rungs.itertuples(), strict=True):
        colour, symbol = ROLES[rung.role]
        has_interval = np.isfinite(rung.low) and np.isfinite(rung.high)
        main = rung.role in {"before", "after", "only"}
        figure.add_trace(
            go.Scatter(
                x=[rung.value],
                y=[name],
                mode="markers",
                cliponaxis=False,  # a mark at 1 is whole
                marker={
                    "color": colour,
                    "size": 13 if main else 11,
                    "symbol": symbol,
                    "line": {"color": colour, "width": 3 if symbol.startswith("line") else 1.5},
                },
                error_x=_bar(rung, colour) if has_interval else None,
                hovertemplate="%{y}: %{x:.4f}"
                + (f"<br>95 % interval {rung.low:.4f} to {rung.high:.4f}" if has_interval else "")
                + "<extra></extra>",
            )
        )
        figure.add_annotation(
            x=max(rung.value, rung.high) if has_interval else rung.value,
            y=name,
            text=f"{rung.value:.3f}",
            showarrow=False,
            xanchor="left",
            xshift=9,
            font={"color": colour if main else INK, "size": 14 if main else 12},
        )
    low = min(0.0, float(np.nanmin(rungs["value"])))
    figure.update_xaxes(range=[low - 0.01, 1.01], tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_xaxes(title_text="sameness: 0 is chance, 1 is perfect")
    figure.update_yaxes(
        categoryorder="array", categoryarray=names[::-1], range=[-0.6, len(names) - 0.4]
    )
    return figure


def interval_bars(value: Any, low: Any, high: Any, **style: Any) -> dict[str, Any]:
    """Error bars of plotly from 95 % intervals; a value without an interval gets no bar.

    Args:
        value: (N,) numbers.
        low: (N,) lower ends, NaN where there is no interval.
        high: (N,) upper ends.
        style: of plotly's bars: color, width, thickness.
    """

    def reach(longer: Any, shorter: Any) -> list[float | None]:
        length = np.asarray(longer, np.float64) - np.asarray(shorter, np.float64)
        return [max(0.0, float(one)) if np.isfinite(one) else None for one in length]

    ends = {"array": reach(high, value), "arrayminus": reach(value, low)}
    return {"type": "data", "symmetric": False, **ends, "thickness": 1, **style}


def _bar(rung: Any, colour: str) -> dict[str, Any]:
    return interval_bars([rung.value], [rung.low], [rung.high], color=colour, thickness=2, width=5)


def histogram(
    histograms: pd.DataFrame,
    *,
    measure: str = "gap_cosine",
    threshold: float | None = None,
    bars: int = 120,
    span: tuple[float, float] | None = None,
) -> go.Figure:
    """Distances of same-class pairs against those of different-class pairs.

    Both are drawn as shares of their own kind, since different pairs are many more.

    Args:
        histograms: table `histograms` of an analysis.
        measure: which measure's rows to draw.
        threshold: the distance below which a pair is called `same`, as a vertical line.
        bars: about how many bars; fine bins are merged for drawing.
        span: range of the distance axis, to compare two figures.
    """
    rows = histograms[histograms["measure"] == measure]
    low, high = rows["bin_low"].to_numpy(float), rows["bin_high"].to_numpy(float)
    step = max(1, len(rows) // max(bars, 1))
    starts = np.arange(0, len(rows), step)
    ends = np.minimum(starts + step, len(rows)) - 1
    figure = blank(300, barmode="overlay", bargap=0)
    for column, colour, name in (
        ("different", DIFFERENT, "different classes"),
        ("same", SAME, "same class"),
    ):
        counts = rows[column].to_numpy(float)
        total = max(counts.sum(), 1.0)
        shares = np.add.reduceat(counts, starts) / total if len(rows) else counts
        width = high[ends] - low[starts]
        figure.add_trace(
            go.Bar(
                x=((high[ends] + low[starts]) / 2).astype(np.float32),
                y=(100 * shares).astype(np.float32),
                width=width.astype(np.float32),
                marker={"color": colour, "line": {"width": 0}},
                opacity=0.62,
                name=f"{name} ({int(counts.sum()):,} {'pair' if counts.sum() == 1 else 'pairs'})",
                hovertemplate="distance %{x:.4g}<br>%{y:.2f} % of the pairs<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="distance (smaller is more alike)", range=span)
    figure.update_yaxes(title_text="share of pairs (%)", rangemode="tozero")
    if threshold is not None and np.isfinite(threshold):
        figure.add_vline(x=threshold, line={"color": INK, "width": 1.5, "dash": "dot"})
        # On the side that has more room, for a phone.
        first, last = span or (float(low[0]), float(high[-1]))
        anchor = "left" if threshold < (first + last) / 2 else "right"
        figure.add_annotation(
            x=threshold, y=1, yref="paper", yanchor="top", xanchor=anchor, showarrow=False,
            text=f" called same below {threshold:.3g} ", font={"size": 12},
        )  # fmt: skip
    return figure


def best_threshold(roc: pd.DataFrame, measure: str = "gap_cosine") -> float:
    """The distance with the greatest balanced accuracy on these pairs; NaN where there is none."""
    rows = roc[roc["measure"] == measure]
    rows = rows[np.isfinite(rows["threshold"].to_numpy(float))]
    if rows.empty:
        return float("nan")
    gain = (rows["tar"] - rows["far"]).to_numpy(float)
    return float(rows["threshold"].to_numpy(float)[int(np.argmax(gain))])


def roc(curves: Mapping[str, tuple[pd.DataFrame, str]]) -> go.Figure:
    """Same pairs found against different pairs let in, for every threshold.

    Args:
        curves: name in the legend -> (table `roc` of an analysis, measure). The names `before` and
            `after` have the report's colours, `pixels` and others quiet ones.
    """
    figure = blank(340)
    quiet = {"raw pixels": "dot", "untrained": "dash", "classifier": "dashdot"}
    colours = {"before": BEFORE, "after": AFTER, "network": AFTER}
    for name, (table, measure) in curves.items():
        rows = table[table["measure"] == measure].sort_values(["far", "tar"])
        rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, 400).astype(int))]
        main = name in colours
        figure.add_trace(
            go.Scatter(
                x=100 * rows["far"].to_numpy(np.float32),
                y=100 * rows["tar"].to_numpy(np.float32),
                customdata=rows["threshold"].to_numpy(np.float32),
                name=literal(name),
                mode="lines",
                line={
                    "color": colours.get(name, QUIET),
                    "width": 2.5 if main else 1.5,
                    "dash": "solid" if main else quiet.get(name, "dot"),
                },
                hovertemplate="%{fullData.name}<br>finds %{y:.1f} % of the same pairs"
                "<br>lets in %{x:.1f} % of the others<br>distance below %{customdata:.4g}"
                "<extra></extra>",
            )
        )
    figure.update_xaxes(
        title_text="different pairs let in (%)", range=[-1, 101], constrain="domain"
    )
    figure.update_yaxes(title_text="same pairs found (%)", range=[-1, 101.5])
    return figure
