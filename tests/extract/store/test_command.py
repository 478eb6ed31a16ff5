"""The commands translate: exit status, one line of error, JSON that others can parse."""

import json

import pytest
import store_writer as known

from alike.flows.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: str):
        monkeypatch.setattr("sys.argv", ["alike", "store", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call


def test_verify_ls_log_gc(run, tmp_path):
    features = known.filled(tmp_path, 1500)
    place = str(tmp_path)
    assert run("verify", place)[:2] == (
        0,
        "2 units, 3000 rows of arrays, 0.00048 GB hashed again: nothing damaged\n",
    )
    status, out, _ = run("ls", place, "--json")
    assert status == 0
    assert json.loads(out)["images"] == 1500
    assert [one["array"] for one in json.loads(out)["arrays"]] == ["fc", "maps"]
    assert "1500 images in 3 classes" in run("ls", place)[1]
    shard = tmp_path / features.place("fc", 1)
    shard.write_bytes(shard.read_bytes()[:-9])
    status, out, _ = run("verify", place, "--check-only", "--json")
    assert status == 1
    assert json.loads(out)["damage"][0]["file"] == features.place("fc", 1)
    status, out, _ = run("verify", place)
    assert status == 1
    assert "c.1.0" in out
    assert "1 damaged" in out
    known.extract(features)
    assert run("verify", place)[0] == 0
    assert "damaged" in run("log", place)[1]
    assert "created" in [one["event"] for one in json.loads(run("log", place, "--json")[1])]
    assert run("gc", place, "--dry-run")[1].endswith("0 files, 0 MB would go\n")
    assert json.loads(run("gc", place, "--json")[1]) == []


def test_bad_images_are_listed(run, tmp_path):
    features = known.filled(tmp_path, 20)
    images = known.listing(range(21))
    images.loc[20, ["state", "reason"]] = ["unreadable", "not an image"]
    features.store.list_images(images)
    rows = {name: known.rows_of(name, range(20)) for name in known.ARRAYS}
    features.write_unit(0, rows, {4: ("truncated", "ends at byte 7")})
    listed = json.loads(run("ls", str(tmp_path), "--bad", "--json")[1])
    assert [(one["row"], one["state"], one["reason"]) for one in listed] == [
        (4, "truncated", "ends at byte 7"),
        (-1, "unreadable", "not an image"),
    ]
    assert "2 images without a feature" in run("ls", str(tmp_path), "--bad")[1]


def test_files_with_the_same_bytes_are_told(run, tmp_path):
    images = known.listing([0, 1, 2, 0, 1])
    images.loc[4, "label"] = "another"
    known.filled(tmp_path, 3).store.list_images(images)
    out = run("ls", str(tmp_path))[1]
    assert "2 files repeat the bytes of another; 1 images have several labels" in out


def test_export_and_import(run, tmp_path):
    known.filled(tmp_path / "a", 1500)
    status, out, _ = run("export", str(tmp_path / "a"), "--to", str(tmp_path / "g.h5"))
    assert status == 0
    assert "h5py" in out
    status, out, _ = run("import", str(tmp_path / "b"), str(tmp_path / "g.h5"), "--json")
    assert status == 0
    assert json.loads(out) == {"key": known.KEY, "images": 1500, "arrays": ["fc", "maps"]}


@pytest.mark.quick
def test_errors_are_one_line(run, tmp_path):
    status, _, err = run("verify", str(tmp_path / "none"))
    assert status == 2
    assert err.startswith("alike: no store at")
    assert err.count("\n") == 1
    known.filled(tmp_path, 10)
    assert run("gc", str(tmp_path), "--drop", "x")[0] == 2
    assert run("ls", str(tmp_path), "--features", "x")[0] == 2
