"""The way of a store through a second implementation of S3, which shares no line with moto.

`ALIKE_S3=localbucket pytest …` runs every test of a remote store there.
"""

import json
import subprocess
import sys

import fsspec
import pytest
from changing_set import without_prefect
from test_remote_store import FULL, Story

from alike.extract.errors import StoreBusy
from alike.extract.store.store import Store
from alike.extract.store.verification import verify

WRITER = """
import sys, time
from alike.extract.store.store import Store
with Store.open(sys.argv[1]).lock(sys.argv[2]):
    print("taken", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def story(other_s3_server, tmp_path, monkeypatch):
    for name, value in other_s3_server.items():
        monkeypatch.setenv(name, value)
    # Other arguments, for s3fs keeps a client of the endpoint that it was first asked about.
    endpoint = {"endpoint_url": other_s3_server["AWS_ENDPOINT_URL"]}
    monkeypatch.setitem(fsspec.config.conf, "s3", endpoint)
    without_prefect(monkeypatch)
    monkeypatch.setattr("alike.extract.images.source.SETTLED", -(10**15))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.filesystem("s3").mkdir("other-store")
    return Story(tmp_path, "other-store")


def test_a_store_from_its_first_run_to_its_clean_up(story):
    story.assert_as_local("fresh")
    assert story.look().reused
    key = story.store.features().key
    # What is damaged is named, and computed again by the next run.
    shard = next(
        one for one in story.store.files.walk(f"features.zarr/{key}/gap") if one.startswith("c.")
    )
    name = f"features.zarr/{key}/gap/{shard}"
    data = bytearray(story.store.read_file(name))
    data[7] ^= 1
    story.store.write_file(name, bytes(data))
    (damage,) = verify(Store.open(story.url)).damage
    assert damage.file == name
    # While another process writes it is not disturbed; its lock is taken over once it is dead.
    story.place.change("relabel", 3)
    story.place.change("add", 1)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, story.url, key], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "taken\n"
    with pytest.raises(StoreBusy, match=f"process {writer.pid}"):
        story.run()
    writer.kill()
    writer.communicate()
    if FULL:
        story.assert_as_local("fresh2")
    else:
        story.run()
    assert verify(Store.open(story.url), mark=False).damage == ()
    answer = json.loads(story.command("neighbours", 3, 5, "-k", 4, "--store", story.url, "--json"))
    assert len(answer) == 8
    story.command("store", "gc", story.url)
    assert story.look() is not None
