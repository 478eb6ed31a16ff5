"""Figures show the numbers of the tables, for two classes and for a thousand."""

import html
import importlib
import inspect
import json
import pkgutil

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from alike.analysis import figures as package
from alike.analysis.blocks import evaluation_set
from alike.analysis.figures import classes as figures_classes
from alike.analysis.figures import figures, network_matrix, network_matrix_figure, network_order
from alike.analysis.figures import map as figures_map
from alike.extract.errors import BadInput


def numbers(figure):
    """Plotly's own JSON: what a browser would get."""
    return json.loads(figure.to_json())


def test_histogram_keeps_every_pair(analysed):
    one = analysed(n_classes=5, each=8)
    table = one.tables["histograms"].query("measure == 'gap_cosine'")
    figure = figures.histogram(table, threshold=0.3)
    for trace, column in zip(figure.data, ("different", "same"), strict=True):
        assert np.sum(trace.y) == pytest.approx(100, abs=1e-3)
        assert f"{int(table[column].sum()):,} pairs" in trace.name
    assert figure.layout.shapes[0].x0 == 0.3


def test_threshold_is_the_best_of_the_curve(analysed):
    one = analysed(n_classes=5, each=8)
    roc = one.tables["roc"].query("measure == 'gap_cosine'")
    best = figures.best_threshold(roc)
    gain = (roc["tar"] - roc["far"]).max()
    at = roc[roc["threshold"] == best]
    assert (at["tar"] - at["far"]).max() == pytest.approx(gain)
    assert np.isnan(figures.best_threshold(roc, "unknown"))


def test_roc_has_a_curve_for_each(analysed):
    table = analysed(n_classes=5, each=8).tables["roc"]
    figure = figures.roc({"network": (table, "gap_cosine"), "raw pixels": (table, "pixel_euclid")})
    assert [trace.name for trace in figure.data] == ["network", "raw pixels"]
    assert figure.data[0].y[-1] == pytest.approx(100)


def test_ladder_shows_every_rung_with_its_interval():
    rungs = pd.DataFrame(
        [("raw pixels", 0.1, np.nan, np.nan, "floor"), ("network", 0.8, 0.7, 0.85, "only")],
        columns=["name", "value", "low", "high", "role"],
    )
    figure = figures.ladder(rungs)
    assert figure.data[0].error_x.array is None
    assert figure.data[1].error_x.array[0] == pytest.approx(0.05)
    assert [note.text for note in figure.layout.annotations] == ["0.100", "0.800"]


@pytest.mark.parametrize("n", [2, 10, 61, 500])
def test_matrix_is_ordered_and_bounded(n):
    rng = np.random.default_rng(0)
    group = rng.permutation(np.arange(n) % 2)
    values = np.where(group[:, None] == group[None], 0.2, 0.8) + 0.01 * rng.random((n, n))
    names = [f"c{i}" for i in range(n)]
    square = pd.DataFrame((values + values.T) / 2, names, names)
    order = figures_classes.similarity_order(square)
    assert sorted(order) == sorted(names)
    sides = [group[names.index(name)] for name in order]
    assert np.count_nonzero(np.diff(sides)) <= 1
    figure = figures_classes.matrix_figure(square, order)
    shown = numbers(figure)["data"][0]
    assert len(shown["x"]) == min(n, figures_classes.MOST_CELLS)


def test_blocks_of_classes_hold_their_mean():
    n = 480
    values = np.add.outer(np.arange(n, dtype=float), np.arange(n, dtype=float))
    names = [f"c{i}" for i in range(n)]
    figure = figures_classes.matrix_figure(pd.DataFrame(values, names, names), names)
    cells = np.asarray(figure.data[0].z)
    np.testing.assert_allclose(cells[3, 5], values[6:8, 10:12].mean())


