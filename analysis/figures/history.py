"""How scores, images and bad images went over the runs of a store."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from alike.analysis.figures.figures import (
    AFTER,
    BEFORE,
    DIFFERENT,
    GRID,
    SAME,
    blank,
    interval_bars,
    literal,
)

COLOURS = (AFTER, SAME, DIFFERENT, BEFORE)


def over_time(table: pd.DataFrame) -> go.Figure:
    """Lines with 95 % intervals above, images and the share of bad ones below.

    Args:
        table: a row for every run and quantity: time (ISO 8601), name, value, low, high (NaN
            where there is none), series (lines break where it changes). The names `images` and
            `bad share` stand in panels of their own.
    """
    figure = blank(560, hovermode="x unified")
    scores = [one for one in dict.fromkeys(table["name"]) if one not in ("images", "bad share")]
    for number, name in enumerate(scores):
        _line(figure, table[table["name"] == name], name, COLOURS[number % len(COLOURS)], "y")
    _line(figure, table[table["name"] == "images"], "images", BEFORE, "y2")
    _line(figure, table[table["name"] == "bad share"], "bad share", DIFFERENT, "y3")
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True}
    figure.update_layout(
        yaxis={**axis, "domain": [0.5, 1.0], "title": {"text": "score"}},
        yaxis2={**axis, "domain": [0.25, 0.43], "title": {"text": "images"}, "rangemode": "tozero"},
        yaxis3={
            **axis, "domain": [0.0, 0.18], "title": {"text": "bad"}, "tickformat": ".1%",
            "rangemode": "tozero",
        },
        xaxis={"anchor": "y3", "type": "date"},
    )  # fmt: skip
    return figure


def _line(figure: go.Figure, rows: pd.DataFrame, name: str, colour: str, axis: str) -> None:
    """One quantity; a line for each series, its interval as bars."""
    first = True
    for _, part in rows.groupby("series", sort=False):
        bars: dict[str, Any] | None = None
        if np.isfinite(part["low"]).any():
            bars = interval_bars(part["value"], part["low"], part["high"], color=colour, width=0)
        figure.add_trace(
            go.Scatter(
                x=part["time"], y=part["value"], name=literal(name), legendgroup=name,
                showlegend=first, mode="lines+markers", line={"color": colour},
                marker={"size": 6}, error_y=bars, yaxis=axis,
            )
        )  # fmt: skip
        first = False
