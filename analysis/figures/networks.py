"""Networks against each other: one score against another, with intervals; a map of networks."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from alike.analysis.figures.classes import (
    matrix_figure,
    shortened,
    similarity_order,
)
from alike.analysis.figures.figures import AFTER, BEFORE, INK, blank, interval_bars, literal

LONGEST_NAME = 24
"""Characters of a network's name in a figure: its begin and its end."""
MOST_WRITTEN = 8
"""Networks up to which the cells of a matrix have their number in them."""


def network_figure(
    table: pd.DataFrame,
    of: str,
    name: str,
    highlight: str = "",
    titles: Mapping[str, str] | None = None,
) -> go.Figure:
    """Sameness of every network against another score, both with 95 % intervals.

    Args:
        table: of `alike.analysis.ranking.Ranking`.
        of: the other score, a share.
        name: its name in words.
        highlight: key of the network that stands out.
        titles: key to network and weights in words; a key without one stands for itself.
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
            text=[literal(title) for title in _titled(wide.index, titles)],
            hovertemplate="%{text}<br>%{x:.4f}, %{y:.4f}<extra></extra>",
            marker={"size": 10, "color": [AFTER if k == highlight else BEFORE for k in wide.index]},
        )
    )  # fmt: skip
    figure.update_xaxes(title_text=literal(name))
    figure.update_yaxes(title_text="sameness")
    return figure


def placed_networks(
    places: pd.DataFrame, highlight: str = "", titles: Mapping[str, str] | None = None
) -> go.Figure:
    """A map of networks: near networks see the images alike.

    Args:
        places: network, x, y.
        highlight: key of the network that stands out.
        titles: as those of `network_figure`.
    """
    figure = blank(420, showlegend=False)
    names = _titled(places["network"], titles)
    # From left to right above and below, so that neighbours do not write over each other.
    above = np.argsort(np.argsort(places["x"].to_numpy(float), kind="stable")) % 2 == 0
    figure.add_trace(
        go.Scatter(
            x=places["x"].tolist(), y=places["y"].tolist(), mode="markers+text",
            text=[literal(name) for name in short_names(names)], cliponaxis=False,
            textposition=["top center" if one else "bottom center" for one in above],
            textfont={"color": INK}, customdata=[literal(name) for name in names],
            hovertemplate="%{customdata}<extra></extra>",
            marker={
                "size": 10,
                "color": [AFTER if k == highlight else BEFORE for k in places["network"]],
            },
        )
    )  # fmt: skip
    # Names are centred on the points: those at both ends need room beside them.
    low, high = float(places["x"].min()), float(places["x"].max())
    room = 0.4 * (high - low) or 1.0
    figure.update_xaxes(title_text="", showticklabels=False, range=[low - room, high + room])
    figure.update_yaxes(title_text="", showticklabels=False, scaleanchor="x")
    return figure


def _titled(keys: Iterable[str], titles: Mapping[str, str] | None) -> list[str]:
    return [(titles or {}).get(str(key), str(key)) for key in keys]


def short_names(titles: Sequence[str]) -> list[str]:
    """Titles of networks as ticks: their network or their weights alone if that tells them apart.

    Examples:
        >>> short_names(["a.py:f, 1.pth", "a.py:g, 1.pth"])
        ['a.py:f', 'a.py:g']
        >>> short_names(["a.py:f, 1.pth", "a.py:f, 2.pth"])
        ['1.pth', '2.pth']
        >>> short_names(["a.py:f, 1.pth", "a.py:f, 2.pth", "a.py:g, 2.pth"])
        ['a.py:f, 1.pth', 'a.py:f, 2.pth', 'a.py:g, 2.pth']
    """
    parts = [title.partition(", ") for title in titles]
    for part in (0, 2):
        shorter = [one[part] for one in parts]
        if all(shorter) and len(set(shorter)) == len(set(titles)):
            break
    else:
        shorter = list(titles)
    short = [shortened(name, LONGEST_NAME) for name in shorter]
    return short if len(set(short)) == len(set(titles)) else shorter


def network_matrix(pairs: pd.DataFrame, method: str) -> pd.DataFrame:
    """Networks x networks, in the order of the table; the diagonal is NaN.

    Args:
        pairs: table of `alike.analysis.similarity.NetworkPairs`.
        method: a key of `alike.analysis.similarity.METHODS`.
    """
    rows = pairs[pairs["method"] == method]
    names = pd.Index(list(dict.fromkeys([*rows["a"], *rows["b"]])))
    square = np.full((len(names), len(names)), np.nan)
    a, b = names.get_indexer(rows["a"]), names.get_indexer(rows["b"])
    square[a, b] = square[b, a] = rows["value"].to_numpy(float)
    return pd.DataFrame(square, names, names)


def network_order(pairs: pd.DataFrame) -> list[str]:
    """Networks ordered so that alike ones stand side by side: `similarity_order` by linear CKA.

    Args:
        pairs: table of `alike.analysis.similarity.NetworkPairs`.
    """
    square = 1 - network_matrix(pairs, "linear_cka")
    values = square.to_numpy(copy=True)
    np.fill_diagonal(values, 0.0)
    return similarity_order(pd.DataFrame(values, square.index, square.columns))


def network_matrix_figure(
    square: pd.DataFrame, order: list[str], method: str, titles: Mapping[str, str] | None = None
) -> go.Figure:
    """How alike every two networks are by one method; dark is alike, whatever its direction.

    Args:
        square: as `network_matrix` gives it.
        order: the networks from top to bottom.
        method: a key of `alike.analysis.similarity.METHODS`; `procrustes` is a distance.
        titles: as those of `network_figure`.
    """
    names = _titled(order, titles)
    # By their titles, which the hover has whole.
    square = square.loc[order, order].set_axis(names, axis=0).set_axis(names, axis=1)
    low, high = float(np.nanmin(square)), float(np.nanmax(square))
    # Two networks have one value, which is no range of colours.
    span = (low, high) if low < high else (low - 0.5, high + 0.5)
    height = min(240 + 30 * len(order), 680)
    figure = matrix_figure(square, names, span=span, height=height)
    cells = figure.data[0]
    ticks = [literal(name) for name in short_names(names)]
    if cells.customdata is not None:
        figure.update_xaxes(ticktext=ticks)
        figure.update_yaxes(ticktext=ticks)
    of_two = "%{y} – %{x}" if cells.customdata is None else "%{customdata[0]} – %{customdata[1]}"
    cells.update(hovertemplate=of_two + "<br>%{z:.4f}<extra></extra>", hoverongaps=False)
    if method != "procrustes":
        cells.update(reversescale=True)
    if len(order) <= MOST_WRITTEN:
        cells.update(texttemplate="%{z:.2f}", textfont={"size": 11})
    return figure