def test_ticks_of_long_names_are_shortened_and_the_hover_has_them_whole():
    names = ["n02085620_of_a_long_name_first", "n02085620_of_a_long_name_other", "sixteen_letters!"]
    figure = figures_classes.matrix_figure(pd.DataFrame(np.eye(3), names, names), names)
    ticks = ["n0208562…e_first", "n0208562…e_other", "sixteen_letters!"]
    assert list(figure.layout.xaxis.ticktext) == list(figure.layout.yaxis.ticktext) == ticks
    assert [tuple(pair) for pair in figure.data[0].customdata[1]] == [(names[1], b) for b in names]


@pytest.mark.quick
@pytest.mark.parametrize("n", [2, 5, 12, 70])
def test_cells_of_networks_are_those_of_the_table(n):
    """Every cell, by the names that a browser shows for it, is the value of the row."""
    draw = np.random.default_rng(n)
    rows = [
        (f"net-{a}", f"net-{b}", method, float(value), note)
        for a in range(n)
        for b in range(a + 1, n)
        for method, value, note in (
            ("linear_cka", 0.9 - 0.4 * ((a + b) % 2) + 0.05 * draw.random(), ""),
            ("procrustes", draw.random(), ""),
        )
    ]
    table = pd.DataFrame(rows, columns=["a", "b", "method", "value", "note"])
    order = network_order(table)
    assert sorted(order) == sorted({*table["a"], *table["b"]})
    sides = [int(name.split("-")[1]) % 2 for name in order]
    assert np.count_nonzero(np.diff(sides)) == 1
    for method, of_method in table.groupby("method"):
        figure = network_matrix_figure(network_matrix(table, method), order, method)
        cells = figure.data[0]
        shown = {(order[i], order[j]): cells.z[i][j] for i in range(n) for j in range(n) if i != j}
        assert len(shown) == 2 * len(of_method)
        for row in of_method.itertuples():
            assert shown[row.a, row.b] == shown[row.b, row.a] == np.float32(row.value)
        assert all(value is None for value in numbers_of_diagonal(figure))
        assert cells.zmin < cells.zmax
        assert bool(cells.reversescale) == (method == "linear_cka")
        if n <= 60:
            assert list(figure.layout.xaxis.ticktext) == list(figure.layout.yaxis.ticktext) == order
            assert [tuple(names) for names in cells.customdata[1]] == [
                (order[1], name) for name in order
            ]
        else:
            assert list(cells.x) == list(cells.y) == order


def numbers_of_diagonal(figure):
    z = figure.data[0].z
    return [None if np.isnan(z[i][i]) else z[i][i] for i in range(len(z))]


@pytest.mark.quick
def test_relative_distances_do_not_depend_on_the_scale():
    square = pd.DataFrame([[1.0, 4.0], [4.0, 3.0]], ["a", "b"], ["a", "b"])
    pd.testing.assert_frame_equal(
        figures_classes.relative(square), figures_classes.relative(square * 7)
    )
    assert figures_classes.relative(square).loc["a", "b"] == 1


def test_class_matrix_fills_the_half_that_is_missing():
    rows = pd.DataFrame(
        [("m", "a", "a", 1.0), ("m", "a", "b", 2.0), ("m", "b", "b", 3.0)],
        columns=["measure", "class_a", "class_b", "mean"],
    )
    square = figures_classes.class_matrix(rows, "m")
    assert square.loc["b", "a"] == 2.0
    near = figures_classes.closest_pairs(rows, "m")
    assert near["ratio"].tolist() == [1.0]


