import re

import pandas as pd
import pytest

from alike.extract.errors import StoreBusy
from alike.flows.memo import Memo, alone_in, digest
from alike.flows.settings import read_pipeline
from alike.flows.steps import training_transform, twin_paths


@pytest.fixture
def tables(tmp_path):
    file = tmp_path / "tables"
    file.write_text("A")
    return file


def test_remembers_across_processes(tmp_path, tables):
    Memo(tmp_path).record("analyse", {"a": 1, "b": [2]}, {"key": "k"}, (tables,))
    assert Memo(tmp_path).outputs("analyse", {"b": [2], "a": 1}) == {"key": "k"}
    assert Memo(tmp_path).outputs("analyse", {"a": 2, "b": [2]}) is None
    assert Memo(tmp_path).outputs("explain", {"a": 1, "b": [2]}) is None


def test_an_artefact_that_was_written_over_is_not_what_it_was(tmp_path, tables):
    """Made from 1, from 2, and asked for as made from 1 again."""
    memo = Memo(tmp_path)
    memo.record("analyse", {"of": 1}, {}, (tables,))
    tables.write_text("B")
    assert memo.outputs("analyse", {"of": 1}) is None, "another command wrote there"
    memo.record("analyse", {"of": 2}, {}, (tables,))
    assert memo.outputs("analyse", {"of": 1}) is None
    assert memo.outputs("analyse", {"of": 2}) == {}


def test_a_step_that_was_killed_leaves_no_entry(tmp_path, tables):
    memo = Memo(tmp_path)
    memo.record("analyse", {"of": 1}, {}, (tables,))
    memo.forget("analyse")
    assert Memo(tmp_path).outputs("analyse", {"of": 1}) is None


def test_only_what_nobody_changed_is_a_steps_own(tmp_path, tables):
    other = tmp_path / "other"
    other.write_text("A")
    memo = Memo(tmp_path)
    memo.record("explain", {}, {}, (tables, other))
    other.write_text("drawn by hand")
    assert memo.files("explain") == [tables, other]
    assert memo.unchanged("explain") == [tables]


def test_what_a_killed_step_wrote_is_its_own(tmp_path, tables):
    memo = Memo(tmp_path)
    memo.record("explain", {"of": 1}, {}, (tables,))
    memo.begin("explain", [*memo.unchanged("explain"), tmp_path / "new", tmp_path / "never"])
    (tmp_path / "new").write_text("B")
    killed = Memo(tmp_path)
    assert killed.outputs("explain", {"of": 1}) is None
    assert killed.unchanged("explain") == [tables, tmp_path / "new"]


@pytest.mark.parametrize("store", ["out/store", "elsewhere", "out/other", "out", "."])
def test_a_folder_that_was_moved_keeps_what_it_remembers(tmp_path, store):
    (tmp_path / "top").mkdir()
    top = tmp_path / "top"
    weights, table = top / "out/weights/new", top / store / "tables/a"
    for file in (weights, table):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("A")
    memo = Memo(top / "out", top / store)
    memo.record("retrain", {}, {"weights": memo.place_of(weights)}, (weights, table))
    top = top.rename(tmp_path / "moved")
    moved = Memo(top / "out", top / store)
    outputs = moved.outputs("retrain", {})
    assert moved.there(outputs["weights"]) == top / "out/weights/new"
    assert moved.files("retrain") == [top / "out/weights/new", top / store / "tables/a"]
    # Another store does not hold it, though the first is still there.
    assert Memo(top / "out", top / "third").outputs("retrain", {}) is None
    (top / store / "tables/a").unlink()
    assert moved.outputs("retrain", {}) is None


def test_paths_of_a_store_elsewhere_as_earlier_versions_wrote_them(tmp_path):
    table = tmp_path / "elsewhere/tables/a"
    table.parent.mkdir(parents=True)
    table.write_text("A")
    (tmp_path / "out").mkdir()
    Memo(tmp_path / "out").record("analyse", {}, {}, (table,))
    assert str(table) in (tmp_path / "out/steps.json").read_text()
    assert Memo(tmp_path / "out", tmp_path / "elsewhere").outputs("analyse", {}) == {}
    assert Memo(tmp_path / "out", tmp_path / "third").outputs("analyse", {}) is None


def test_forgets_what_lost_its_files(tmp_path, tables):
    memo = Memo(tmp_path)
    memo.record("index", {}, {}, (tables,))
    tables.unlink()
    assert memo.outputs("index", {}) is None


@pytest.mark.parametrize(
    "text",
    [
        b"", b'{"index-', b"[]", b"null", b"5", b"\xff\xfe", b"[" * 99_999,
        b'{"version": 2}', b'{"version": 2, "artefacts": {"index": 5}}',
        b'{"index-0123456789abcdef": {"inputs": {}, "outputs": {"key": "k"}, "files": []}}',
    ],
)  # fmt: skip
def test_a_damaged_file_and_one_of_version_1_count_as_empty(tmp_path, text):
    (tmp_path / "steps.json").write_bytes(text)
    memo = Memo(tmp_path)
    assert memo.outputs("index", {}) is None
    (note,) = memo.notes
    assert re.search(
        r"steps\.json (cannot be read|is of another version).*: it counts as empty", note
    )
    memo.record("index", {}, {"key": "k"})
    assert Memo(tmp_path).notes == []
    assert Memo(tmp_path).outputs("index", {}) == {"key": "k"}


class Pairs:
    """What a digest of twins asks of features: rows 0 to 3, of which a component holds all."""

    def __init__(self, groups):
        self.store = self
        self.groups = pd.DataFrame({"row": range(len(groups)), "group": list(groups)})

    def components(self):
        return pd.DataFrame({"row": range(4), "component": 0, "side": "train"})

    def image_groups(self):
        return self.groups

    def table(self):
        return pd.DataFrame({"row": range(4), "path": list("abcd")})


def test_twins_change_with_their_groups_and_not_where_there_are_none():
    """Sides that ignore groups say nothing of them, and the linked rows may be the same."""
    digests = {twin_paths(Pairs(groups)) for groups in ("", "xxyy", "xyxy", "xxxx")}
    assert len(digests) == 4
    # That of the versions before: no analysis of a set without groups runs again.
    assert digest({"row": list("0123"), "path": list("abcd")}) in digests


NETWORKS = {
    "unset": "",
    "eight": "transform = { resize = [8, 8], mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }",
    "nine": "transform = { resize = [9, 9], mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }",
}


def test_a_transform_that_is_set_is_an_input_of_training(tmp_path):
    """The weights are the same, and the images that they are trained on are not."""
    inputs = []
    for name, line in NETWORKS.items():
        file = tmp_path / f"{name}.toml"
        file.write_text(f'[images]\nsource = "set"\n[network]\nname = "resnet18"\n{line}\n')
        inputs.append(training_transform(read_pipeline(file)))
    assert inputs[0] == {}
    assert len({digest(one) for one in inputs}) == 3


@pytest.mark.quick
def test_digest_ignores_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_two_runs_in_one_folder_are_refused(tmp_path):
    refused = pytest.raises(StoreBusy, match="another run works in")
    with alone_in(tmp_path), refused, alone_in(tmp_path):
        pass
    with pytest.raises(ValueError, match="failed"), alone_in(tmp_path):
        raise ValueError("failed")
    with alone_in(tmp_path):
        pass
