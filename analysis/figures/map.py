"""The map of images as a figure: one point an image, one colour a class."""

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from alike.analysis.figures.figures import blank, literal

# Ten colours that stay apart for most eyes, on light and on dark paper (after Tableau's).
TEN = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2",
    "#b279a2", "#d6a419", "#9d755d", "#5b5bd6", "#d67195",
)  # fmt: skip
MOST_POINTS = 20_000
SVG_POINTS = 3_000
MOST_LEGEND = 20
MOST_TRACES = 1000
"""Classes up to which each is a trace: of 11,316 these took a browser 5 s, one trace takes 1 s."""


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """A colour for every class; above ten, hues along the given order, in two lightnesses.

    Give the classes in the order of their similarity: alike classes then have alike colours.
    """
    if len(classes) <= len(TEN):
        return dict(zip(classes, TEN, strict=False))
    colours = {}
    for i, name in enumerate(classes):
        light = (0.42, 0.56, 0.66)[i % 3]
        red, green, blue = colorsys.hls_to_rgb(i / len(classes), light, 0.55)
        colours[name] = f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
    return colours


def shown_rows(
    rows: np.ndarray, labels: Sequence[str], limit: int = MOST_POINTS, seed: int = 0
) -> np.ndarray:
    """Positions of at most `limit` images, the same share of every class, in their order."""
    if len(rows) <= limit:
        return np.arange(len(rows))
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    names = pd.Series(list(labels)).iloc[shuffled]
    place = names.groupby(names, sort=False).cumcount() / names.map(names.value_counts())
    return np.sort(place.sort_values(kind="stable").index.to_numpy()[:limit])


def map_figure(
    table: pd.DataFrame,
    labels: Sequence[str],
    *,
    kind: str = "tsne",
    order: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    cells: Mapping[int, int] | None = None,
    limit: int = MOST_POINTS,
) -> go.Figure:
    """A 2-D map; similar images are near, but distances across the map mean little.

    Args:
        table: as `alike.analysis.maps.maps.make_map` gives it.
        labels: class of each of its rows.
        kind: `tsne` or `pca`.
        order: the classes in the order of the legend and the colours; None: by name.
        paths: path of each row, for the card under the pointer.
        cells: row -> number of its picture on an atlas.
        limit: draw at most so many points, the same share of every class.
    """
    positions = shown_rows(table["row"].to_numpy(), labels, limit)
    names = np.asarray(labels, dtype=object)[positions]
    part = table.iloc[positions]
    classes = list(order or sorted(set(names)))
    colours = class_colours(classes)
    figure = blank(520, margin={"l": 4, "r": 4, "t": 4, "b": 4})
    point = go.Scatter if len(positions) <= SVG_POINTS else go.Scattergl
    pictures = np.array([(cells or {}).get(int(row), -1) for row in part["row"]])
    x, y = (part[f"{kind}_{axis}"].to_numpy(np.float32) for axis in "xy")
    for trace, here in _traces(names, classes, colours):
        trace["marker"]["size"] = 6 if len(positions) < 4000 else 4
        figure.add_trace(
            point(
                x=x[here],
                y=y[here],
                customdata=np.column_stack([here, pictures[here]]).tolist(),
                mode="markers",
                opacity=1.0,
                hoverinfo="none" if paths is not None else "name",
                **trace,
            )
        )
    shown_paths = None if paths is None else [str(paths[i]) for i in positions]
    figure.update_layout(
        meta={"map": True, "zoom": True, "paths": shown_paths},
        showlegend=len(classes) <= MOST_LEGEND,
        legend={"itemsizing": "constant", "orientation": "h", "y": -0.02, "yanchor": "top"},
        dragmode="pan",
        hovermode="closest",
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x")
    return figure


def _traces(
    names: np.ndarray, classes: Sequence[str], colours: Mapping[str, str]
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """What tells traces apart, and the points of each; `meta` is the class, or those of its points.

    A trace is a class; of very many classes all points are one trace, in the colours of theirs.
    """
    if len(classes) > MOST_TRACES:
        colour = [colours[name] for name in names]
        meta = [str(name) for name in names]
        yield {"name": "", "meta": meta, "marker": {"color": colour}}, np.arange(len(names))
        return
    for name in classes:
        here = np.flatnonzero(names == name)
        if len(here):
            marker = {"color": colours[name]}
            yield {"name": literal(name), "meta": str(name), "marker": marker}, here