def test_closest_pairs_of_the_nearest_alone_are_those_of_all(nearest_alone):
    """The same rows, from a table of all pairs and from one of the 5 nearest of each class."""
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(40)]
    places = rng.random((40, 3))
    means = np.linalg.norm(places[:, None] - places, axis=2) + np.diag(rng.random(40))
    a, b = np.indices(means.shape)
    pairs = pd.DataFrame({
        "measure": "m", "class_a": np.take(names, a.ravel()), "class_b": np.take(names, b.ravel()),
        "mean": means.ravel(), "std": 0.1,
    })  # fmt: skip
    naive = sorted((means[i, j], i, j) for i in range(40) for j in range(i + 1, 40))[:5]
    few = nearest_alone(pairs, 5)
    one_way = set(zip(few["class_a"], few["class_b"], strict=True))
    assert any((b, a) not in one_way for a, b in one_way)
    for table in (pairs, few, few[::-1]):
        near = figures_classes.closest_pairs(table, "m", 5)
        assert near["between"].tolist() == [mean for mean, _, _ in naive]
        wanted = [{names[i], names[j]} for _, i, j in naive]
        assert [{*pair} for pair in zip(near["class_a"], near["class_b"], strict=True)] == wanted
        within = [(means[i, i] + means[j, j]) / 2 for _, i, j in naive]
        np.testing.assert_allclose(near["within"], within)
        np.testing.assert_allclose(near["ratio"], near["between"] / within)
    assert len(figures_classes.closest_pairs(pairs, "m", 1000)) == 40 * 39 // 2


@pytest.mark.quick
def test_very_many_classes_have_no_matrix(monkeypatch, nearest_alone):
    pairs = pd.DataFrame({
        "measure": "m", "class_a": list("aaabbbccc"), "class_b": list("abc" * 3), "mean": 0.5,
    })  # fmt: skip
    assert figures_classes.class_matrix(pairs, "m").shape == (3, 3)
    monkeypatch.setattr(evaluation_set, "MANY", 2)
    with pytest.raises(BadInput, match=r"3 classes: no matrix beyond 2; .* use `closest_pairs`"):
        figures_classes.class_matrix(nearest_alone(pairs, 1), "m")


@pytest.mark.parametrize("n", [3, 30, 31, 1000])
def test_classes_are_drawn_worst_first(n):
    rng = np.random.default_rng(0)
    before, after = (
        pd.DataFrame({"class": [f"c{i}" for i in range(n)], "sameness": rng.random(n)})
        for _ in range(2)
    )
    figure = figures_classes.per_class_figure(before, after, "sameness")
    ranked = after.sort_values("sameness")["class"].tolist()
    last = figure.data[-1]
    if n <= figures_classes.MOST_ROWS:
        assert list(last.y)[::-1] == ranked
    else:
        assert list(last.text) == ranked


@pytest.mark.quick
def test_a_curve_of_very_many_classes_has_both_ends_and_few_points():
    n = 20_000
    values = np.random.default_rng(0).random(n)
    table = pd.DataFrame({"class": [f"c{i}" for i in range(n)], "sameness": values})
    figure = figures_classes.per_class_figure(None, table, "sameness")
    curve, ranked = figure.data[0], np.sort(values)
    assert len(curve.x) == figures_classes.MOST_ON_CURVE
    assert (curve.x[0], curve.x[-1]) == (1, n)
    np.testing.assert_allclose(curve.y, ranked[curve.x - 1], rtol=1e-6)
    assert list(curve.text) == [f"c{i}" for i in np.argsort(values)[curve.x - 1]]
    assert "1,000 of 20,000 drawn" in figure.layout.xaxis.title.text
    assert len(figure.to_json()) < 60_000


def test_intervals_of_classes_are_drawn():
    values = np.array([0.4, 0.9, 0.1])
    spans = {"sameness_low": values - [0.1, np.nan, 0.3], "sameness_high": values + 0.05}
    table = pd.DataFrame({"class": list("abc"), "sameness": values, **spans})
    dots = figures_classes.per_class_figure(None, table, "sameness").data[-1]
    assert list(dots.y) == ["b", "a", "c"]
    np.testing.assert_allclose(dots.error_x.arrayminus, [np.nan, 0.1, 0.3], atol=1e-6)
    np.testing.assert_allclose(dots.error_x.array, [0.05] * 3, atol=1e-6)


