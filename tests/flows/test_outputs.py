"""Places that cannot be written, and disks that fill up: one line, soon, nothing half-written."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from changing_set import RIGHT, Place, without_prefect

from alike.analysis import analyse as analysing
from alike.extract.errors import AlikeError, BadInput
from alike.extract.replacing import aside, check_target
from alike.extract.store.files import LocalFiles
from alike.flows import cli, orchestration
from alike.flows import run as whole_run
from alike.flows.cli import main
from alike.flows.orchestration import full_disk, prepare
from alike.flows.outputs import make_output
from alike.index.files import write_faiss


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a store that was run, without its report."""
    with pytest.MonkeyPatch.context() as patch:
        without_prefect(patch)
        patch.setattr(whole_run, "_report", lambda run, before, rounds, path, past: path.touch())
        place = Place(tmp_path_factory.mktemp("run"), now={**RIGHT, "index": "pixel_euclid"})
        assert not isinstance(place.run(), str)
    return place.folder


@pytest.fixture
def alike(place, monkeypatch, capsys):
    """The command line in the folder of `place`: its status, and its one line."""

    def run(*arguments):
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["alike", *map(str, arguments), "--store", "out/store"])
        with pytest.raises(SystemExit) as ended:
            main()
        lines = capsys.readouterr().err.splitlines()
        assert len([line for line in lines if line.startswith("alike: ")]) == 1, lines
        return ended.value.code, lines[-1]

    return run


