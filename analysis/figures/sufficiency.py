"""What more images would change: scores against the number of images."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from alike.analysis.figures.figures import AFTER, SAME, blank, interval_bars, literal

COLOURS = {"one_nn": SAME, "sameness": AFTER}


def sufficiency_figure(curve: pd.DataFrame, names: Mapping[str, str]) -> go.Figure:
    """Measured values as points on a line, predicted ones as open points on a dashed line.

    Args:
        curve: of `alike.analysis.sufficiency.sufficiency`.
        names: score to its name in words, in the order of the legend.
    """
    figure = blank(360)
    for score, name in names.items():
        part = curve[curve["score"] == score].sort_values("images")
        seen = part[part["kind"] == "measured"]
        for rows, dash, symbol in (
            (seen, "solid", "circle"),
            (part[part["images"] >= seen["images"].max()], "dot", "circle-open"),
        ):
            bar = interval_bars(rows["value"], rows["low"], rows["high"], width=3)
            figure.add_trace(
                go.Scatter(
                    x=rows["images"].tolist(), y=rows["value"].tolist(), error_y=bar,
                    name=literal(name),
                    legendgroup=score, showlegend=dash == "solid", mode="lines+markers",
                    line={"color": COLOURS[score], "width": 2, "dash": dash},
                    marker={"size": 7, "symbol": symbol},
                    hovertemplate="%{x:,} images<br>%{y:.4f}<extra>%{fullData.name}</extra>",
                )
            )  # fmt: skip
    figure.update_xaxes(title_text="images", type="log")
    return figure
