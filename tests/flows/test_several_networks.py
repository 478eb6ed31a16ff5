"""`[[network]]`: each network gets what a run of it alone gives, and all are compared."""

import json
import time

import pandas as pd
import pytest
import torch
from changing_set import Place, by_id, without_prefect
from typer.testing import CliRunner

from alike.analysis.ranking import PLACE as RANKING
from alike.analysis.ranking import Ranking, rank_networks
from alike.analysis.similarity import PLACE as PAIRS
from alike.analysis.stored import Analysis
from alike.extract.errors import BadInput
from alike.extract.image_pass import ImagePass
from alike.extract.progress import silent
from alike.flows.check import check
from alike.flows.cli import app
from alike.flows.decisions import origin_of
from alike.flows.history import History
from alike.flows.names import run_tags
from alike.flows.overrides import Overrides, given_settings
from alike.flows.planning import plan
from alike.flows.recording import images_of, scores_of
from alike.flows.run import run_settings_file
from alike.flows.sampling import measure
from alike.flows.settings import read_pipeline
from alike.flows.steps import PipelineRun
from alike.flows.unchanged import unchanged_run

TRAINED = 'name = "net.py:small"\nweights = "net.pth"\n'
RANDOM = 'name = "net.py:small"\nseed = 3\n'
SMALLER = 'name = "net.py:small"\nweights = "net.pth"\ntransform = { resize = [6, 6] }\n'
SETTINGS = """
[images]
source = "set"
train_share = 0.4
{networks}
[index]
measure = "gap_cosine"
[analyse]
measures = ["gap_cosine"]
bootstrap = 0
[explain]
examples = 1
confused = 0
[output]
folder = "{folder}"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """24 images of three classes; steps are called without Prefect."""
    without_prefect(monkeypatch)
    return Place(tmp_path)


def write(place, *networks, folder="out", more=""):
    head = "[[network]]\n" if len(networks) > 1 else "[network]\n"
    text = SETTINGS.format(networks="".join(head + one for one in networks), folder=folder)
    file = place.folder / f"{folder}.toml"
    file.write_text(text + more)
    return file


def run(place, *networks, folder="out", more=""):
    """Run the settings; what came of it and the store."""
    file = write(place, *networks, folder=folder, more=more)
    return run_settings_file(file, silent), PipelineRun(read_pipeline(file)).store()


def tables_of(store, key):
    view = store.images()
    ids = dict(zip(view["row"], view["image_id"], strict=True))
    tables = Analysis.load(store, key).tables
    return {name: by_id(name, table, ids) for name, table in tables.items()}


def same_tables(store, key, other, other_key):
    one, two = tables_of(store, key), tables_of(other, other_key)
    assert one.keys() == two.keys()
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, two[name], rtol=0, atol=0, obj=name)


def compared(store):
    return [store.read_table(name)[0] for name in (RANKING, PAIRS)]


def same_comparison(store, other):
    for one, two in zip(compared(store), compared(other), strict=True):
        pd.testing.assert_frame_equal(one, two, rtol=0, atol=0)


def test_each_network_has_the_tables_of_a_run_alone(place, monkeypatch):
    passes = []
    missing = ImagePass.missing

    def seen(images):
        passes.append(missing(images))
        return passes[-1]

    monkeypatch.setattr(ImagePass, "missing", seen)
    done, store = run(place, TRAINED, RANDOM, SMALLER)
    # One pass for the networks, and one for those with random weights; frames of one size together.
    assert [sorted(len(wanted) for wanted in one) for one in passes] == [[1, 2], [1, 1]]
    keys = list(Ranking.load(store).record["digests"])
    assert len(keys) == 3
    assert done.key == keys[0]
    names = ("net.py:small net.pth (1)", "net.py:small none", "net.py:small net.pth (3)")
    assert done.networks == dict(zip(names, keys, strict=True))
    for number, network in enumerate((TRAINED, RANDOM, SMALLER)):
        alone, other = run(place, network, folder=f"alone{number}")
        assert alone.key == keys[number]
        assert store.features(alone.key).digest == other.features(alone.key).digest
        same_tables(store, alone.key, other, alone.key)
    # Only the first is indexed and explained.
    assert {file.split("/")[0] for file in store.files.walk("index")} == {keys[0]}
    assert {file.split("/")[0] for file in store.files.walk("explanations")} == {keys[0]}
    ranked = rank_networks([store.features(key) for key in keys], measure="gap_cosine")
    pd.testing.assert_frame_equal(ranked.table, compared(store)[0])
    report = done.report.read_text(encoding="utf-8")
    section = report.partition('<section id="networks"')[2].partition("</section>")[0]
    assert all(key in section for key in keys)


def test_networks_that_come_and_go_leave_what_a_fresh_run_gives(place):
    run(place, TRAINED, folder="grown")
    done, grown = run(place, TRAINED, RANDOM, folder="grown")
    fresh_done, fresh = run(place, TRAINED, RANDOM, folder="fresh")
    # The first network is not touched, but the untrained one of the second is new.
    assert not [name for name in done.seconds if name.endswith(" network")]
    assert "extract net.py:small none" in done.seconds
    assert done.key == fresh_done.key
    for key in Ranking.load(fresh).record["digests"]:
        same_tables(grown, key, fresh, key)
    same_comparison(grown, fresh)
    assert run(place, TRAINED, RANDOM, folder="grown")[0].reused
    # A report of one network shows no comparison again.
    alone, store = run(place, TRAINED, folder="grown")
    assert not {RANKING, PAIRS} & {f"tables/{name}" for name in store.files.walk("tables")}
    assert '<section id="networks"' not in alone.report.read_text(encoding="utf-8")
    # A label that changes changes all of them.
    place.change("relabel", 5)
    run(place, TRAINED, RANDOM, folder="grown")
    run(place, TRAINED, RANDOM, folder="fresh")
    same_comparison(grown, fresh)


def test_new_weights_of_the_second_network_are_a_change(place):
    weights = torch.load(place.folder / "net.pth")
    torch.save(weights, place.folder / "other.pth")
    second = 'name = "net.py:small"\nweights = "other.pth"\nseed = 4\n'
    file = write(place, RANDOM, second)
    # What is younger than two seconds counts as changed.
    time.sleep(2.1)
    first = run_settings_file(file, silent)
    lines = []
    same = unchanged_run(read_pipeline(file), lines.append)
    assert same is not None, lines
    assert same.networks == first.networks != {}
    name, value = next(iter(weights.items()))
    other = torch.rand(value.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.save({**weights, name: other, "fc.bias": torch.ones(3)}, place.folder / "other.pth")
    assert unchanged_run(read_pipeline(file), lines.append) is None
    assert "other.pth changed" in lines[-1]
    again = run_settings_file(file, silent)
    assert again.key == first.key
    assert sorted(again.seconds) == sorted(
        ["extract net.py:small other.pth", "analyse net.py:small other.pth", "compare networks"]
    )
    history_of_both(file, again)


def history_of_both(file, done):
    """Records, commands and report hold each network as a series of its own."""
    label, store = "net.py:small other.pth", PipelineRun(read_pipeline(file)).store()
    before, now = History(store).records()
    key = now.others[label].network["features"]
    assert key == done.networks[label]
    assert now.of(label).scores == scores_of(Analysis.load(store, key))
    assert before.of(label).scores != now.of(label).scores
    assert before.scores == now.scores == scores_of(Analysis.load(store, done.key))
    pd.testing.assert_frame_equal(
        History(store).images(now.of(label)),
        images_of(store.features(key)),
        check_dtype=False,
    )

    def said(*words):
        answer = CliRunner().invoke(app, ["runs", *words])
        assert answer.exit_code == 0, answer.output
        return answer.stdout

    assert label in said("show", str(file))
    shown = json.loads(said("show", str(file), "--json"))
    assert shown["others"][label]["scores"].keys() == now.others[label].scores.keys()
    changes = json.loads(said("diff", str(file), before.id, now.id, "--json"))["scores"]
    assert {one["network"] for one in changes if one["difference"]} == {label}
    figure = file.parent / "runs.html"
    told = json.loads(said("plot", str(file), "--to", str(figure), "--json"))
    assert told["further_networks"] == [label]
    page = figure.read_text(encoding="utf-8")
    assert page.count("Plotly.newPlot(") >= 2
    assert f"<h2>{label}</h2>" in page
    report = done.report.read_text(encoding="utf-8")
    for name in ("since", "over_time"):
        section = report.partition(f'<section id="{name}"')[2].partition("</section>")[0]
        assert f"<h3>{label}</h3>" in section


def test_a_measure_that_a_network_lacks_is_left_out_of_it_alone(place):
    first = TRAINED + 'taps = ["last_conv", "fc", "logits", "gap@maps.0"]\n'
    settings = write(place, first, RANDOM)
    text = settings.read_text()
    more = '["gap_euclid", "gap_cosine@maps.0"]'
    settings.write_text(text.replace('["gap_cosine"]', more))
    done = run_settings_file(settings, silent)
    store = PipelineRun(read_pipeline(settings)).store()
    one, two = Ranking.load(store).record["digests"]
    assert "gap@maps.0" in store.features(one).arrays
    assert "gap@maps.0" not in store.features(two).arrays
    measures = [set(Analysis.load(store, key).tables["scores"]["measure"]) for key in (one, two)]
    assert "gap_cosine@maps.0" in measures[0] - measures[1]
    assert "gap_euclid" in measures[1]
    assert "net.py:small none is not analysed by gap_cosine@maps.0" in " ".join(done.decisions)


@pytest.mark.quick
def test_what_a_file_may_hold(place):
    def refused(text, says):
        file = place.folder / "p.toml"
        file.write_text(f'[images]\nsource = "set"\n{text}')
        with pytest.raises(BadInput, match=says):
            check(read_pipeline(file))

    refused(f"[[network]]\n{TRAINED}[[network]]\n{TRAINED}", "network 2 is network 1 once more")
    refused(f"[[network]]\n{TRAINED}[[network]]\nnam = 3\n", r"network 2\.name: must be given; ")
    refused(f"[network]\n{TRAINED}[[network]]\n{RANDOM}", r"write \[\[network\]\] before each")
    refused(f"[[others]]\n{TRAINED}[network]\n{RANDOM}", "others: no such setting")
    lost = 'name = "net.py:small"\nweights = "gone.pth"\n'
    refused(f"[[network]]\n{TRAINED}[[network]]\n{lost}", r"network 2\.weights = '.*gone\.pth'")
    taps = f'[[network]]\n{TRAINED}[[network]]\n{RANDOM}taps = ["nowhere"]\n'
    refused(taps, "nowhere")
    named = f'[[network]]\n{TRAINED}[[network]]\n{TRAINED}classes = ["x", "y", "z"]\n'
    refused(named, "network 2 gives the features of network 1, net-small-")
    (place.folder / "p.toml").write_text('network = []\n[images]\nsource = "set"\n')
    with pytest.raises(BadInput, match=r"one \[network\] or more \[\[network\]\] must be given"):
        read_pipeline(place.folder / "p.toml")


@pytest.mark.quick
def test_a_network_beside_changes_no_decision_about_the_first(place):
    one = read_pipeline(write(place, TRAINED, folder="one"))
    two = read_pipeline(write(place, TRAINED, RANDOM, folder="two"))
    assert origin_of(one) == origin_of(two)
    assert "others" not in one.written
    assert one.network == two.network
    assert two.shown["network 2"]["seed"] == 3
    assert run_tags(two)[1] == "network net.py:small"
    more = read_pipeline(write(place, TRAINED + 'taps = ["fc"]\n', folder="taps"))
    assert origin_of(more) == origin_of(one)


@pytest.mark.quick
def test_a_run_from_the_server_may_name_several(place):
    file = write(place, TRAINED, RANDOM)
    seed = given_settings(Overrides.model_validate({"network": {"seed": 9}}))
    first, second = read_pipeline(file, seed).networks
    assert (first.seed, second.seed) == (9, 3)
    both = [{"name": "resnet18"}, {"name": "resnet50", "taps": ["fc"]}]
    given = given_settings(Overrides.model_validate({"network": both}))
    networks = read_pipeline(file, given).networks
    assert [(one.name, one.taps) for one in networks] == [("resnet18", None), ("resnet50", ("fc",))]
    kinds = [
        one.get("type", "one")
        for one in Overrides.model_json_schema()["properties"]["network"]["anyOf"]
    ]
    assert kinds == ["one", "array", "null"]


def test_a_plan_counts_all_networks(place):
    file = write(place, TRAINED, RANDOM, SMALLER)
    for number in range(80):
        place.add("abc"[number % 3])
    pipeline = read_pipeline(file)
    made = plan(pipeline, measure(pipeline, seconds=1.0))
    # Three networks, and of the two seeds and sizes that are trained the random ones.
    assert made.networks == 5
    run_settings_file(file, silent)
    store = PipelineRun(pipeline).store()
    assert len(store.groups()) == 5
    folder = place.folder / "out" / "store"
    actual = sum(
        file.stat().st_size for file in folder.glob("features.zarr/**/*") if file.is_file()
    )
    assert made.store["features"] == pytest.approx(actual, rel=0.25)
    assert "compare" in made.seconds
