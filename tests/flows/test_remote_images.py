"""A run whose images are a folder or a tar on an object store: results as of the local folder."""

import json
import tarfile

import fsspec
import pandas as pd
import pytest
from changing_set import RIGHT, Place, without_prefect
from typer.testing import CliRunner

from alike.flows.cli import app
from alike.flows.settings import read_pipeline
from alike.flows.unchanged import unchanged_run


class Uploaded(Place):
    """A set whose images are on the bucket; those of other output folders are local."""

    url = "s3://remote-images/set/"

    def write_settings(self, folder):
        file = super().write_settings(folder)
        if folder == "out":
            file.write_text(file.read_text().replace('source = "set"', f'source = "{self.url}"'))
        return file

    def upload(self):
        files = fsspec.filesystem("s3")
        for one in files.find("remote-images/set"):
            files.rm_file(one)
        for one in self.files():
            files.put_file(str(one), f"remote-images/{one.relative_to(self.folder)}")


class Tarred(Uploaded):
    """The same in one tar."""

    url = "s3://remote-images/set.tar"

    def upload(self):
        tar = self.folder / "set.tar"
        with tarfile.open(tar, "w") as archive:
            for one in self.files():
                archive.add(one, str(one.relative_to(self.folder / "set")))
        fsspec.filesystem("s3").put_file(str(tar), "remote-images/set.tar")
        tar.unlink()


@pytest.fixture
def place(s3_server, tmp_path, monkeypatch):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").makedirs("remote-images", exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    without_prefect(monkeypatch)
    monkeypatch.setattr("alike.extract.images.source.SETTLED", -(10**15))
    return Uploaded(tmp_path, now={**RIGHT, "measures": ["gap_cosine"], "examples": 1})


def as_local(place, folder):
    place.upload()
    tables, local = place.run(), place.run(folder)
    assert tables.keys() == local.keys() >= {"scores", "neighbours"}
    for name, table in local.items():
        pd.testing.assert_frame_equal(tables[name], table, rtol=0, atol=0, obj=name)


def test_results_are_those_of_the_local_folder_and_an_unchanged_run_reads_nothing(place):
    as_local(place, "local")
    said = []
    pipeline = read_pipeline(place.folder / "out.toml")
    assert unchanged_run(pipeline, said.append).reused, said
    assert said == []
    image = place.pick(3)
    image.write_bytes(place.pick(4).read_bytes() + b"more")
    place.upload()
    assert unchanged_run(pipeline, said.append) is None
    assert [one.rpartition("/")[2] for one in said] == [f"{image.name} changed"]
    place.change("relabel", 5)
    place.change("remove", 9)
    as_local(place, "local2")


def test_a_plan_looks_at_a_sample_of_it(place):
    place.upload()
    done = CliRunner().invoke(app, ["plan", str(place.write_settings("out")), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == len(place.files())


def test_a_tar_is_told_by_its_etag(place):
    place = Tarred(place.folder, now=place.now)
    as_local(place, "local")
    said = []
    pipeline = read_pipeline(place.folder / "out.toml")
    assert unchanged_run(pipeline, said.append).reused, said
    place.change("relabel", 5)
    place.upload()
    assert unchanged_run(pipeline, said.append) is None
    as_local(place, "local2")
