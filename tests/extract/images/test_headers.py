"""Headers of a tar are remembered by its stamp; a listing is that of a tar never seen before."""

import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pandas as pd
import pytest
from images import past_of

from alike.extract.documents import read_npz
from alike.extract.errors import BadInput
from alike.extract.images import open_source, remembered
from alike.extract.images.headers import KEPT_FROM
from alike.extract.images.listing import list_source
from alike.extract.images.remembered import same_listing
from alike.extract.places import KEPT_DAYS, cache_folder

N = KEPT_FROM
ODD = {
    "a/b/" + "long" * 60 + ".png": b"of a long name",
    "cat/\udcff.png": b"of a name that is no UTF-8",
    "katze/größe.png": b"umlaut",
    "twice.png": b"first",
    "seg.mask.png": b"beside its image",
    "seg.png": b"image",
    "seg.json": b'{"label": "cat"}',
    "__MACOSX/x.png": b"left out",
    ".hidden.png": b"left out",
    "broken.png": b"x",
    "broken.json": b"{",
    "notes.xyz": b"no image",
    "empty.png": b"",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("alike.extract.images.source.SETTLED", -(10**15))
    return tmp_path / "cache/alike/tars"


def images(n: int, changed: int | None = None) -> list[tuple[str, bytes]]:
    rows = [(f"{number:04}", number == changed) for number in range(n)]
    pairs = [((f"{a}.png", b"%s%d" % (a.encode(), b)), (f"{a}.cls", b"%d" % b)) for a, b in rows]
    return [one for pair in pairs for one in pair]


def write(file: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(file, "w") as tar:
        folder = tarfile.TarInfo("cat")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def listing(spec: str, past: remembered.PastListing | None = None) -> tuple[pd.DataFrame, Any]:
    source = open_source(spec)
    return list_source(source, past=past), source.notes


@pytest.mark.quick
@pytest.mark.parametrize("broken", ["", "empty", "torn", "altered", "no archive", "a folder"])
def test_what_is_kept_gives_what_the_headers_give(tmp_path: Path, cache: Path, broken: str) -> None:
    file = tmp_path / "set.tar"
    write(file, [*ODD.items(), ("twice.png", b"second"), *images(N)])
    first, notes = listing(str(file))
    assert len(first) == N + 7
    assert "1 files of a name that comes again" in " ".join(notes)
    past = past_of(first)
    (kept,) = cache.iterdir()
    data = kept.read_bytes()
    assert read_npz(data, "", "")["place"].tobytes().decode() == str(file)
    middle = len(data) // 2
    ways = {
        "empty": b"",
        "torn": data[:middle],
        "altered": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "no archive": b"nothing of the kind",
    }
    if broken == "a folder":
        kept.unlink()
        kept.mkdir()
    elif broken:
        kept.write_bytes(ways[broken])
    again, said = listing(str(file), past)
    pd.testing.assert_frame_equal(again, first)
    assert said == notes
    source = open_source(str(file))
    assert source.read("set.tar/twice.png") == b"second"
    assert source.read("set.tar/empty.png") == b""
    assert same_listing(source, past) == ""
    if broken != "a folder":
        assert kept.read_bytes()[:2] == b"PK"


def test_headers_are_not_read_twice(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless all is to be read, or the tar is another one, or small."""
    read = []
    opened = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: (read.append(1), opened(*a, **k))[1])
    file = tmp_path / "set.tar"
    write(file, images(N))
    read.clear()
    first, _ = listing(str(file))
    assert len(read) == 1
    listing(str(file), past_of(first))
    assert len(read) == 1
    listing(str(file))
    assert len(read) == 2
    write(file, images(N, changed=70))
    read.clear()
    changed, _ = listing(str(file), past_of(first))
    assert len(read) == 1
    assert len(list(cache.iterdir())) == 1
    fresh, _ = listing(str(file))
    pd.testing.assert_frame_equal(changed, fresh)
    assert changed["label"][70] == "1"
    small = tmp_path / "small.tar"
    write(small, images(10))
    listing(str(small))
    assert len(list(cache.iterdir())) == 1


def test_a_change_that_no_stamp_tells_is_found_with_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image that is due shows it; then nothing that was remembered is used."""
    stamp = (1, 2, 3, 4)
    monkeypatch.setattr("alike.extract.images.tar.stamp_of_container", lambda place: stamp)
    file = tmp_path / "set.tar"
    write(file, images(N))
    first, _ = listing(str(file))
    # All images lie elsewhere, and some are called otherwise.
    write(file, [("before.png", b"x" * 5000), *images(N - 3)])
    found, _ = listing(str(file), past_of(first))
    fresh, _ = listing(str(file))
    assert found.attrs["silent"] > 0
    assert found.to_dict() == fresh.to_dict()
    assert found["path"][0] == "set.tar/before.png"


@pytest.mark.quick
def test_links_of_a_tar_are_files_or_are_told(tmp_path: Path) -> None:
    """As a folder of the same files has them; also where the headers were kept."""
    file = tmp_path / "set.tar"
    write(file, images(N))
    with tarfile.open(file, "a") as tar:
        for name, kind, to in [
            ("hard.png", tarfile.LNKTYPE, "0003.png"),
            ("cat/soft.png", tarfile.SYMTYPE, "../0004.png"),
            ("cat/chain.png", tarfile.SYMTYPE, "soft.png"),
            ("loop.png", tarfile.SYMTYPE, "loop.png"),
            ("outside.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("before.png", tarfile.LNKTYPE, "later.png"),
            ("later.png", tarfile.SYMTYPE, "0005.png"),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, to
            tar.addfile(info)
    for _ in range(2):
        source = open_source(str(file))
        assert len(list(source)) == N + 4
        links = {"hard": 3, "cat/soft": 4, "cat/chain": 4, "later": 5}
        for name, number in links.items():
            of = source.read(f"set.tar/{number:04}.png")
            assert source.read(f"set.tar/{name}.png") == of
        assert "3 links of tars are left out: they lead to no file of their tar" in source.notes
    fsspec.filesystem("memory").pipe_file("/links/set.tar", file.read_bytes())
    remote = open_source("memory://links/set.tar")
    assert all(remote.read(one.path) == source.read(one.path) for one in remote)


@pytest.mark.quick
def test_a_tar_that_ends_too_early_is_told(tmp_path: Path) -> None:
    """Python's reader takes a damaged header, and the end of the first of two, for the end."""
    file, other = tmp_path / "set.tar", tmp_path / "other.tar"
    write(file, [(f"cat/{number}.png", b"%d" % number) for number in range(4)])
    data = file.read_bytes()
    with tarfile.open(file) as tar:
        third = tar.getmember("cat/2.png").offset
    for broken in (data[: third + 100], data[:third] + b"\xff" * 100 + data[third + 100 :]):
        other.write_bytes(broken)
        with pytest.raises(BadInput, match=f"the header at byte {third} is damaged"):
            list(open_source(str(other)))
    other.write_bytes(data[:third])
    source = open_source(str(other))
    assert len(list(source)) == 2
    assert source.notes[-1].startswith("tars without the mark of their end: other.tar;")
    other.write_bytes(data + data)
    source = open_source(str(other))
    assert len(list(source)) == 4
    assert source.notes[-1].startswith("bytes behind the end of a tar are not read: of other.tar;")


@pytest.mark.skipif(sys.platform != "linux", reason="needs GNU tar")
def test_a_sparse_file_of_a_tar_is_told(tmp_path: Path) -> None:
    """Its bytes lie in pieces: those at its place are another image."""
    image = tmp_path / "cat.png"
    with image.open("wb") as opened:
        opened.write(b"x" * 4096)
        opened.seek(2**20)
        opened.write(b"y" * 4096)
    command = ["tar", "--sparse", "-cf", "set.tar", "cat.png", "cat.png"]
    subprocess.run(command, cwd=tmp_path, check=True)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/sparse/set.tar", (tmp_path / "set.tar").read_bytes())
    for spec in (str(tmp_path / "set.tar"), "memory://sparse/set.tar"):
        listed = list_source(open_source(spec))
        assert listed["reason"].tolist() == ["a sparse file: pack its tar without --sparse"]


@pytest.mark.quick
def test_stamps_of_64_bits_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network filesystems give."""
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/0.png").write_bytes(b"x")
    write(tmp_path / "set.tar", images(N))
    real = os.stat

    def stat(file: Any, *given: Any, **more: Any) -> Any:
        status = real(file, *given, **more)
        numbers = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        numbers |= {"st_ino": 2**64 - 3, "st_mtime_ns": -(10**20)}
        return SimpleNamespace(**numbers)

    monkeypatch.setattr("alike.extract.images.source.os.stat", stat)
    for spec in ("photos", "set.tar"):
        first, _ = listing(str(tmp_path / spec))
        assert same_listing(open_source(str(tmp_path / spec)), past_of(first)) == ""


@pytest.mark.quick
def test_a_user_without_a_home_has_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    write(tmp_path / "set.tar", images(N))
    assert len(list(open_source(str(tmp_path / "set.tar")))) == N
    with pytest.raises(BadInput, match="no home folder: name one by XDG_CACHE_HOME"):
        cache_folder()


def test_headers_that_nobody_read_for_long_are_deleted(tmp_path: Path, cache: Path) -> None:
    then = time.time() - (KEPT_DAYS + 1) * 86400
    for name in ("used.tar", "unused.tar"):
        write(tmp_path / name, images(N))
        listing(str(tmp_path / name))
        for kept in cache.iterdir():
            os.utime(kept, (then, then))
    half = cache / f".{'0a' * 16}.h1fw"
    half.mkdir()
    # No file of ours, such as a folder that somebody moved here.
    (cache / "photos").mkdir()
    for one in (half, cache / "photos"):
        os.utime(one, (then, then))
    listing(str(tmp_path / "used.tar"))
    (used,) = (one for one in cache.iterdir() if time.time() - one.stat().st_mtime < 3600)
    write(tmp_path / "new.tar", images(N))
    listing(str(tmp_path / "new.tar"))
    assert {used, cache / "photos"} < set(cache.iterdir())
    assert len(list(cache.iterdir())) == 3


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    file = tmp_path / "set.tar"
    write(file, images(N))
    first, _ = listing(str(file))
    again, _ = listing(str(file), past_of(first))
    pd.testing.assert_frame_equal(again, first)


def test_an_unchanged_tar_at_a_url_is_asked_for_its_etag_alone(
    tmp_path: Path, s3_requests: list[str]
) -> None:
    """Images far from each other are one request each; those that are read in order share them."""
    files = fsspec.filesystem("s3")
    files.mkdir("tar-headers")
    file = tmp_path / "set.tar"
    write(file, images(300))
    files.put_file(str(file), "tar-headers/set.tar")
    spec = "s3://tar-headers/set.tar"
    s3_requests.clear()
    first, _ = listing(spec)
    assert len(s3_requests) < 10
    past = past_of(first)
    due = [one for one in first["path"] if remembered.is_due(one, 1)]
    assert due
    s3_requests.clear()
    assert same_listing(open_source(spec), past) == ""
    assert s3_requests == ["head_object set.tar", *["get_object set.tar"] * len(due)]
    source = open_source(spec)
    local = open_source(str(file))
    assert [one.path for one in source] == [one.path for one in local]
    for path in first["path"][::50]:
        assert source.read(path) == local.read(path)
    # A new object of the same length.
    write(file, images(300, changed=200))
    files.put_file(str(file), "tar-headers/set.tar")
    assert same_listing(open_source(spec), past) == "a label changed"
    changed, _ = listing(spec, past)
    fresh, _ = listing(spec)
    pd.testing.assert_frame_equal(changed, fresh)
    assert changed["label"][200] == "1"


def test_a_storage_that_gives_more_than_was_asked_for_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers answer a wish for a part with the whole."""
    file = tmp_path / "set.tar"
    write(file, images(3))
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/headers/set.tar", file.read_bytes())
    source = open_source("memory://headers/set.tar")
    assert [source.read(one.path) for one in source] == [b"00000", b"00010", b"00020"]
    whole = type(memory).cat_file
    monkeypatch.setattr(type(memory), "cat_file", lambda self, path, **ends: whole(self, path))
    size = os.path.getsize(file)  # noqa: PTH202
    says = f"set.tar: {size} bytes came where 5 were asked for: its server sends whole files only"
    with pytest.raises(BadInput, match=says):
        list_source(source)
