"""`[analyse] human`: people are part of a run, checked first, and read anew if the file changes."""

import json

import numpy as np
import pytest
from changing_set import Place, without_prefect

from alike.analysis.people import human_seconds
from alike.analysis.ranking import Ranking
from alike.analysis.stored import Analysis
from alike.extract.errors import BadInput
from alike.extract.progress import silent
from alike.flows.check import check
from alike.flows.overrides import Overrides
from alike.flows.planning import plan
from alike.flows.run import run_settings_file
from alike.flows.sampling import measure
from alike.flows.settings import read_pipeline
from alike.flows.steps import PipelineRun
from alike.flows.unchanged import unchanged_run

SETTINGS = """
[images]
source = "set"
[[network]]
name = "net.py:small"
weights = "net.pth"
[[network]]
name = "net.py:small"
seed = 3
[analyse]
measures = ["gap_cosine"]
bootstrap = 0
untrained = false
human = "votes.npz"
[explain]
examples = 0
confused = 0
[output]
folder = "out"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    without_prefect(monkeypatch)
    made = Place(tmp_path)
    (made.folder / "run.toml").write_text(SETTINGS)
    return made


def write_votes(place, seed):
    names = sorted(
        file.relative_to(place.folder / "set").as_posix()
        for file in (place.folder / "set").rglob("*.png")
    )
    counts = np.random.default_rng(seed).integers(1, 9, (len(names), 3))
    np.savez(place.folder / "votes.npz", counts=counts, path=np.array(names))


@pytest.mark.quick
def test_the_file_is_checked_before_a_run(place):
    file = place.folder / "run.toml"
    pipeline = read_pipeline(file)
    assert pipeline.analyse.human == str(place.folder.resolve() / "votes.npz")
    assert pipeline.shown["analyse"]["human"] == "votes.npz"
    with pytest.raises(BadInput, match="no such file"):
        check(pipeline)
    np.savez(place.folder / "votes.npz", other=np.ones(3))
    with pytest.raises(BadInput, match="holds other"):
        check(pipeline)
    # A file without the setting is recorded as before there was one.
    file.write_text(SETTINGS.replace('human = "votes.npz"', ""))
    assert not {"human", "budget", "bins", "precision"} & set(
        read_pipeline(file).written["analyse"]
    )
    assert "human" in json.dumps(Overrides.model_json_schema()["$defs"])


def test_a_run_asks_people_and_sees_that_they_changed_their_minds(place):
    file = place.folder / "run.toml"
    write_votes(place, 0)
    pipeline = read_pipeline(file)
    sample = measure(pipeline)
    without = pipeline.model_copy(
        update={"analyse": pipeline.analyse.model_copy(update={"human": None})}
    )
    more, less = (plan(one, sample).seconds for one in (pipeline, without))
    assert more["analyse"] - less["analyse"] == pytest.approx(2 * human_seconds(24, 1))
    assert more["compare"] > less["compare"]
    done = run_settings_file(file, silent)
    store = PipelineRun(pipeline).store()
    keys = list(done.networks.values())
    before = {key: Analysis.load(store, key) for key in keys}
    for analysis in before.values():
        assert analysis.settings["human"]["kind"] == "votes"
        assert np.isfinite(analysis.tables["human"]["value"]).any()
    ranked = Ranking.load(store).table
    people = ranked[ranked["score"] == "human_all_pairs"]
    assert sorted(people["network"]) == sorted(keys)
    report = done.report.read_text(encoding="utf-8")
    assert "Alike to people" in report
    assert run_settings_file(file, silent).reused
    write_votes(place, 1)
    lines = []
    assert unchanged_run(pipeline, lines.append) is None
    done = run_settings_file(file, silent)
    assert not done.reused
    assert any("analyse" in step for step in done.seconds)
    assert not any("extract" in step for step in done.seconds)
    for key in keys:
        after = Analysis.load(store, key)
        assert after.settings["human"]["digest"] != before[key].settings["human"]["digest"]
        assert not after.tables["human"]["value"].equals(before[key].tables["human"]["value"])
    newly = Ranking.load(store).table
    assert not newly["value"].equals(ranked["value"])
    # How the pairs are counted is a setting too, by which a plan counts images.
    counted = {"budget": 1e9, "bins": 256, "precision": "bfloat16"}
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in counted.items())
    file.write_text(SETTINGS.replace("bootstrap = 0", f"bootstrap = 0\n{lines}"))
    told = []
    run_settings_file(file, silent, told.append)
    reason = "the setting budget changed, the setting bins changed, the setting precision changed"
    assert any(reason in line for line in told), told
    for key in keys:
        settings = Analysis.load(store, key).settings
        assert {name: settings[name] for name in counted} == counted
    many = sample.images * 100_000
    few = plan(read_pipeline(file), sample, images=many).seconds["analyse"]
    assert few < plan(pipeline, sample, images=many).seconds["analyse"] / 100


@pytest.mark.quick
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bins = 3", "3 bins: expected a power of two"),
        ("budget = 0", "greater than or equal to 1"),
        ("budget = inf", "finite"),
        ('precision = "float16"', "'float32' or 'bfloat16'"),
    ],
)
def test_a_wrong_way_to_count_pairs_is_refused(place, line, said):
    file = place.folder / "run.toml"
    file.write_text(SETTINGS.replace("bootstrap = 0", f"bootstrap = 0\n{line}"))
    with pytest.raises(BadInput, match=said):
        read_pipeline(file)
