"""What runs leave: records, short notes that nothing changed, reasons, and what commands say."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from changing_set import Place, without_prefect
from lines import Lines
from typer.testing import CliRunner

from alike.analysis.report import score_sections
from alike.analysis.stored import Analysis
from alike.extract.errors import BadInput, StoreBusy
from alike.extract.identity import file_hash, network_title
from alike.extract.store.store import Store
from alike.extract.store.verification import verify
from alike.flows import run as whole_run
from alike.flows.alarm import situation_of
from alike.flows.cli import app
from alike.flows.history import IMAGES_KEPT, History, RunRecord, image_changes
from alike.flows.recording import over_time
from alike.flows.rules import Rule, findings
from alike.flows.run import run_settings_file
from alike.flows.runs import store_of
from alike.flows.settings import read_pipeline
from alike.flows.unchanged import _loaded_code, state_of, unchanged_run

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-hunter2"
EXTRA = """
[alarm]
when = ["sameness fell", "images < 20"]
webhook = "https://user:{secret}@127.0.0.1:1/${{HOOK_TOKEN}}"
"""


class Story:
    """A folder with a set and settings, and what every run said."""

    def __init__(self, folder):
        self.place = Place(folder)
        self.file = self.place.write_settings("out")
        self.file.write_text(self.file.read_text() + EXTRA.format(secret=SECRET))
        self.said = Lines()

    @property
    def store(self):
        return Store.open(self.place.folder / "out" / "store")

    @property
    def history(self):
        return History(self.store)

    def run(self):
        self.said = Lines()
        return run_settings_file(self.file, lambda *_: None, self.said.say)

    def look(self):
        self.said = Lines()
        return unchanged_run(read_pipeline(self.file), self.said.say)

    def command(self, *words, status=0):
        done = CliRunner().invoke(app, [*words], catch_exceptions=False)
        assert done.exit_code == status, done.output
        return done.output


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """One run was done; files count as settled at once."""
    with pytest.MonkeyPatch.context() as patch:
        without_prefect(patch)
        patch.setattr("alike.extract.images.source.SETTLED", -(10**15))
        patch.setenv("HOOK_TOKEN", f"token-{SECRET}")
        patch.setattr("alike.flows.alarm.PAUSES", ())
        made = Story(tmp_path_factory.mktemp("story"))
        made.run()
        yield made


def test_a_record_says_what_the_store_holds(story):
    (record,) = story.history.records()[:1]
    store = story.store
    key = record.network["features"]
    table = Analysis.load(store, key).tables["scores"]
    row = table[(table["measure"] == "gap_cosine") & (table["score"] == "sameness")].iloc[0]
    assert record.score("sameness") == pytest.approx([row["value"], row["low"], row["high"]])
    assert (record.counts["listed"], record.counts["ok"], record.counts["classes"]) == (24, 24, 3)
    sides = store.features(key).table()["split"].value_counts()
    assert record.counts["held_out"] == sides["held_out"]
    report = story.place.folder / "out" / "report.html"
    assert record.artefacts["report.html"] == file_hash(report)
    assert record.settings["images.source"] == "set"
    assert {"extract network", "analyse network", "index network"} <= record.stages.keys()
    assert record.rates["extract network"] > 0
    assert record.host
    assert record.recall == [1.0, 1.0, 1.0]


def test_a_run_that_finds_nothing_changed_writes_no_record(story):
    before = story.history.records()
    done = story.look()
    assert (done.reused, done.key) == (True, before[-1].network["features"])
    first = story.history.unchanged()
    story.look()
    again = story.history.unchanged()
    assert story.history.records() == before
    assert again.since == before[-1].id
    assert again.times == first.times + 1


def test_another_time_of_any_file_gives_the_question_to_the_run(story):
    image, weights = story.place.files()[0], story.place.folder / "net.py"
    (table,) = story.store.path("tables").glob("*/scores.parquet")
    for file, says in ((image, image.name), (weights, "net.py"), (table, "scores.parquet")):
        status = file.stat()
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert story.look() is None
        assert says in story.said[0]
        assert story.run().reused
        assert story.look() is not None


def state_now(story):
    """The state that the next run compares, of settings that name a weights file."""
    text = story.file.read_text().replace('weights = "none"', 'weights = "net.pth"')
    (story.place.folder / "weighed.toml").write_text(text)
    pipeline = read_pipeline(story.place.folder / "weighed.toml")
    return state_of(pipeline, [str(story.place.folder / "net.py")])


def same_size_and_times(file):
    """Other bytes; size and time of change are set back."""
    status, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (len(data), status.st_mtime_ns)
    yield
    data[-1] ^= 1
    file.write_bytes(data)
    yield


def moved_over(file):
    """A copy with the same size and time takes the place."""
    copy, status = file.with_name("copy"), file.stat()
    copy.write_bytes(file.read_bytes())
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.replace(file)
    yield
    yield


def gone(file):
    data = file.read_bytes()
    file.unlink()
    yield
    file.write_bytes(data)
    yield


def new(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    yield
    file.unlink()
    yield


LOOKED_AT = {
    "weights": ("net.pth", same_size_and_times),
    "weights moved over": ("net.pth", moved_over),
    "network": ("net.py", same_size_and_times),
    "new module beside it": ("helper.py", new),
    "new package beside it": ("torchy/__init__.py", new),
    "memo": ("out/steps.json", moved_over),
    "decisions": ("out/decisions.jsonl", new),
    "decisions of version 0.1": ("out/served.json", new),
    "retrained weights": ("out/weights/ce-1/weights.safetensors", new),
    "report": ("out/report.html", same_size_and_times),
    "report gone": ("out/report.html", gone),
    "table": ("out/store/tables/*/scores.parquet", same_size_and_times),
    "table gone": ("out/store/tables/*/scores.parquet", gone),
    "constant gone": ("out/store/constants/*/classifier/weight.npz", gone),
    "index": ("out/store/index/*/gap_cosine/card.json", moved_over),
    "settings of the store": ("out/store/store.json", moved_over),
    "shard": ("out/store/features.zarr/*/fc/c.0.0", same_size_and_times),
}


@pytest.mark.parametrize("what", list(LOOKED_AT))
def test_the_early_look_sees_what_a_run_depends_on(story, what):
    """Each attack is one that size and time of change do not tell."""
    name, attack = LOOKED_AT[what]
    folder = story.place.folder
    file = next(iter(sorted(folder.glob(name))), folder / name)
    before = state_now(story)
    assert before.difference(state_now(story)) == ""
    steps = attack(file)
    next(steps)
    word = "is gone" if attack is gone else "changed"
    assert before.difference(state_now(story)) == f"{file} {word}"
    next(steps)


@pytest.mark.parametrize("name", ["set", "net.py"])
def test_what_the_settings_name_and_is_gone_is_said(story, name):
    """A name of the settings that is no file any more reads as another setting."""
    story.run()
    assert story.look() is not None
    place = story.place.folder / name
    place.rename(story.place.folder / "away")
    assert story.look() is None
    assert story.said == [f"not as the last run left it: {place} is gone"]
    (story.place.folder / "away").rename(place)


def test_another_setting_is_no_file_that_is_gone(story):
    pipeline = read_pipeline(story.file)
    network = pipeline.network.model_copy(update={"weights": str(story.place.folder / "net.pth")})
    before = state_of(pipeline.model_copy(update={"network": network}), [])
    now = state_of(pipeline, [])
    assert before.difference(now) == "the settings changed"
    # Files of a remote store are those of the settings: another store has others.
    remote = replace(before, objects={"store/store.json": [1, "tag"]})
    assert remote.difference(now) == "the settings changed"
    remote = replace(now, objects={"store/store.json": [1, "tag"]})
    assert remote.difference(now) == "store/store.json is gone"


def test_the_early_look_sees_what_lies_behind_a_link(story):
    """A part of the store lies on another disk, with a link back into the store."""
    tables = story.store.path("tables")
    other = tables.parents[1] / "other disk"
    tables.rename(other)
    tables.symlink_to(other)
    (other / "back").symlink_to(tables.parent)
    (file,) = tables.glob("*/scores.parquet")
    before = state_now(story)
    steps = same_size_and_times(file)
    next(steps)
    assert before.difference(state_now(story)) == f"{file} changed"
    next(steps)
    (other / "back").unlink()
    tables.unlink()
    other.rename(tables)


def test_the_early_look_sees_a_folder_of_weights(story):
    """`weights = "retrained"` names the folder of `alike retrain`."""
    file = story.place.folder / "retrained" / "weights.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"1")
    pipeline = read_pipeline(story.file)
    network = pipeline.network.model_copy(update={"weights": str(file.parent)})
    pipeline = pipeline.model_copy(update={"network": network})
    before = state_of(pipeline, [])
    file.write_bytes(b"22")
    assert before.difference(state_of(pipeline, [])) == f"{file} changed"
    shutil.rmtree(file.parent)


def test_a_file_that_changed_while_a_run_went_on_is_looked_at_again(story, monkeypatch):
    """The run read the file that was there before; the stamp is that of the one after."""
    story.run()
    assert story.look() is not None
    monkeypatch.setattr("alike.extract.images.source.SETTLED", 2_000_000_000)
    network = story.place.folder / "net.py"
    pipeline, code = read_pipeline(story.file), [str(network)]
    change = network.stat().st_ctime_ns
    for began, trusted in ((change - 1, False), (change + 1, False), (change + 3 * 10**9, True)):
        left = state_of(pipeline, code, began)
        said = left.difference(state_of(pipeline, code))
        assert (said == f"{network} changed") == (not trusted)


def test_a_lost_record_or_another_note_gives_the_question_to_the_run(story):
    story.run()
    assert story.look() is not None
    stray = story.place.folder / "set" / "a" / "notes.docx"
    stray.write_text("")
    assert story.look() is None
    assert "told of the images" in story.said[0]
    said = story.run()
    assert any("left out: .docx 1" in note for note in said.notes)
    stray.unlink()
    assert story.look() is None
    assert not set(said.notes) <= set(story.run().notes)
    assert story.look() is not None
    last = story.history.records()[-1].id
    story.store.path("history", f"{last}.json").rename(story.place.folder / "aside.json")
    assert story.look() is None
    assert "record" in story.said[0]
    story.run()
    assert story.history.records()[-1].id != last
    assert story.look() is not None


def test_a_rename_costs_no_index_and_no_analysis(story):
    story.place.change("rename", 4)
    done = story.run()
    assert not done.reused
    assert not {"index network", "analyse network"} & done.seconds.keys()
    assert not [line for line in story.said if line.startswith(("index", "analyse"))]


def test_what_runs_again_is_said_with_its_reason(story):
    number = len(story.history.records())
    story.place.change("relabel", 1)
    story.place.change("add", 2)
    story.run()
    assert "analyse network: 1 image is new, 1 label changed" in story.said
    record = story.history.records()[number]
    assert record.changes == {"added": 1, "removed": 0, "relabelled": 1}
    assert "analyse network: 1 image is new, 1 label changed" in record.reasons
    report = (story.place.folder / "out" / "report.html").read_text()
    assert 'id="since"' in report
    assert "Images: 1 added, 1 relabelled." in report
    assert 'id="over_time"' in report
    # The page's scores have the same section, of the same records.
    analysis = Analysis.load(story.store, story.store.features().key)
    runs = over_time(story.history.records())["runs"]
    sections = score_sections(analysis, story.store, runs, ["since", "over_time"])
    assert set(sections) == {"since", "over_time"}
    assert sections["since"] in report


def test_a_run_that_fails_is_recorded_and_changes_no_reference(story, monkeypatch):
    def fails(*_):
        raise RuntimeError(f"no answer from https://me:{SECRET}@host/x")

    story.place.change("add", 0)
    looked = []
    with monkeypatch.context() as patch:
        patch.setattr(whole_run.steps, "build", fails)
        patch.setattr(whole_run, "watch", lambda *_: looked.append(1))
        with pytest.raises(RuntimeError, match=r"https://\*\*\*@host/x"):
            story.run()
    assert looked == [1]
    last = story.history.records()[-1]
    assert (last.state, last.error) == ("failed", "RuntimeError: no answer from https://***@host/x")
    assert json.loads(story.command("status", str(story.file), "--json"))["failed_since"] == 1
    story.run()
    assert json.loads(story.command("status", str(story.file), "--json"))["failed_since"] == 0


def test_a_failure_that_cannot_be_recorded_is_said(story, monkeypatch):
    """It must not hide why the run failed, nor be passed over."""
    said = []

    def fails(*_):
        raise OSError("no space left on\nthe device")

    monkeypatch.setattr(whole_run.History, "write", fails)
    pipeline = read_pipeline(story.file)
    with (
        pytest.raises(BadInput, match="why"),
        whole_run.refusal_recorded(pipeline, lambda line, /, *, level: said.append((line, level))),
    ):
        raise BadInput("why")
    wanted = "that this run failed is not in the history: no space left on the device"
    assert said == [(wanted, "warning")]


def test_a_run_that_found_another_at_work_leaves_no_record(story, monkeypatch):
    def busy(_):
        raise StoreBusy("another writes")

    monkeypatch.setattr(whole_run, "run_steps", busy)
    before = story.history.records()
    with pytest.raises(StoreBusy):
        story.run()
    assert story.history.records() == before


def test_a_run_killed_before_its_record_is_recorded_by_the_next(story, monkeypatch):
    story.place.change("add", 1)
    number = len(story.history.records())

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(whole_run, "finished", killed)
        patch.setattr(whole_run, "record_failure", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            story.run()
    assert len(story.history.records()) == number
    assert story.run().reused
    (record,) = story.history.records()[number:]
    assert record.changes["added"] == 1
    assert record.score("sameness") is not None


def test_the_commands(story, tmp_path):
    file = str(story.file)
    listed = json.loads(story.command("runs", "ls", file, "--json"))
    runs = [one["run"] for one in listed["runs"] if one["state"] == "good"]
    shown = json.loads(story.command("runs", "show", file, runs[0], "--json"))
    assert shown["id"] == runs[0]
    store = Store.open(store_of(file).url)
    assert shown["titles"] == {
        "": network_title(store.features(shown["network"]["features"]).attrs)
    }
    assert shown["titles"][""] in story.command("runs", "show", file, runs[0])
    found = json.loads(story.command("runs", "diff", file, runs[0], runs[-1], "--json"))
    listed = {"count": "listed", "before": 24, "after": 27, "difference": 3}
    assert {**listed, "network": "", "values": [24, 27]} in found["counts"]
    assert "sameness" in {one["score"] for one in found["scores"]}
    story.command("runs", "plot", file, "--to", str(tmp_path / "runs.html"))
    assert "plotly" in (tmp_path / "runs.html").read_text().lower()
    assert runs[0] in story.command("runs", "ls", file)
    assert "gap_cosine" in story.command("runs", "show", file)
    assert "sameness" in story.command("runs", "diff", file, runs[0])
    story.command("runs", "accept", file, runs[-1])
    said = json.loads(story.command("status", file, "--json"))
    assert [(one["rule"], one["holds"]) for one in said["rules"]] == [
        ("sameness fell", False), ("images < 20", False)
    ]  # fmt: skip
    story.file.write_text(story.file.read_text().replace("images < 20", "images < 2000"))
    assert "ALARM: images < 2000" in story.command("status", file, status=3)
    assert not story.store.file_names("history/alarms")
    story.command("status", file, "--notify", status=3)
    assert len(story.store.file_names("history/alarms")) == 1


UNCHANGED = """
import sys
from alike.flows.cli import main
try:
    main()
