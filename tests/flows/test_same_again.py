"""What was changed and changed back gives the answers of a fresh run; no server, no training."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from alike.analysis.stored import Analysis
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.progress import silent
from alike.extract.store.store import Store
from alike.extract.store.verification import verify
from alike.flows import retraining, steps
from alike.flows import run as whole_run
from alike.flows.decisions import Accepted, DecisionLog
from alike.flows.history import History
from alike.flows.run import run_settings_file
from alike.flows.settings import read_pipeline
from alike.flows.steps import PipelineRun
from alike.train.trigger import Past

NETWORK = """
from torch import nn

TRANSFORM = {"resize": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}


def small(classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )
"""

SETTINGS = """
[images]
{images}
[network]
name = "net.py:small"
[index]
measure = "gap_cosine"
[analyse]
measures = ["gap_cosine", "gap_euclid"]
bootstrap = {bootstrap}
[explain]
examples = {examples}
confused = {confused}
[output]
folder = "{folder}"
"""

RIGHT = {"images": 'source = "digits"', "bootstrap": 10, "examples": 2, "confused": 1}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """36 digits of three classes and a network; steps are called without Prefect."""
    digits = load_digits(n_class=3)
    for number in range(36):
        file = tmp_path / "digits" / str(digits.target[number]) / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * (255 / 16)).astype("uint8")).save(file)
    (tmp_path / "net.py").write_text(NETWORK)
    for module in (whole_run, retraining):
        monkeypatch.setattr(module, "step", lambda function, _: function)
    return tmp_path


def run(place, folder="out", **settings):
    """Run the steps; returns what came of it, the tables, and the report's sections."""
    file = place / f"{folder}.toml"
    file.write_text(SETTINGS.format(folder=folder, **{**RIGHT, **settings}))
    this = PipelineRun(read_pipeline(file))
    finished = whole_run.run_steps(this)
    text = finished.report.read_text(encoding="utf-8")
    sections = dict(re.findall(r'<section id="(\w+)">(.*?)</section>', text, flags=re.DOTALL))
    # How it was made tells time and place, which differ; the past is no part of the answer.
    del sections["making"]
    sections.pop("since", None)
    sections.pop("over_time", None)
    # A command that is advised names the store.
    sections = {name: each.replace(f"{place / folder}", "OUT") for name, each in sections.items()}
    return finished, Analysis.load(this.store(), finished.key).tables, sections


def test_a_run_grades_its_explanations(place):
    """Once, until the settings or the features change; without the setting no report shows them."""
    finished, _, shown = run(place, confused="1\ngrade_images = 3")
    store = Store.open(place / "out" / "store")
    file = place / "out" / "store" / "tables" / finished.key / "grade.parquet"
    for heading in ("Does the network follow its explanations?", "Does the similarity follow"):
        assert heading in shown["explanations"]
    assert "Grade of the maps, deletion less that of energy: cam" in shown["explanations"]
    grades, _ = store.read_table(f"tables/{finished.key}/grade.parquet")
    assert set(grades["n_images"]) == {3}
    assert {"cam", "lrp", "deep_taylor", "energy", "random"} <= set(grades["explainer"])
    pairs, _ = store.read_table(f"tables/{finished.key}/pair_grade.parquet")
    assert {"likeness", "likeness_lrp_epsilon"} <= set(pairs["explainer"])
    written = file.stat().st_mtime_ns
    assert run(place, confused="1\ngrade_images = 3")[2] == shown
    assert file.stat().st_mtime_ns == written
    assert "Does the network follow" not in run(place)[2]["explanations"]
    assert not file.exists()


def relabelled(place):
    files = sorted((place / "digits" / "0").glob("*.png"))[:4]
    moved = [(file, file.rename(place / "digits" / "1" / file.name)) for file in files]
    yield
    for there, here in moved:
        here.rename(there)
    yield


