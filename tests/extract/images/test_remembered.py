"""A listing reads what changed, what is too young to tell, and its share of the rest."""

import os

import pandas as pd
import pytest
from images import past_of

from alike.extract.images import remembered
from alike.extract.images import source as reading
from alike.extract.images.folder import FolderSource
from alike.extract.images.listing import list_source
from alike.extract.images.remembered import TURNS, same_listing
from alike.extract.images.source import stamp_url


class Counted(FolderSource):
    """A folder that counts what is read, and whose stamps can be held."""

    def __init__(self, spec):
        super().__init__(spec)
        self.asked, self.held = [], {}

    @property
    def n_read(self):
        return len(self.asked)

    def read(self, path):
        self.asked.append(path)
        return super().read(path)

    def stamp(self, path):
        return self.held.get(path) or super().stamp(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """300 files that count as settled at once."""
    monkeypatch.setattr("alike.extract.images.source.SETTLED", -(10**15))
    (tmp_path / "cat").mkdir()
    for number in range(300):
        (tmp_path / "cat" / f"{number:03}.png").write_bytes(b"%d" % number)
    return tmp_path


def listed(folder, past=None):
    source = Counted(str(folder))
    return source, list_source(source, past=past)


def test_an_unchanged_set_is_not_read_but_for_its_share(folder):
    _, first = listed(folder)
    turns = range(TURNS)
    assert all(sum(remembered.is_due(path, turn) for turn in turns) == 1 for path in first["path"])
    for turn in (0, 50):
        source, again = listed(folder, past_of(first, turn))
        pd.testing.assert_frame_equal(again, first)
        assert source.n_read == again.attrs["read"] < 20
        assert same_listing(source, past_of(first, turn)) == ""


@pytest.mark.parametrize("change", ["bytes", "time", "moved over", "size"])
def test_a_changed_file_is_read(folder, change):
    _, first = listed(folder)
    file = folder / "cat" / "007.png"
    status = file.stat()
    if change == "bytes":
        file.write_bytes(b"8")
    elif change == "size":
        file.write_bytes(b"more")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(file)
    else:
        (folder / "cat" / "008.png").replace(file)
    source = Counted(str(folder))
    assert same_listing(source, past_of(first, 5)) in (
        "cat/007.png changed",
        "299 images are listed, 300 were",
    )
    again = list_source(source, past=past_of(first, 5))
    fresh = list_source(Counted(str(folder)))
    pd.testing.assert_frame_equal(again, fresh)


def test_a_file_that_is_too_young_is_read_again(folder, monkeypatch):
    monkeypatch.setattr("alike.extract.images.source.SETTLED", 2_000_000_000)
    _, first = listed(folder)
    source, _ = listed(folder, past_of(first))
    assert source.n_read == 300
    assert same_listing(source, past_of(first)) == (
        "nothing tells whether cat/000.png changed, and 299 other files: it has neither a time nor "
        "an ETag, or is not two seconds old"
    )


def test_silent_change_is_found_within_a_round_and_then_all_are_read(folder):
    """Other bytes under the same stamp, which no local file system allows by itself."""
    source, first = listed(folder)
    held = {path: source.stamp(path) for path in first["path"]}
    (folder / "cat" / "007.png").write_bytes(b"X")
    (due,) = (turn for turn in range(TURNS) if remembered.is_due("cat/007.png", turn))
    for turn in (due - 1, due):
        source = Counted(str(folder))
        source.held = held
        listing = list_source(source, past=past_of(first, turn))
        said = same_listing(source, past_of(first, turn))
        assert said.startswith("cat/007.png has other") == (turn == due)
        assert listing.attrs["silent"] == (turn == due)
        assert (listing.at[7, "image_id"] != first.at[7, "image_id"]) == (turn == due)
    assert listing.attrs["read"] == 300


@pytest.mark.quick
def test_what_could_not_be_read_is_tried_again(folder):
    file = folder / "cat" / "007.png"
    file.unlink()
    file.symlink_to(folder / "nowhere")
    _, first = listed(folder)
    assert first.at[7, "state"] == "unreadable"
    source = Counted(str(folder))
    assert same_listing(source, past_of(first, 5)) == ""
    (folder / "nowhere").write_bytes(b"here")
    assert same_listing(source, past_of(first, 5)) == "cat/007.png changed"
    _, again = listed(folder, past_of(first, 5))
    assert again.at[7, "state"] == "ok"


@pytest.mark.quick
def test_files_that_give_no_bytes_do_not_end_the_quiet(folder, monkeypatch):
    """A link to nowhere, a pipe, an empty file; one above the limit is not even read again."""
    monkeypatch.setattr(reading, "MAX_BYTES", 20)
    (folder / "cat" / "001.png").unlink()
    os.mkfifo(folder / "cat" / "001.png")
    (folder / "cat" / "002.png").write_bytes(b"")
    large = folder / "cat" / "003.png"
    large.write_bytes(b"x" * 21)
    (folder / "cat" / "004.png").unlink()
    (folder / "cat" / "004.png").symlink_to("nowhere")
    _, first = listed(folder)
    assert set(first["state"]) == {"ok", "unreadable", "too large"}
    for turn in range(2):
        source = Counted(str(folder))
        assert same_listing(source, past_of(first, turn)) == ""
        assert "cat/003.png" not in source.asked
    large.write_bytes(b"x" * 22)
    assert same_listing(source, past_of(first, 1)) == "cat/003.png changed"


@pytest.mark.quick
def test_the_stamp_of_an_object_is_its_etag():
    import fsspec

    class Bucket(fsspec.get_filesystem_class("memory")):
        protocol = "etagged"
        tag = '"one"'

        def info(self, path, **_):
            return {"size": 3, "ETag": self.tag, "name": path}

    fsspec.register_implementation("etagged", Bucket, clobber=True)
    first = stamp_url("etagged://bucket/x.png")
    assert stamp_url("etagged://bucket/x.png") == first
    Bucket.tag = '"two"'
    assert stamp_url("etagged://bucket/x.png") != first
    Bucket.tag = 'W/"two"'
    assert stamp_url("etagged://bucket/x.png") is None
