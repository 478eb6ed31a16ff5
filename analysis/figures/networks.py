"""Networks against each other: one score against another, with intervals; a map of networks."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from alike.analysis.figures.figures import AFTER, BEFORE, INK, blank, interval_bars


def network_figure(table: pd.DataFrame, of: str, name: str, highlight: str = "") -> go.Figure:
    """Sameness of every network against another score, both with 95 % intervals.

    Args:
        table: of `alike.analysis.ranking.Ranking`.
        of: the other score, a share.
        name: its name in words.
        highlight: key of the network that stands out.
    """
    figure = blank(420, showlegend=False)
    wide = table.pivot_table(
        index="network", columns="score", values=["value", "low", "high"], sort=False
    )
    sides = []
    for score in (of, "sameness"):
        value = wide["value"][score].to_numpy(float)
        low, high = (
            wide[end][score].to_numpy(float) if score in wide[end] else np.full_like(value, np.nan)
            for end in ("low", "high")
        )
        sides.append((value, interval_bars(value, low, high, width=3, color=BEFORE)))
    (x, bar_x), (y, bar_y) = sides
    figure.add_trace(
        go.Scatter(
            x=x.tolist(), y=y.tolist(), error_x=bar_x, error_y=bar_y, mode="markers",
            text=list(wide.index), hovertemplate="%{text}<br>%{x:.4f}, %{y:.4f}<extra></extra>",
            marker={"size": 10, "color": [AFTER if k == highlight else BEFORE for k in wide.index]},
        )
    )  # fmt: skip
    figure.update_xaxes(title_text=name)
    figure.update_yaxes(title_text="sameness")
    return figure


def placed_networks(places: pd.DataFrame, highlight: str = "") -> go.Figure:
    """A map of networks: near networks see the images alike.

    Args:
        places: network, x, y.
        highlight: key of the network that stands out.
    """
    figure = blank(420, showlegend=False)
    figure.add_trace(
        go.Scatter(
            x=places["x"].tolist(), y=places["y"].tolist(), mode="markers+text",
            text=places["network"].tolist(), textposition="top center", textfont={"color": INK},
            hovertemplate="%{text}<extra></extra>",
            marker={
                "size": 10,
                "color": [AFTER if k == highlight else BEFORE for k in places["network"]],
            },
        )
    )  # fmt: skip
    figure.update_xaxes(title_text="", showticklabels=False)
    figure.update_yaxes(title_text="", showticklabels=False, scaleanchor="x")
    return figure