def corrupted(place):
    file = sorted((place / "digits" / "2").glob("*.png"))[3]
    image = file.read_bytes()
    file.write_bytes(image[: len(image) // 2])
    yield
    file.write_bytes(image)
    yield


def removed(place):
    file = sorted((place / "digits" / "1").glob("*.png"))[0]
    image = file.read_bytes()
    file.unlink()
    yield
    file.write_bytes(image)
    yield


def unchanged(place):
    while True:
        yield


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (relabelled, {}),
        (corrupted, {}),
        (removed, {}),
        (unchanged, {"bootstrap": 20}),
        (unchanged, {"confused": 0, "examples": 3}),
    ],
)
def test_changed_and_changed_back_is_as_never_changed(place, change, settings):
    changes = change(place)
    _, first, _ = run(place)
    next(changes)
    other, tables, sections = run(place, **settings)
    _, fresh_tables, fresh_sections = run(place, "other", **settings)
    assert not other.reused
    assert point_scores(tables) == pytest.approx(point_scores(fresh_tables), abs=1e-9)
    assert sections.keys() == fresh_sections.keys()
    assert sections["explanations"].count("<img") == fresh_sections["explanations"].count("<img")
    next(changes)
    back, tables, sections = run(place)
    _, fresh_tables, fresh_sections = run(place, "fresh")
    assert not back.reused
    assert_same(tables, fresh_tables)
    assert_same(tables, first)
    assert sections == fresh_sections
    assert run(place)[0].reused


def point_scores(tables):
    """Scores that depend on no draw: rows of another order than a fresh store's give the same."""
    scores = tables["scores"].set_index(["measure", "score"])["value"]
    return scores[
        scores.index.get_level_values("score").isin(["auc", "one_nn", "map_at_r"])
    ].to_dict()


def assert_same(tables, others):
    assert tables.keys() == others.keys()
    for name in tables:
        pd.testing.assert_frame_equal(tables[name], others[name])


def test_an_image_that_changes_sides_is_a_change(place):
    """The listing gives the same images, paths and labels: only what they share is another."""
    files = sorted((place / "digits").glob("*/*.png"))

    def run_in_groups_of(size):
        rows = [f"{file},{file.parent.name},{n // size}" for n, file in enumerate(files)]
        (place / "set.csv").write_text("\n".join(["path,label,object", *rows]))
        images = 'source = "set.csv"\ngroup = "object"\ntrain_share = 0.5'
        finished, tables, _ = run(place, images=images, examples=0, confused=0)
        store = PipelineRun(read_pipeline(place / "out.toml")).store()
        sides = store.features(finished.key).table().set_index("row")["split"]
        return finished, point_scores(tables), sides

    _, scores, sides = run_in_groups_of(2)
    assert run_in_groups_of(2)[0].reused
    other, scores_anew, moved = run_in_groups_of(3)
    assert not moved.equals(sides)
    assert not other.reused
    assert scores_anew != scores


def test_a_lost_network_is_told_by_a_run_that_computes_nothing(place):
    run(place)
    this = PipelineRun(read_pipeline(place / "out.toml"))
    parent = steps.load(this.pipeline, this.pipeline.network.weights).weights_hash
    lost = Accepted(str(this.folder / "weights" / "gone.safetensors"), "k")
    log = DecisionLog(this.memo, this.folder, this.pipeline, parent)
    log.add("replace", True, "better", {}, past=Past(1.0, 0.5, 0.6), network=lost)
    again, _, _ = run(place)
    assert again.reused
    assert again.notes[0].startswith(f"the accepted network {lost.weights} is gone: ")


