"""Folders of images at a URL: sets as those of local folders, few requests, few readings."""

import json
import os
from pathlib import Path

import fsspec
import pytest
from images import encoded, past_of, picture
from typer.testing import CliRunner

from alike.extract.errors import BadImage, BadInput
from alike.extract.images import remembered
from alike.extract.images.listing import list_source
from alike.extract.images.remembered import same_listing
from alike.extract.images.sources import open_source
from alike.flows.cli import app

TREES = {
    "classes": ["b/1.png", "a/2.png", "a/deep/x.PNG", "a/notes.txt", "a.b/1.jpg", "loose.jpeg"],
    "subsets": ["train/cat/1.png", "val/cat/1.png", "val/dog/2.png", "train/none.png"],
    "subset beside": ["train/cat/1.png", "val/cat/1.png", "other/2.png"],
    "a folder above": ["photos/set/cat/1.png", "photos/set/dog/1.png", "readme.txt"],
    "one class": ["cat/1.png", "cat/2.png"],
    "left out": [".git/a/1.png", "a/.thumbs/1.png", "a/@eaDir/1.png", "a/.x.png", "a/1.png"],
    "names": ["caf\xe9 \xfc/a b.png", "x%20y/c#d?.png", "{a}/[1]*.png", "Cat/1.png", "cat/1.png"],
}
"""Names of the files of some sets."""


@pytest.mark.quick
@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("subsets", [True, False])
def test_a_set_is_that_of_the_same_local_folder(name: str, subsets: bool, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    top = f"remote-{name.replace(' ', '-')}"
    for path in TREES[name]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
        memory.pipe_file(f"/{top}/{path}", path.encode())
    local = open_source(str(tmp_path), subsets=subsets)
    remote = open_source(f"memory://{top}/", subsets=subsets)
    listed = list(local)
    assert listed
    assert list(remote) == list(remote) == listed
    assert remote.options == local.options
    assert [one.replace(str(tmp_path), "") for one in local.notes] == [
        one.replace(f"memory://{top}", "") for one in remote.notes
    ]
    # A later step opens it again by what the store remembers, and reads without a listing.
    again = open_source(remote.spec, **remote.options)
    assert [again.read(one.path) for one in listed] == [local.read(one.path) for one in listed]
    with pytest.raises(BadImage):
        again.read("gone.png")


@pytest.fixture
def bucket(s3_requests: list[str], request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("_", "-")[:40].strip("-")
    fsspec.filesystem("s3").mkdir(name)
    return name


def test_it_is_listed_by_few_requests_and_read_where_it_changed(
    bucket: str, s3_requests: list[str]
) -> None:
    files = fsspec.filesystem("s3")
    names = [f"photos/{label}/{number:04}.png" for label in "abc" for number in range(400)]
    files.pipe({f"{bucket}/{name}": name.encode() for name in names})
    if os.environ.get("ALIKE_S3", "moto") == "moto":
        # What some programs make in place of folders; the other server takes no such key.
        files.pipe({f"{bucket}/photos/": b"", f"{bucket}/photos/a/": b""})
    source = open_source(f"s3://{bucket}/photos/")
    s3_requests.clear()
    first = list_source(source)
    # One for the folder, one for each of three with less than a thousand objects.
    assert len([one for one in s3_requests if one.startswith("list_objects")]) == 4
    assert len(s3_requests) == 4 + len(names)
    assert first["path"].tolist() == [name.removeprefix("photos/") for name in names]
    past = past_of(first)
    due = [one for one in first["path"] if remembered.is_due(one, 1)]
    files.pipe_file(f"{bucket}/{names[5]}", b"other")
    s3_requests.clear()
    again = list_source(source, past=past)
    assert again.attrs["read"] == len({*due, names[5].removeprefix("photos/")})
    assert len(s3_requests) == 4 + again.attrs["read"]
    assert (again["image_id"] != first["image_id"]).sum() == 1
    assert same_listing(source, past) == f"{names[5].removeprefix('photos/')} changed"
    s3_requests.clear()
    assert same_listing(source, past_of(again)) == ""
    assert len(s3_requests) == 4 + len(due)


def test_an_object_without_bytes_is_read_as_such(bucket: str) -> None:
    fsspec.filesystem("s3").pipe_file(f"{bucket}/photos/cat/empty.png", b"")
    source = open_source(f"s3://{bucket}/photos/")
    listed = list_source(source)
    assert listed["state"].tolist() == ["ok"]
    assert same_listing(source, past_of(listed)) == ""


def test_a_folder_that_is_not_there_or_not_ours_is_one_line(bucket: str) -> None:
    for place in (f"s3://{bucket}/nothing/", "s3://no-such-bucket-here/photos"):
        with pytest.raises(BadInput, match=r"cannot be listed \(no such folder\)"):
            list_source(open_source(place))
    with pytest.raises(BadInput, match="cannot be listed"):
        open_source("noscheme://x/y")
    with pytest.raises(BadInput, match="not a kind that is read"):
        open_source("https://example.org/photos/")


def test_the_command_that_checks_a_set_looks_at_it(bucket: str) -> None:
    files = fsspec.filesystem("s3")
    for number in range(6):
        data = encoded(picture(number), "PNG")
        files.pipe_file(f"{bucket}/set/{'ab'[number % 2]}/{number}.png", data)
    done = CliRunner().invoke(app, ["check", f"s3://{bucket}/set/", "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["images"], facts["classes"]) == (6, {"a": 3, "b": 3})
