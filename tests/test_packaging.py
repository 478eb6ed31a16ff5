"""What is built: everything of `alike/`, nothing beside it, and never an empty package."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("analysis", "extract", "flows", "index", "serve", "train")
BESIDE_CODE = {".css", ".js", ".html", ".pyi", ".svg", ".typed"}


def sources():
    """Path in the package of every file that belongs into it."""
    files = [path for path in (ROOT / "alike").iterdir() if path.is_file()]
    files += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    wanted = [path for path in files if path.suffix in BESIDE_CODE | {".py"} and path.is_file()]
    names = {path.relative_to(ROOT).as_posix().removeprefix("alike/") for path in wanted}
    return {f"alike/{name}" for name in names}


def build(checkout, kind, out):
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_alike_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert names == sources()
    assert "alike/extract/store/store.py" in names
    assert "alike/extract/store/__init__.pyi" in names
    assert {Path(name).suffix for name in names} == BESIDE_CODE | {".py"}


def test_the_sdist_holds_alike_and_nothing_else(checkout, tmp_path):
    done = build(checkout, "sdist", tmp_path)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as file:
        assert not any(member.issym() or member.islnk() for member in file.getmembers())
        names = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
        file.extractall(tmp_path, filter="data")
    assert {name for name in names if name.startswith("alike/")} == sources()
    assert not {name for name in names if name.endswith((".py", ".pyi"))} - sources() - {"setup.py"}
    # What is installed from the sdist is what is installed from a checkout.
    done = build(next(tmp_path.glob("alike-*/")), "wheel", tmp_path)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as file:
        assert {name for name in file.namelist() if ".dist-info/" not in name} == sources()


@pytest.mark.parametrize("kind", ["wheel", "editable", "sdist"])
def test_links_that_became_text_files_are_refused(copy_checkout, kind, tmp_path):
    checkout = copy_checkout(tmp_path / "flat")
    for folder in FOLDERS:
        link = checkout / "alike" / folder
        link.unlink()
        link.write_text(f"../{folder}")
    done = build(checkout, kind, tmp_path)
    assert done.returncode != 0
    said = done.stderr.strip().splitlines()[-1]
    assert "alike/analysis is no link" in said
    assert "git config core.symlinks true" in said
    assert not list(tmp_path.glob("*.whl"))


def test_the_wheel_runs_where_it_is_unpacked(installed, tmp_path):
    code = f"""
import alike, importlib.resources, sys
from alike.flows.cli import main
assert alike.__file__.startswith({str(installed)!r}), alike.__file__
for place, name in (
    ("alike", "py.typed"), ("alike", "__init__.pyi"), ("alike.extract.store", "__init__.pyi"),
    ("alike.analysis.report", "report.css"), ("alike.analysis.report", "report.js"),
    ("alike.analysis.report", "shown.js"), ("alike.serve", "static/icon.svg"),
    ("alike.serve", "static/page.html"), ("alike.serve", "static/page.css"),
    ("alike.serve", "static/main.js"), ("alike.serve", "static/reference.css"),
):
    assert importlib.resources.files(place).joinpath(name).is_file(), (place, name)
sys.argv = ["alike", "list", "measures"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "gap_cosine" in done.stdout


@pytest.mark.quick
def test_one_version(installed):
    import alike

    metadata = next(installed.glob("alike-*.dist-info")).joinpath("METADATA").read_text()
    assert f"\nVersion: {alike.__version__}\n" in metadata