def test_names_of_classes_leave_room_for_their_scores():
    """The hover has the whole name, and names that are shortened alike stay two classes."""
    names = ["x" * 200 + end for end in ("a<b", "b")]
    table = pd.DataFrame({"class": names, "sameness": [0.2, 0.1]})
    figure = figures_classes.per_class_figure(None, table, "sameness")
    assert list(figure.data[-1].y) == ["x" * 200 + "a&lt;b", "x" * 200 + "b"]
    ticks = figure.layout.yaxis.ticktext
    assert all(len(name) < 40 for name in ticks)
    assert ticks[0].endswith("a&lt;b")


@pytest.mark.parametrize("n", [50, 30_000])
def test_map_draws_every_class_in_proportion(n):
    rng = np.random.default_rng(0)
    labels = np.where(np.arange(n) < n // 5, "few", "many")
    table = pd.DataFrame(
        rng.random((n, 4)), columns=["pca_x", "pca_y", "tsne_x", "tsne_y"]
    ).assign(row=np.arange(n))  # fmt: skip
    cells = {0: 7}
    figure = figures_map.map_figure(table, labels, paths=[f"p{i}" for i in range(n)], cells=cells)
    sizes = {trace.name: len(trace.x) for trace in figure.data}
    assert sum(sizes.values()) == min(n, figures_map.MOST_POINTS)
    assert sizes["few"] / sum(sizes.values()) == pytest.approx(0.2, abs=0.01)
    paths = figure.layout.meta["paths"]
    for trace in figure.data:
        for x, (index, _) in list(zip(trace.x, trace.customdata, strict=True))[:20]:
            row = int(paths[int(index)][1:])
            assert x == pytest.approx(table["tsne_x"][row])
    if n == 50:
        assert figure.data[0].customdata[0][1] == 7
        assert isinstance(figure.data[0], go.Scatter)
    else:
        assert isinstance(figure.data[0], go.Scattergl)


def test_a_map_of_very_many_classes_is_one_trace(monkeypatch):
    monkeypatch.setattr(figures_map, "MOST_TRACES", 3)
    labels = ["a", "<b>", "c", "d", "a", "c"]
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        rng.random((6, 4)), columns=["pca_x", "pca_y", "tsne_x", "tsne_y"]
    ).assign(row=np.arange(6))  # fmt: skip
    trace, *others = figures_map.map_figure(table, labels, paths=list("uvwxyz")).data
    assert others == []
    assert list(trace.meta) == labels
    colours = figures_map.class_colours(sorted(set(labels)))
    assert list(trace.marker.color) == [colours[name] for name in labels]
    np.testing.assert_allclose(trace.x, table["tsne_x"], rtol=1e-6)
    assert [index for index, _ in trace.customdata] == list(range(6))


@pytest.mark.parametrize("n", [2, 10, 11, 1000])
def test_every_class_has_a_colour(n):
    colours = figures_map.class_colours([f"c{i}" for i in range(n)])
    assert len(colours) == n
    assert len(set(colours.values())) > 0.6 * n


def test_a_value_without_an_interval_gets_no_bar():
    """A bar of length 0 would say that the value is certain."""
    none = float("nan")
    bars = figures.interval_bars([0.5, 0.7], [0.4, none], [0.8, none])
    assert bars["array"] == [pytest.approx(0.3), None]
    assert bars["arrayminus"] == [pytest.approx(0.1), None]


MARKUP = ["<b>x</b>", "a<br>b", "%{x}", "R&D"]
"""Names that plotly would read as markup, as a variable or as a character."""


NO_TEXT = ("meta", "legendgroup")
"""What plotly never writes."""


def _named(**columns):
    return pd.DataFrame({
        name: [0.5] * len(MARKUP) if values is None else values for name, values in columns.items()
    })  # fmt: skip


