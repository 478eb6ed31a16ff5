import pytest

from alike.extract.errors import StoreBusy
from alike.flows.memo import Memo, alone_in, digest


def test_remembers_across_processes(tmp_path):
    made = tmp_path / "made"
    made.touch()
    Memo(tmp_path).record("index", {"a": 1, "b": [2]}, {"key": "k"}, (made,))
    assert Memo(tmp_path).outputs("index", {"b": [2], "a": 1}) == {"key": "k"}
    assert Memo(tmp_path).outputs("index", {"a": 2, "b": [2]}) is None
    assert Memo(tmp_path).outputs("analyse", {"a": 1, "b": [2]}) is None


def test_a_folder_that_was_moved_keeps_what_it_remembers(tmp_path):
    made, elsewhere = tmp_path / "out" / "weights" / "made", tmp_path / "elsewhere"
    made.parent.mkdir(parents=True)
    made.touch()
    elsewhere.touch()
    memo = Memo(tmp_path / "out")
    memo.record("retrain", {}, {"weights": memo.kept(made)}, (made, elsewhere))
    moved = Memo((tmp_path / "out").rename(tmp_path / "moved"))
    known = moved.outputs("retrain", {})
    assert moved.there(known["weights"]) == tmp_path / "moved" / "weights" / "made"
    elsewhere.unlink()
    assert moved.outputs("retrain", {}) is None


def test_forgets_what_lost_its_files(tmp_path):
    made = tmp_path / "made"
    made.touch()
    memo = Memo(tmp_path)
    memo.record("index", {}, {}, (made,))
    made.unlink()
    assert memo.outputs("index", {}) is None


def test_a_torn_file_counts_as_empty(tmp_path):
    (tmp_path / "steps.json").write_text('{"index-')
    memo = Memo(tmp_path)
    assert memo.outputs("index", {}) is None
    memo.record("index", {}, {"key": "k"})
    assert Memo(tmp_path).outputs("index", {}) == {"key": "k"}


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
