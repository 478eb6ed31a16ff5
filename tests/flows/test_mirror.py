"""The copy of reports and weights at another place."""

import shutil

import fsspec
import pytest
from changing_set import RIGHT, Place, without_prefect

from alike.extract.errors import BadInput
from alike.flows.mirror import FILE, mirror
from alike.flows.settings import read_pipeline
from alike.flows.unchanged import unchanged_run

NAMES = (
    "decisions.jsonl", "report.html", "reports/1.html", "reports/2.html",
    "weights/ce-1/weights.safetensors",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """An output folder, with files of which there is no copy."""
    for name in (
        *NAMES,
        "weights/ce-1/checkpoint.ckpt",
        "store/a",
        "steps.json",
        "report.html.part",
    ):
        file = tmp_path / "out" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "out"


def silence(line, /, *, level="info"):
    pytest.fail(f"{level}: {line}")


@pytest.mark.quick
def test_what_changed_is_copied_and_what_is_gone_deleted(folder, s3_requests):
    files = fsspec.filesystem("s3")
    files.mkdir("mirrored")
    files.pipe("mirrored/site/reports/of-others.html", b"stays")

    def there():
        files.invalidate_cache()
        found = files.find("mirrored/site")
        return {one.removeprefix("mirrored/site/"): files.cat_file(one).decode() for one in found}

    others = {"reports/of-others.html": "stays"}
    mirror(folder, "s3://mirrored/site/", silence)
    assert there() == {name: name for name in NAMES} | others
    s3_requests.clear()
    mirror(folder, "s3://mirrored/site/", silence)
    assert s3_requests == []
    (folder / "report.html").write_text("another")
    (folder / "reports" / "1.html").unlink()
    (folder / "reports" / "3.html").write_text("new")
    mirror(folder, "s3://mirrored/site/", silence)
    now = {name: name for name in NAMES if name != "reports/1.html"}
    assert there() == now | others | {"report.html": "another", "reports/3.html": "new"}
    put = {one.rpartition("/")[2] for one in s3_requests if one.startswith("put_object")}
    assert put == {"report.html", "3.html"}
    # What somebody deleted there is copied again when something is.
    files.rm("mirrored/site/reports", recursive=True)
    (folder / "report.html").write_text("once more")
    mirror(folder, "s3://mirrored/site/", silence)
    assert there() == now | {"report.html": "once more", "reports/3.html": "new"}
    # What is remembered and cannot be read costs a copy of all.
    (folder / FILE).write_text("{")
    (folder / "report.html").write_text("again")
    mirror(folder, "s3://mirrored/site/", silence)
    assert there()["report.html"] == "again"


@pytest.mark.quick
def test_another_place_gets_all_and_a_failure_is_tried_again(folder, tmp_path):
    said = []
    (tmp_path / "file").write_text("no folder")
    place = f"{tmp_path}/file/x"
    mirror(folder, place, lambda line, /, *, level="info": said.append((line, level)))
    ((line, level),) = said
    assert level == "warning"
    assert f"mirror {place}, the next run tries again" in line
    (tmp_path / "file").unlink()
    mirror(folder, place, silence)
    for to in (tmp_path / "file" / "x", tmp_path / "elsewhere"):
        mirror(folder, str(to), silence)
        assert {one.relative_to(to).as_posix() for one in to.rglob("*") if one.is_file()} == {
            *NAMES
        }
    # A disk that was exchanged.
    shutil.rmtree(tmp_path / "elsewhere")
    mirror(folder, str(tmp_path / "elsewhere"), silence)
    assert (tmp_path / "elsewhere" / "reports" / "1.html").is_file()
    mirror(folder, None, silence)


def test_a_run_copies_and_an_unchanged_one_makes_good(tmp_path, monkeypatch):
    without_prefect(monkeypatch)
    monkeypatch.setattr("alike.extract.images.source.SETTLED", -(10**15))
    place = Place(tmp_path, now={**RIGHT, "measures": ["gap_cosine"], "examples": 1})
    file = place.write_settings("out")
    file.write_text(file.read_text().replace("[output]\n", '[output]\nmirror = "site"\n'))
    monkeypatch.setattr(place, "write_settings", lambda _: file)
    other = file.with_name("other.toml")
    for name in ("out", "out/reports/site", "out/../out/weights", "out/store/copy"):
        other.write_text(file.read_text().replace('"site"', f'"{name}"'))
        with pytest.raises(BadInput, match=f"mirror = '{name}': this is the store, or what is"):
            read_pipeline(other)
    other.write_text(file.read_text().replace('"site"', '"out/site"'))
    assert read_pipeline(other).output.mirror == str(tmp_path / "out" / "site")
    (tmp_path / "site").write_text("no folder")
    place.run("out")
    report = tmp_path / "out" / "report.html"
    said = []
    pipeline = read_pipeline(file)
    assert unchanged_run(pipeline, lambda line, **_: said.append(line)).reused
    assert len(said) == 1
    (tmp_path / "site").unlink()
    assert unchanged_run(pipeline, silence).reused
    assert (tmp_path / "site" / "report.html").read_bytes() == report.read_bytes()
