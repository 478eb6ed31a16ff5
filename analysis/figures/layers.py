"""Scores of every layer, from the first to the last."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from alike.analysis.figures.figures import (
    AFTER,
    BEFORE,
    DIFFERENT,
    SAME,
    blank,
    interval_bars,
    literal,
)

COLOURS = {"sameness": AFTER, "knn_probe": SAME, "linear_probe": DIFFERENT, "cka": BEFORE}


def layer_figure(profile: pd.DataFrame, names: Mapping[str, str]) -> go.Figure:
    """Lines over the layers of a network, with 95 % intervals.

    Args:
        profile: of `alike.analysis.layers.layer_profile`.
        names: score to its name in words, in the order of the legend.
    """
    figure = blank(380)
    for score, name in names.items():
        part = profile[profile["score"] == score].sort_values("place")
        bar = interval_bars(part["value"], part["low"], part["high"], width=3)
        figure.add_trace(
            go.Scatter(
                x=[literal(one) for one in part["layer"]], y=part["value"].tolist(),
                error_y=bar, name=literal(name),
                mode="lines+markers", line={"color": COLOURS[score], "width": 2},
                marker={"size": 7}, hovertemplate="%{x}<br>%{y:.4f}<extra>%{fullData.name}</extra>",
            )
        )  # fmt: skip
    layers = profile.sort_values("place")["layer"].drop_duplicates()
    order = [literal(one) for one in layers]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    return figure
