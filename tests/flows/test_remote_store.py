"""A run whose store is remote, at moto's S3 server: the tables are those of a local store."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from changing_set import RIGHT, Place, without_prefect
from typer.testing import CliRunner

from alike.extract.errors import BadInput, StoreBusy
from alike.extract.store.store import Store
from alike.extract.store.verification import verify
from alike.flows.cli import app
from alike.flows.history import History
from alike.flows.memo import Memo, RemoteFile, hash_of
from alike.flows.run import run_settings_file
from alike.flows.settings import read_pipeline
from alike.flows.unchanged import unchanged_run
from alike.index.build import build_index
from alike.index.files import CARD
from alike.index.places import card_of, folder_of, name_of
from alike.index.query import NeighbourIndex
from alike.serve.service import NeighbourService

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("ALIKE_FULL") == "1"
KILLS = 6 if FULL else 1
COMMAND = "from alike.flows.cli import main; main()"
WITHOUT_PREFECT = """
import sys
from pathlib import Path
import pytest
from changing_set import without_prefect
from alike.flows.run import run_settings_file
without_prefect(pytest.MonkeyPatch())
run_settings_file(Path(sys.argv[2]), lambda *_: None)
"""


class Story:
    """A set, its settings with a store at a URL, and what every run said."""

    def __init__(self, folder, bucket):
        self.url = f"s3://{bucket}/a/store"
        self.place = Place(folder, now={**RIGHT, "measures": ["gap_cosine"], "examples": 1})
        self.place.stores["out"] = f'store = "{self.url}"\n'
        self.out = folder / "out"
        self.file = self.place.write_settings("out")
        self.said = []

    @property
    def store(self):
        return Store.open(self.url)

    def run(self):
        self.said = []
        return run_settings_file(self.file, lambda *_: None, self.said.append)

    def look(self):
        self.said = []
        return unchanged_run(read_pipeline(self.file), self.said.append)

    def assert_as_local(self, folder):
        """Run, here and in a fresh local store: the tables are equal, bit for bit."""
        tables, local = self.place.run(), self.place.run(folder)
        assert tables.keys() == local.keys() >= {"scores", "neighbours", "class_pairs"}
        for name, table in local.items():
            pd.testing.assert_frame_equal(tables[name], table, rtol=0, atol=0, obj=name)

    def command(self, *words, status=0):
        done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
        assert done.exit_code == status, done.output
        return done.stdout


@pytest.fixture(scope="module")
def bucket(s3_server):
    """The environment leads to the server for the whole module."""
    import fsspec

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("remote-store")
        yield "remote-store"


@pytest.fixture(scope="module")
def story(bucket, tmp_path_factory):
    """One run was done; files count as settled at once."""
    with pytest.MonkeyPatch.context() as patch:
        without_prefect(patch)
        patch.setattr("alike.extract.images.source.SETTLED", -(10**15))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        made = Story(tmp_path_factory.mktemp("story"), bucket)
        made.assert_as_local("fresh")
        yield made


def test_the_folder_holds_reports_and_state_only(story):
    assert (story.out / "report.html").is_file()
    assert not (story.out / "store").exists()
    history = History(story.store)
    (record,) = history.records()
    key = record.network["features"]
    assert {"report.html", f"store/tables/{key}/scores.parquet"} <= record.artefacts.keys()
    scores = RemoteFile(story.store.files, f"tables/{key}/scores.parquet")
    assert record.artefacts[f"store/{scores.name}"] == hash_of(scores) != ""


def test_an_unchanged_run_computes_nothing(story):
    assert story.look().reused
    assert story.run().reused
    assert story.said == []
    assert story.look().reused
    assert len(History(story.store).records()) == 1


def test_few_requests_find_that_nothing_is_new(story, s3_requests):
    """A look at the stamps, then a run that is in doubt: a file was touched."""
    assert story.look().reused
    assert len(s3_requests) <= 40
    story.place.pick(0).touch()
    assert story.look() is None
    s3_requests.clear()
    assert story.run().reused
    # Six arrays, ten tables: each is asked for a few times, for other processes may change them.
    # Two are the card of the index and a look at its files.
    assert len(s3_requests) <= 217
    asked = Counter(s3_requests)
    assert max(asked.values()) <= 12, asked.most_common(3)
    assert story.look().reused


def test_a_file_of_the_store_that_changed_is_made_again(story):
    key = story.store.features().key
    name = f"tables/{key}/class_pairs.parquet"
    data = story.store.read_file(name)
    picture = next(one for one in story.store.files.walk("explanations") if one.endswith(".png"))
    story.store.write_file(name, data[:-1])
    assert story.look() is None
    assert story.said == [f"not as the last run left it: store/{name} changed"]
    story.store.remove_file(f"explanations/{picture}")
    story.run()
    gone = "its files are gone, or another command changed them"
    assert story.said == [f"analyse network: {gone}", f"explain network: {gone}"]
    assert story.store.read_file(name) == data
    assert story.store.files.size(f"explanations/{picture}")


def test_changed_labels_give_the_tables_of_a_local_store(story):
    story.place.change("relabel", 3)
    story.place.change("add", 1)
    assert story.look() is None
    story.assert_as_local("fresh2")
    assert verify(story.store, mark=False).damage == ()


def test_the_commands_read_it(story, tmp_path):
    status = json.loads(story.command("status", story.file, "--json"))
    assert (status["alarm"], status["failed_since"]) == (False, 0)
    runs = json.loads(story.command("runs", "ls", story.file, "--json"))["runs"]
    assert len(runs) == len(History(story.store).records())
    # The same rows and the same answers as of the store carried into a folder.
    local = tmp_path / "local"
    for name in story.store.files.walk(""):
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(story.store.read_file(name))
    answers = [
        json.loads(story.command("neighbours", 3, 5, "-k", 4, "--store", place, "--json"))
        for place in (story.url, local)
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 8
    image = story.place.files()[0]
    assert story.command("neighbours", image, "--store", story.url, "--trust", "--json")
    for place in (story.url, local):
        ending = "remote" if place == story.url else "local"
        story.command("export", "--store", place, "--to", tmp_path / f"{ending}.parquet")
    files = sorted(one.name.partition(".")[2] for one in tmp_path.glob("remote*.parquet"))
    assert len(files) > 3
    for name in files:
        remote, wanted = (
            pd.read_parquet(tmp_path / f"{one}.{name}") for one in ("remote", "local")
        )
        pd.testing.assert_frame_equal(remote, wanted, obj=name)
    assert json.loads(story.command("store", "verify", story.url, "--json"))["damage"] == []
    story.command("store", "gc", story.url)
    story.command("report", "--store", story.url, "--to", tmp_path / "report.html")


def test_the_page_answers_from_it(story):
    service = NeighbourService(story.url)
    index = NeighbourIndex.open(story.url)
    answer = service.neighbours("3", 4)
    assert [one["row"] for one in answer["neighbours"]] == index.query([3], 4).rows[0].tolist()
    (one,) = service.extractions()
    assert one["indexes"] == ["gap_cosine"]
    assert one["analysed"]


def test_a_copy_of_the_index_is_not_the_truth(story, monkeypatch, tmp_path):
    store = story.store
    key = store.features().key
    folder = folder_of(store, key, "gap_cosine")
    wanted = NeighbourIndex.open(story.url).query([3], 4)
    card = card_of(store, key, "gap_cosine")
    # Nothing is transferred while the card is the same.
    before = (folder / card.file).stat()
    NeighbourIndex.open(story.url)
    assert (folder / card.file).stat() == before
    # A copy that a disk or a program changed is fetched again, one that is gone too.
    data = bytearray((folder / card.file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / card.file).write_bytes(data)
    assert np.array_equal(NeighbourIndex.open(story.url).query([3], 4).rows, wanted.rows)
    (folder / card.file).unlink()
    assert np.array_equal(NeighbourIndex.open(story.url).query([3], 4).rows, wanted.rows)
    # Another machine has no copy.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert np.array_equal(NeighbourIndex.open(story.url).query([3], 4).rows, wanted.rows)
    assert folder_of(store, key, "gap_cosine").is_relative_to(tmp_path)


def test_an_index_is_replaced_whole_or_not_at_all(story, monkeypatch):
    store = story.store
    features = store.features()
    name = name_of(features.key, "gap_cosine")
    before, opened = card_of(store, features.key, "gap_cosine"), NeighbourIndex.open(store)
    # A build that dies while it uploads: files without a card, which nobody looks at.
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "write_file", _dies)
        with pytest.raises(KeyboardInterrupt):
            build_index(features, rebuild=True)
    assert len(store.file_names(name)) == 3
    assert card_of(store, features.key, "gap_cosine") == before
    assert opened.refreshed() is opened
    with store.index_lock(features.key, "gap_cosine"), pytest.raises(StoreBusy, match="process"):
        build_index(features, rebuild=True)
    report = build_index(features, rebuild=True)
    assert sorted(store.file_names(name)) == sorted([CARD, report.card.file])
    assert card_of(store, features.key, "gap_cosine") == report.card != before
    assert opened.refreshed().card == report.card
    assert build_index(features).action == "unchanged"


def _dies(*_):
    raise KeyboardInterrupt


def test_a_killed_run_is_as_if_it_had_not_been(story):
    chance = np.random.default_rng(5)
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    for number in range(KILLS):
        story.place.change("relabel", 7 + number)
        story.place.change("add", number)
        script = COMMAND if FULL else WITHOUT_PREFECT
        run = subprocess.Popen(
            [sys.executable, "-c", script, "run", str(story.file)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        names = set(story.store.files.walk(""))
        while run.poll() is None and set(story.store.files.walk("")) == names:
            time.sleep(0.1)
        time.sleep(float(chance.uniform(0, 4)))
        run.kill()
        run.wait()
        story.assert_as_local(f"killed{number}")
        assert verify(story.store, mark=False).damage == ()


def test_a_memo_knows_files_of_a_remote_store(bucket, tmp_path):
    files = Store.open(f"s3://{bucket}/memo", create=True).files
    files.write("tables/a", b"1")
    one, gone = RemoteFile(files, "tables/a"), RemoteFile(files, "tables/b")
    Memo(tmp_path, files).record("analyse", {"of": 1}, {}, (one,))
    memo = Memo(tmp_path, files)
    assert memo.outputs("analyse", {"of": 1}) == {}
    assert memo.files("analyse") == memo.unchanged("analyse") == [one]
    # The same bytes in a folder are the same artefact, so that a store may be moved.
    local = tmp_path / "store" / "tables" / "a"
    local.parent.mkdir(parents=True)
    local.write_bytes(b"1")
    assert Memo(tmp_path).outputs("analyse", {"of": 1}) == {}
    files.write("tables/a", b"2")
    assert memo.outputs("analyse", {"of": 1}) is None
    assert (hash_of(gone), gone.is_file(), one.is_file()) == ("", False, True)
    one.unlink()
    gone.unlink(missing_ok=True)
    assert not one.is_file()
    with pytest.raises(FileNotFoundError):
        gone.unlink()


@pytest.mark.quick
def test_where_a_store_may_lie(tmp_path):
    def read(lines):
        file = tmp_path / "p.toml"
        file.write_text(f'[images]\nsource = "a"\n[network]\nname = "n"\n[output]\n{lines}')
        return read_pipeline(file)

    assert read("").store_place == str(tmp_path / "alike-out" / "store")
    assert read('store = "big/store"').store_place == str(tmp_path / "big" / "store")
    assert read('store = "s3://b/x"').store_place == "s3://b/x"
    assert read("").written == read('store = "s3://b/x"').written, "no result depends on it"
    with pytest.raises(BadInput, match=r"output\.store = 's3://'"):
        read('store = "s3://"')
    with pytest.raises(BadInput, match=r"\[output\] store"):
        read('folder = "s3://b/x"')


def test_a_bucket_that_is_not_there_is_one_line(bucket, tmp_path, monkeypatch):
    place = Place(tmp_path)
    place.stores["out"] = 'store = "s3://no-such-bucket-here/x"\n'
    without_prefect(monkeypatch)
    with pytest.raises(BadInput, match="no-such-bucket-here"):
        run_settings_file(place.write_settings("out"), lambda *_: None)
