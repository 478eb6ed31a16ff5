"""Layer by layer: equal to analyse by each layer's measure, and to CKA by its formula."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.report.layers import layers_section
from alike.analysis.stored import Analysis
from alike.flows.cli import main

LAYERS = ("stem", "layer1", "layer2")
QUICK = AnalysisSettings(measures=["gap_cosine"])


@pytest.fixture
def features(tmp_path, make, write_features):
    """Layers that are noisier than the last map the earlier they are; the last is that map."""
    made = make(sizes=(40, 30, 30))
    draw = np.random.default_rng(0)
    for depth, layer in enumerate(LAYERS):
        noise = draw.standard_normal(made.arrays["gap"].shape).astype(np.float32)
        made.arrays[f"gap@{layer}"] = made.arrays["gap"] + (2 - depth) * noise
    features = write_features(tmp_path / "store", made, share=0.4)
    attrs = {**features.attrs, "layers": [f"gap@{layer}" for layer in LAYERS]}
    return features.store.create_features(attrs, features.key, {})


def unbiased_cka(x, y):
    """By Song (2012), from whole Gram matrices."""

    def hsic(k, m):
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        ones = k.sum() * m.sum() / ((n - 1) * (n - 2))
        return np.trace(k @ m) + ones - 2 * k.sum(axis=0) @ m.sum(axis=0) / (n - 2)

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_a_layer_that_some_images_lack_is_left_out_and_said(features, monkeypatch):
    held = features.table("held_out")["row"].to_numpy()
    committed = type(features).committed

    def lacking(self, names=None, good=False):
        rows = committed(self, names, good=good).copy()
        if names == ["gap@layer1"]:
            rows[held[:2]] = False
        return rows

    monkeypatch.setattr(type(features), "committed", lacking)
    analysis = analyse(features, QUICK)
    assert set(analysis.tables["layers"]["layer"]) == {"stem", "layer2"}
    reason = analysis.settings["left_out"]["layer layer1"]
    assert reason == f"2 of {len(held)} images have no value of it"


@pytest.mark.quick
def test_profile_is_analyse_of_each_layer(features):
    profile = analyse(features, QUICK).tables["layers"]
    # The last layer is the map that is pooled, so `gap` does not come again.
    assert list(profile["layer"].drop_duplicates()) == list(LAYERS)
    table = profile.set_index(["layer", "score"])
    held = features.table("held_out")["row"].to_numpy()
    unit = {}
    for layer in LAYERS:
        x = features.read(f"gap@{layer}", held).astype(np.float64)
        unit[layer] = x / np.linalg.norm(x, axis=1, keepdims=True)
    for layer in LAYERS:
        settings = AnalysisSettings(measures=[f"gap_cosine@{layer}"])
        scores = analyse(features, settings).tables["scores"].set_index(["measure", "score"])
        wanted = scores.loc[(f"gap_cosine@{layer}", "sameness"), ["value", "low", "high"]]
        got = table.loc[(layer, "sameness"), ["value", "low", "high"]]
        assert got.to_numpy(float) == pytest.approx(wanted.to_numpy(float))
        cka = unbiased_cka(unit[layer], unit["layer2"])
        assert table.loc[(layer, "cka"), "value"] == pytest.approx(cka, abs=1e-6)
    for probe in ("knn_probe", "linear_probe"):
        wanted = scores.loc[("network", probe), ["value", "low", "high"]].to_numpy(float)
        assert table.loc[("layer2", probe), ["value", "low", "high"]].to_numpy(float) == (
            pytest.approx(wanted)
        )
        values = [table.loc[(layer, probe), "value"] for layer in LAYERS]
        assert values == sorted(values)
        assert values[0] < values[-1]


def test_another_last_map_and_what_is_shown(features, monkeypatch, capsys):
    store = features.store
    attrs = {**features.attrs, "layers": [f"gap@{layer}" for layer in LAYERS[:2]]}
    store.create_features(attrs, features.key, {})
    argv = ["alike", "analyse", "--store", store.url, "--measures", "gap_cosine", "--json"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    said = json.loads(capsys.readouterr().out)["layers"]
    assert list(dict.fromkeys(row["layer"] for row in said)) == ["stem", "layer1", "gap"]
    analysis = Analysis.load(store, features.key)
    last = {row["score"]: row["value"] for row in said if row["layer"] == "gap"}
    scores = analysis.tables["scores"].set_index(["measure", "score"])["value"]
    assert last["sameness"] == pytest.approx(scores["gap_cosine", "sameness"])
    assert last["knn_probe"] == pytest.approx(scores["network", "knn_probe"])
    assert last["cka"] == pytest.approx(1)
    page = layers_section(SimpleNamespace(named=[("network", analysis)]))
    assert '<section id="layers">' in page
    assert all(f">{layer}<" in page for layer in ("stem", "layer1", "gap"))
    assert "CKA with the last layer" in page
    argv.remove("--json")
    with pytest.raises(SystemExit):
        main()
    assert "layer by layer" in capsys.readouterr().out


def test_features_without_layers_have_no_profile(tmp_path, made, write_features):
    analysis = analyse(write_features(tmp_path / "store", made, share=0.4), QUICK)
    assert "layers" not in analysis.tables
    assert layers_section(SimpleNamespace(named=[("network", analysis)])) == ""