@contextmanager
def files_of_at_most(size):
    """The disk is full for every file that would grow beyond some bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.name != "lock")


@pytest.mark.parametrize(
    ("command", "most"),
    [
        (("report", "--no-maps", "--no-thumbnails", "--to", "new/page.html"), 100_000),
        (("index", "--rebuild", "--measure", "pixel_euclid"), 10_000),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(command, most, place, alike):
    before = files_in(place / "out")
    with files_of_at_most(most):
        status, line = alike(*command)
    assert status == 1
    assert "File too large; choose another place, or make room there" in line
    assert command[-1] != "new/page.html" or "new/page.html: File too large" in line
    assert files_in(place / "out") == before
    assert not files_in(place / "new") if (place / "new").exists() else True


@pytest.mark.parametrize(
    "command",
    [
        ("report", "--to"), ("map", "--to"), ("export", "--to"),
        ("neighbours", "1", "--measure", "pixel_euclid", "--contact-sheet"),
        ("explain", "1", "--arrays"),
    ],
)  # fmt: skip
def test_an_impossible_file_is_refused_before_the_work(command, place, alike, monkeypatch):
    ending = ".csv" if command[0] in ("map", "export") else ""
    folder, file = place / f"folder{ending}", place / "plain"
    folder.mkdir(exist_ok=True)
    (folder / "kept").touch()
    file.touch()
    monkeypatch.setattr("alike.extract.store.store.Store.open", lambda *_: pytest.fail("began"))
    for target, reason in (
        (folder, "is a folder: name a file in it"),
        (file / f"under{ending}", "is a file, so"),
    ):
        status, line = alike(*command, target)
        assert (status, reason in line) == (2, True), line
    assert (folder / "kept").exists()


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("report", "--to"), "page.pdf"),
        (("neighbours", "1", "--contact-sheet"), "sheet.jpg"),
        (("neighbours", ".", "--to"), "near.csv"),
        (("explain", "1", "--arrays"), "maps.npy"),
    ],
)
def test_a_file_is_not_written_under_the_name_of_another_format(command, file, place, alike):
    status, line = alike(*command, file)
    assert status == 2
    assert f"{file} is written as ." in line
    assert not (place / file).exists()


def test_a_device_a_pipe_and_a_place_without_permission_are_no_targets(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="/dev/full is no plain file"):
        check_target("/dev/full")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="is no plain file"):
        check_target(tmp_path / "pipe")
    with pytest.raises(BadInput, match="is no folder"):
        check_target(tmp_path / "pipe", folder=True)
    check_target(tmp_path / "not" / "there" / "yet")
    check_target(tmp_path, folder=True)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(BadInput, match="cannot be written"):
        check_target(tmp_path / "not" / "there" / "yet")


def test_missing_folders_above_a_file_are_made(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    command = ["alike", "neighbours", "1", "--store", "out/store", "--measure", "pixel_euclid"]
    monkeypatch.setattr(sys, "argv", [*command, "--contact-sheet", "a/b/sheet.png"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert [file.name for file in (place / "a" / "b").iterdir()] == ["sheet.png"]


def test_a_store_that_cannot_be_written_is_noticed_before_the_work(place, alike, monkeypatch):
    read_only = place / "read-only"
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs the right to mount")
    read_only.mkdir()
    mount = ["mount", "--bind", place / "out" / "store", read_only]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", read_only], check=True)
        monkeypatch.setattr(analysing, "network_scores", lambda *_: pytest.fail("computed"))
        monkeypatch.setattr(analysing.Work, "evaluate", lambda *_: pytest.fail("computed"))
        monkeypatch.setattr("alike.index.build._build", lambda *_: pytest.fail("computed"))
        monkeypatch.setattr("alike.analysis.maps.maps.pca", lambda *_: pytest.fail("computed"))
        for command in (
            ("analyse", "--measures", "gap_cosine"),
            ("index", "--rebuild", "--measure", "gap_euclid"),
            ("map",),
        ):
            monkeypatch.setattr(sys, "argv", ["alike", *command, "--store", str(read_only)])
            with pytest.raises(SystemExit) as ended:
                main()
            assert ended.value.code == 2
    finally:
        subprocess.run(["umount", read_only], check=True)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("code", "advice"), [(errno.ESTALE, "mount it again"), (errno.EMFILE, "ulimit -n")]
)
def test_a_mount_that_is_gone_is_one_line(code, advice, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code), "/mnt/photos")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    line = capsys.readouterr().err
    assert (ended.value.code, line.count("\n")) == (1, 1)
    assert f"/mnt/photos: {os.strerror(code)}; " in line
    assert advice in line


@pytest.mark.quick
def test_what_faiss_cannot_write_is_an_error_of_the_disk(tmp_path):
    import faiss

    index = faiss.IndexFlatL2(64)
    index.add(np.zeros((5000, 64), np.float32))
    for target, code in (("/dev/full", errno.ENOSPC), ("/proc/no", None)):
        with pytest.raises((OSError, RuntimeError)) as caught:
            write_faiss(index, target)
        if code is not None:
            assert (caught.value.errno, caught.value.filename) == (code, target)


def test_outputs_in_the_folder_of_the_images_change_nothing(tmp_path, monkeypatch):
    """A run whose explanations lie among its images gives what one beside them gives."""
    without_prefect(monkeypatch)
    place = Place(tmp_path, now={**RIGHT, "measures": ["gap_cosine"], "examples": 1})
    write, names = place.write_settings, {"inside": "set/alike-out"}

    def inside(folder):
        file = write(folder)
        file.write_text(file.read_text().replace(f'"{folder}"', f'"{names.get(folder, folder)}"'))
        return file

    monkeypatch.setattr(place, "write_settings", inside)
    assert isinstance(place.run("inside"), dict)
    assert list((tmp_path / "set/alike-out").rglob("*.png"))
    place.add(place.files()[0].parent.name)
    tables, fresh = place.run("inside"), place.run("beside")
    assert tables.keys() == fresh.keys() >= {"scores", "neighbours"}
    for name, table in fresh.items():
        pd.testing.assert_frame_equal(tables[name], table, rtol=0, atol=0, obj=name)


@pytest.mark.quick
def test_places_that_the_system_does_not_give_links_to_nothing_and_urls_are_no_targets(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for target, reason in (
        ("/proc/x/y.json", "/proc cannot be written"),
        (tmp_path / "gone" / "y.json", "is a link to nothing"),
        ("s3://bucket/y.json", "is a URL"),
    ):
        with pytest.raises(BadInput, match=reason):
            check_target(target)
    with aside(tmp_path / f"{'n' * 250}.txt") as part:
        part.touch()
    assert (tmp_path / f"{'n' * 250}.txt").exists()
    with pytest.raises(BadInput, match="cannot be made"):
        LocalFiles(Path("/proc/x/store")).write("store.json", b"")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [(errno.ENOSPC, 1, "make room there"), (errno.EROFS, 2, "cannot be written")],
)
def test_a_full_disk_is_no_wrong_place(code, status, advice, tmp_path, monkeypatch, capsys):
    """For the output folder and Prefect's, and for files of a store that became read-only."""

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        for work in (lambda: make_output(tmp_path / "out"), lambda: prepare(tmp_path)):
            patch.setattr(cli, "app", lambda work=work, **_: work())
            with pytest.raises(SystemExit) as ended:
                cli.main()
            line = capsys.readouterr().err
            assert (ended.value.code, advice in line) == (status, True), line
    files = LocalFiles(tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(AlikeError, match=r"cannot be written|no room for more"):
        files.write("store.json", b"")


@pytest.mark.quick
def test_prefect_on_a_full_disk_is_told_as_that(tmp_path, monkeypatch):
    """Its server answers with status 500 then, and says no reason."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert full_disk(tmp_path / "not there") == ""
    monkeypatch.setattr(orchestration, "NO_DISK", 2**62)
    assert f"the disk of {tmp_path} is full: make room" in full_disk(tmp_path / "not there")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("demo", "--to", ""), "'--to': an empty name"),
        (("run", ""), "an empty name"),
        (("runs", "plot", "x", "--to", ""), "'--to': an empty name"),
        (("retrain", "--to", ""), "'--to': an empty name"),
        (("twins", "--store", "x", "--no-search", "--cluster", "2"), "--cluster 2 is for"),
    ],
)
def test_an_empty_name_and_an_option_without_effect_are_refused(command, line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["alike", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n"), line in said) == (2, 1, True), said
