"""What is served, and when all starts anew; no network is trained here (test_demo does that)."""

from types import SimpleNamespace

import pandas as pd

from alike.flows import retraining, steps
from alike.flows.retraining import Rounds, Served, origin
from alike.flows.settings import read_pipeline
from alike.flows.steps import Run

TEXT = """
[images]
source = "photos"
[network]
name = "resnet18"
[retrain]
when = "sameness < {threshold}"
"""


def run_of(folder, threshold=0.8):
    file = folder / "pipeline.toml"
    file.write_text(TEXT.format(threshold=threshold), encoding="utf-8")
    return Run(read_pipeline(file))


def test_an_accepted_network_is_served_until_the_settings_change(tmp_path):
    run = run_of(tmp_path)
    assert Served.read(run, "parent") == Served("none")
    weights = tmp_path / "new.safetensors"
    weights.touch()
    Served(str(weights), "key", "parent").write(run)
    assert Served.read(run_of(tmp_path), "parent") == Served(str(weights), "key", "parent")
    assert Served.read(run_of(tmp_path, threshold=0.9), "parent") == Served("none")
    assert Served.read(run_of(tmp_path), "replaced under its name") == Served("none")


def test_what_is_served_moves_with_its_folder(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    run = run_of(first)
    weights = run.folder / "weights" / "new.safetensors"
    weights.parent.mkdir()
    weights.touch()
    Served(str(weights), "key", "parent").write(run)
    moved = run_of(first.rename(tmp_path / "moved"))
    there = tmp_path / "moved" / "alike-out" / "weights" / "new.safetensors"
    assert Served.read(moved, "parent") == Served(str(there), "key", "parent")


def test_lost_weights_are_not_served(tmp_path):
    run = run_of(tmp_path)
    Served(str(tmp_path / "gone.safetensors"), "key", "parent").write(run)
    assert Served.read(run, "parent") == Served("none")


def test_origin_ignores_what_does_not_change_the_network(tmp_path):
    first = read_pipeline(run_of(tmp_path).folder.parent / "pipeline.toml")
    other = first.model_copy(update={"title": "another"})
    assert origin(first) == origin(other)


def test_what_is_compared_is_the_measure_of_the_headline(tmp_path, monkeypatch):
    """Settings whose analysis has no `gap_cosine`: the default of `compare` would be another."""
    scores = pd.DataFrame([
        {"measure": measure, "score": "sameness", "value": 0.5}
        for measure in ("pixel_euclid", "gap_pearson", "gap_cosine_centred")
    ])  # fmt: skip
    analysis = SimpleNamespace(key="k", tables={"scores": scores})
    made = {"retrain_network": "w", "extract_images": "k", "judge": analysis, "explain": None}
    for name, answer in made.items():
        monkeypatch.setattr(steps, name, lambda *_, answer=answer: answer)
    # No server of Prefect for what takes no time.
    monkeypatch.setattr(retraining, "step", lambda function, _: function)
    asked = []
    monkeypatch.setattr(steps, "set_side_by_side", lambda run, a, b, measure: asked.append(measure))
    text = TEXT.replace("[retrain]", '[index]\nmeasure = "gap_pearson"\n[retrain]\ncontrol = true')
    (tmp_path / "pipeline.toml").write_text(text.format(threshold=0.8), encoding="utf-8")
    run = Run(read_pipeline(tmp_path / "pipeline.toml"))
    Rounds(run, "k", "w", analysis, None).go()
    assert asked == ["gap_pearson", "gap_pearson"]