def _drawn_with_names():
    """One figure of every function, each with the names of `MARKUP`."""
    square = pd.DataFrame(1 - np.eye(4), MARKUP, MARKUP)
    ends = {"value": None, "low": None, "high": None}
    curve = _named(far=None, tar=None, threshold=None, measure=["m"] * 4)
    classes = pd.DataFrame({"class": MARKUP, "sameness": [0.1, 0.2, 0.3, 0.4]})
    many = pd.DataFrame({"class": [*MARKUP, *map(str, range(40))], "sameness": np.arange(44) / 44})
    points = _named(row=range(4), tsne_x=None, tsne_y=None)
    runs = _named(time=["2026-01-01"] * 4, name=MARKUP, **ends, series=["s"] * 4)
    layers = _named(layer=MARKUP, place=range(4), score=["sameness"] * 4, **ends)
    images = _named(images=range(1, 5), kind=["measured"] * 4, score=["one_nn"] * 4, **ends)
    both = [_named(network=MARKUP, score=[one] * 4, **ends) for one in ("sameness", "accuracy")]
    pairs = pd.DataFrame({"method": "cka", "a": MARKUP[:3], "b": MARKUP[1:], "value": 0.5})
    cka = network_matrix(pairs, "cka")
    rungs = _named(name=MARKUP, **ends, role=["only"] * 4)
    counts = _named(measure=["m"] * 4, bin_low=range(4), bin_high=range(1, 5), same=1, different=1)
    wide = [*MARKUP, *map(str, range(60))]
    return {
        "ladder": [figures.ladder(rungs)],
        "roc": [figures.roc(dict.fromkeys(MARKUP, (curve, "m")))],
        "histogram": [figures.histogram(counts, measure="m")],
        "matrix_figure": [
            figures_classes.matrix_figure(square, MARKUP),
            figures_classes.matrix_figure(square.reindex(index=wide, columns=wide), wide),
        ],
        "per_class_figure": [
            figures_classes.per_class_figure(None, classes, "sameness"),
            figures_classes.per_class_figure(classes, classes, "sameness"),
            figures_classes.per_class_figure(None, many, "sameness"),
        ],
        "map_figure": [figures_map.map_figure(points, MARKUP, order=MARKUP)],
        "over_time": [package.over_time(runs)],
        "layer_figure": [package.layer_figure(layers, {"sameness": "<b>x</b>"})],
        "network_figure": [package.network_figure(pd.concat(both), "accuracy", "<b>x</b>")],
        "placed_networks": [package.placed_networks(_named(network=MARKUP, x=None, y=None))],
        "network_matrix_figure": [network_matrix_figure(cka, MARKUP, "cka")],
        "sufficiency_figure": [package.sufficiency_figure(images, {"one_nn": "<b>x</b>"})],
    }


def _texts(part):
    """Every string of a figure that plotly may write."""
    if isinstance(part, dict):
        return [text for name, one in part.items() if name not in NO_TEXT for text in _texts(one)]
    if isinstance(part, list):
        return [text for one in part for text in _texts(one)]
    return [part] if isinstance(part, str) else []


def test_names_stand_in_figures_as_they_are():
    drawn = _drawn_with_names()
    modules = [
        importlib.import_module(f"{package.__name__}.{one.name}")
        for one in pkgutil.iter_modules(package.__path__)
    ]
    public = {
        name
        for module in modules
        for name, one in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and inspect.signature(one).return_annotation is go.Figure
    }
    assert set(drawn) == public - {"blank"}
    for name, several in drawn.items():
        for figure in several:
            parts = numbers(figure)
            texts = _texts([parts["data"], parts["layout"]])
            raw = [text for text in texts for one in ("<b>", "a<br>b") if one in text]
            assert raw == [], name
            templates = [one.get("hovertemplate") or "" for one in parts["data"]]
            assert not [one for one in templates if "R&amp;D" in one or "&lt;b" in one], name
            # Histograms have no names of others.
            if name != "histogram":
                assert "<b>x</b>" in [html.unescape(text) for text in texts], name