def test_tables_that_another_command_wrote_over_are_made_again(place):
    done, tables, _ = run(place)
    store = PipelineRun(read_pipeline(place / "out.toml")).store()
    analysis = Analysis.load(store, done.key)
    half = {name: table.head(len(table) // 2) for name, table in analysis.tables.items()}
    Analysis(done.key, 1, analysis.classes, analysis.settings, half).save(store)
    again, repaired, _ = run(place)
    assert not again.reused
    assert list(again.seconds) == ["analyse network"]
    assert_same(repaired, tables)


def test_pictures_of_a_killed_step_are_removed(place, monkeypatch):
    """The run that follows asks for fewer pictures, and its report must show no others."""
    done, _, _ = run(place)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(steps.PipelineRun, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            run(place, examples=3)
    pictures = place / "out" / "store" / "explanations" / done.key
    assert {file.name for file in pictures.iterdir()} == {"examples.png", "confused.png"}
    run(place, examples=0)
    assert {file.name for file in pictures.iterdir()} == {"confused.png"}


def test_a_lost_index_and_a_damaged_picture_are_made_again(place):
    done, _, _ = run(place)
    store = place / "out" / "store"
    (index,) = (store / "index" / done.key / "gap_cosine").glob("*.faiss")
    index.unlink()
    picture = store / "explanations" / done.key / "confused.png"
    picture.write_bytes(b"")
    again, _, _ = run(place)
    assert sorted(again.seconds) == ["explain network", "index network"]
    assert len(picture.read_bytes()) > 100
    # The index alone, of which the report shows nothing.
    for harm in (Path.unlink, flipped):
        (index,) = (store / "index" / done.key / "gap_cosine").glob("*.faiss")
        harm(index)
        assert list(run(place)[0].seconds) == ["index network"]
        assert run(place)[0].reused


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "5", '{"version": 2}', "\xff", '{"index-', "[" * 9999]
)
def test_a_damaged_memo_is_no_fault(place, text):
    done, tables, _ = run(place)
    (place / "out" / "steps.json").write_bytes(text.encode("latin-1"))
    again, others, _ = run(place)
    assert (again.reused, again.key) == (False, done.key)
    assert "steps.json cannot be read" in again.notes[0]
    assert_same(tables, others)
    assert run(place)[0].notes == done.notes, "what was so then is told by no later run"


@pytest.mark.quick
def test_a_damaged_decision_log_is_named(place):
    run(place)
    (place / "out" / "decisions.jsonl").write_text("[]\n")
    with pytest.raises(BadInput, match=r"decisions\.jsonl line 1 is damaged"):
        run(place)


def test_a_backup_that_is_restored_elsewhere_computes_nothing(place, tmp_path_factory):
    """As docs/operations.md has it: the folder is copied while nothing runs, and verified there."""
    run(place)
    elsewhere = tmp_path_factory.mktemp("restored") / "set"
    # Without the times of the files, as a plain copy makes them.
    shutil.copytree(place, elsewhere, copy_function=shutil.copyfile)
    shutil.rmtree(place / "out")
    assert verify(Store.open(elsewhere / "out" / "store"), mark=False).damage == ()
    finished = run_settings_file(elsewhere / "out.toml", silent)
    assert (finished.reused, finished.seconds) == (True, {})


def flipped(file):
    """One bit of a file is another."""
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


def test_damaged_features_are_computed_again_by_the_run_which_says_so(place):
    """Of a shard, of a record, of a fitted measure; what is no feature's ends the run."""
    measures = '["gap_cosine", "lda_cosine"]'
    source = {"images": 'source = "digits"\ntrain_share = 0.5', "folder": "out"}
    text = SETTINGS.format(**{**RIGHT, **source}).replace('["gap_cosine", "gap_euclid"]', measures)
    (place / "out.toml").write_text(text)
    lines = []

    def tell(line, level="info"):
        lines.append((level, line))

    done = run_settings_file(place / "out.toml", silent, tell)
    store = Store.open(place / "out" / "store")
    before = Analysis.load(store, done.key).tables
    home, told = f"features.zarr/{done.key}", []

    def run_again():
        """All is made anew, so that the features are read; gives the warnings."""
        (place / "out" / "steps.json").unlink()
        lines.clear()
        run_settings_file(place / "out.toml", lambda *stage: told.append(stage), tell)
        assert verify(store, mark=False).damage == ()
        assert_same(Analysis.load(store, done.key).tables, before)
        return [line for level, line in lines if level == "warning"]

    # A file that is gone is seen by the extraction itself; settings are mended from their copy.
    store.path(f"{home}/logits/c.0.0").unlink()
    flipped(store.path(f"{home}/gap/c.0.0"))
    rows = f"constants/{done.key}/measures/lda_cosine/rows.npz"
    flipped(store.path(rows))
    flipped(store.path("store.json"))
    store.path(f"maps/{done.key}/gap_cosine.held_out.parquet").write_bytes(b"PAR1 torn")
    settings, said = run_again()
    assert settings.startswith("store.json was damaged (")
    assert said.startswith(f"features of {done.key} were damaged: {rows} (")
    assert f"{home}/gap/c.0.0 (" in said
    assert said.endswith("; they are computed again")
    assert {settings, said} <= set(History(store).records()[-1].reasons)
    assert [one[-1] for one in told if "gone or torn" in str(one[-1])] == [
        f"{home}/logits/c.0.0: gone or torn, so their rows are computed again"
    ]
    record = f"ledger/{done.key}/00000000.json"
    flipped(store.path(record))
    (said,) = run_again()
    assert said.startswith(f"features of {done.key} were damaged: {record} (")
    # Links of twins and their sides: this set has none, which is found again.
    for name in ("links", "sides"):
        flipped(store.path(f"twins/{name}.parquet"))
    (said,) = run_again()
    assert said.startswith("twins were damaged: twins/links.parquet (")
    assert "twins/sides.parquet (" in said
    assert said in History(store).records()[-1].reasons
    store.path("manifest/seg-000000.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(StoreDamaged, match="seg-000000"):
        run_settings_file(place / "out.toml", silent, tell)