finally:
    sys.stderr.write(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_an_unchanged_run_loads_neither_torch_nor_prefect(story):
    """All files are older than two seconds by now, or the process waits until they are."""
    assert story.look() is not None
    newest = max(one.stat().st_ctime for one in story.place.files())
    time.sleep(max(0.0, newest + 2.1 - time.time()))
    command = [sys.executable, "-c", UNCHANGED, "run", str(story.file), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode in (0, 3), done.stderr[-2000:]
    assert json.loads(done.stdout)["reused"] is True
    loaded = set(done.stderr.splitlines()[-1].split())
    assert not loaded & {"torch", "torchvision", "prefect", "lightning", "dask", "plotly", "faiss"}


def test_code_in_the_folder_of_an_environment_is_looked_at(story, monkeypatch):
    """`python -m venv .` puts an environment into the project's own folder; conda's base, too."""
    monkeypatch.setattr(sys, "prefix", str(story.place.folder))
    monkeypatch.setattr(sys, "base_prefix", str(story.place.folder))
    code = _loaded_code()
    assert str((story.place.folder / "net.py").resolve()) in code
    assert not [one for one in code if "site-packages" in one or str(ROOT) in one]


def test_no_secret_is_written_anywhere(story):
    """Neither the password in the webhook's URL, nor the value of the environment."""
    story.look()
    for words in (("runs", "ls"), ("runs", "show"), ("status",)):
        output = CliRunner().invoke(app, [*words, str(story.file)]).output
        assert SECRET not in output
    files = [one for one in (story.place.folder / "out").rglob("*") if one.is_file()]
    holders = [one for one in files if SECRET.encode() in one.read_bytes()]
    assert len(files) > 20
    assert holders == []
    assert not [line for line in story.said if SECRET in line]


def test_torn_and_foreign_files_are_named_and_hurt_nobody(story):
    number = len(story.history.records())
    folder = story.store.path("history")
    whole = sorted(folder.glob("2*.json"))
    torn = whole[1].read_bytes()
    whole[1].write_bytes(torn[: len(torn) // 2])
    (folder / "notes.txt").write_text("mine")
    (folder / "unchanged.json").write_text("{}")
    accepted = (folder / "accepted.json").read_bytes() if story.history.accepted() else None
    (folder / "accepted.json").write_text("{")
    (folder / whole[0].name.replace("-", "-0")).write_bytes(torn)
    a_folder = folder / f"20200101T000000000000-{'a' * 6}.json"
    a_folder.mkdir()
    history = story.history
    assert len(history.records()) == number - 1
    assert history.unchanged() is None
    assert len(history.faults) == 5
    assert f"history/{a_folder.name} is a folder" in " ".join(history.faults)
    assert history.unchanged() is history.accepted() is None
    assert len(history.faults) == 6
    a_folder.rmdir()
    with pytest.raises(BadInput, match=r"'accepted': history/accepted\.json is damaged"):
        history.find("accepted")
    situation = situation_of(story.store, history)
    (fell,) = findings(Rule.parse("sameness fell"), situation)
    assert "history/accepted.json is damaged" in fell.says
    damaged = {one.file for one in verify(story.store, mark=False).damage}
    assert {f"history/{whole[1].name}", "history/unchanged.json"} <= damaged
    assert story.look() is not None
    whole[1].write_bytes(torn)
    (folder / "accepted.json").unlink()
    if accepted:
        (folder / "accepted.json").write_bytes(accepted)
    assert len(story.history.records()) == number


@pytest.mark.quick
def test_tables_of_images_do_not_pile_up(tmp_path):
    history = History(Store.open(tmp_path / "store", create=True))
    table = pd.DataFrame({"row": [0, 1], "label": ["a", None], "side": "held_out"})
    for number in range(IMAGES_KEPT + 5):
        one = RunRecord(
            id=f"20260101T{number:012}-abcdef", time=time.strftime("%Y-%m-%dT%H:%M:%S+00:00"),
            seconds=1.0, state="good", images=f"{number:03}",
        )  # fmt: skip
        history.write(one, {one.images: table})
        if number == 1:
            history.accept(one, "me")
    records = history.records()
    kept = [one.id for one in records if history.images(one) is not None]
    assert len(kept) == IMAGES_KEPT + 1
    assert history.images(records[0]) is None
    pd.testing.assert_frame_equal(history.images(records[1]), table)


@pytest.mark.quick
def test_only_old_reports_go(tmp_path):
    names = [f"2026-01-{day:02}-010000.html" for day in range(1, 8)]
    for name in (*names, "mine.html", "2025.html"):
        (tmp_path / name).write_text("x")
    whole_run.drop_reports(tmp_path, None, tmp_path / names[6])
    assert len(list(tmp_path.iterdir())) == 9
    whole_run.drop_reports(tmp_path, 3, tmp_path / names[6])
    assert {one.name for one in tmp_path.iterdir()} == {*names[4:], "mine.html", "2025.html"}
    # One that a clock wrote that was ahead is older than that of now.
    (tmp_path / "2099-01-01-010000.html").write_text("x")
    whole_run.drop_reports(tmp_path, 3, tmp_path / names[6])
    assert {one.name for one in tmp_path.iterdir()} == {*names[4:], "mine.html", "2025.html"}


def test_reports_of_one_second_are_all_kept_and_the_first_goes_first(tmp_path):
    date, made = "2026-01-31-010000", []
    for _ in range(11):
        made.append(whole_run.dated_name(tmp_path, date))
        made[-1].write_text("x")
    assert len(set(made)) == 11
    made.append(whole_run.dated_name(tmp_path, "2026-01-31-010001"))
    made[-1].write_text("x")
    whole_run.drop_reports(tmp_path, 3, made[-1])
    assert set(tmp_path.iterdir()) == set(made[-3:])


@pytest.mark.quick
def test_changes_of_images():
    before = pd.DataFrame({"row": [1, 2, 3, 4], "label": ["a", "b", None, "c"]})
    after = pd.DataFrame({"row": [2, 3, 4, 9], "label": ["b", "a", "x", "a"]})
    assert image_changes(before, after) == {"added": 1, "removed": 1, "relabelled": 2}
