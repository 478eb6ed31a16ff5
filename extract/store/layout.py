"""Where a store lies, and how a group of arrays is made and grown: metadata only."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alike.extract.errors import AlikeError, BadInput, StoreDamaged, StoreUnreachable
from alike.extract.identity import is_name
from alike.extract.places import expanded
from alike.extract.secrets import masked
from alike.extract.store.arrays import (
    TREE,
    VALID,
    ArraySpec,
    check_free,
    create_array,
    create_valid,
    described_otherwise,
)
from alike.extract.store.events import Event, note
from alike.extract.store.files import Files, LocalFiles, disk_errors
from alike.extract.store.metadata import (
    META,
    read_array,
    read_attributes,
    root_fault,
    sealed_attributes,
)
from alike.extract.store.remote import RemoteFiles

_SCHEMA = "alike-store/1"
KEPT = "before-upgrade"
"""Folder of the files that an upgrade replaces, until the whole store has verified."""
OF_A_PROGRAM = (TypeError, AttributeError, NameError, LookupError, AssertionError)
_SAME = ("weights_hash", "transform", "precision")
"""What decides a feature's value: a group never mixes two of any."""


def open_place(url: str, options: Mapping[str, Any]) -> tuple[Files, Any]:
    """Give the files and the Zarr store of a folder or of a URL of fsspec.

    Raises:
        BadInput: an empty name, options of a folder, or no package for this kind of URL.
    """
    from zarr.storage import FsspecStore, LocalStore

    if not url:
        # As of a variable that is not set: it would be the folder that the process is in.
        raise BadInput("an empty name of a store: name a folder or a URL; `.` is the folder here")
    remote = remote_files(url, **options)
    if remote is None:
        if options:
            names = ", ".join(options)
            raise BadInput(f"{url} is a folder, which has no options; given are: {names}")
        root = expanded(url.removeprefix("file://"))
        return LocalFiles(root), LocalStore(root / TREE)
    tree = FsspecStore.from_url(f"{url.rstrip('/')}/{TREE}", storage_options=dict(options))
    return remote, tree


def is_url(place: str) -> bool:
    """Whether a store's place is a URL of fsspec, not a folder here."""
    return "://" in place and not place.startswith("file://")


def remote_files(url: str, **options: Any) -> RemoteFiles | None:
    """Give the files at a URL of fsspec, whether a store is there or not; None of a folder.

    Raises:
        BadInput: no package for this kind of URL is installed.
    """
    if not is_url(url):
        return None
    import fsspec

    if not url.partition("://")[2].strip("/") and not url.startswith("memory://"):
        raise BadInput(f"{url} names no place: expected one such as s3://bucket/photos.store")
    try:
        filesystem, base = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise BadInput(f"{url} cannot be opened: {error}; for s3:// pip install s3fs") from None
    return RemoteFiles(filesystem, base, url)


@contextmanager
def answering(place: str) -> Iterator[None]:
    """Turn what a client of a storage raises while a store is opened into one line.

    Each has errors of its own, of classes that nobody has who did not install it.

    Raises:
        StoreUnreachable: from the client's error.
    """
    try:
        yield
    except (AlikeError, FileNotFoundError, NotADirectoryError):
        raise
    except Exception as error:
        # A fault of a program is no answer of a storage.
        if not is_url(place) or isinstance(error, OF_A_PROGRAM):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreUnreachable(
            f"{masked(place)} cannot be reached: {masked(reason)}; is the address right, does its "
            "server run, and are credentials and region given?"
        ) from error


def moved_along(
    attrs: Mapping[str, Any], root: Path | None, names: Sequence[str]
) -> dict[str, Any]:
    """Paths that a store remembers, as they are now: a folder may be moved with its store in it.

    Args:
        attrs: what the store remembers, with ``place``, where it was then.
        root: where it is now, None for a URL.
        names: of the paths; ``file.py:factory`` too. Those that exist are left alone.
    """
    moved = dict(attrs)
    place = None if root is None else root.absolute()
    if place is None or attrs.get("place") in (None, str(place)):
        return moved
    for name in names:
        path, colon, factory = str(attrs.get(name, "")).rpartition(".py:")
        old = Path(path + ".py" if colon else factory)
        if old.is_absolute() and not old.exists():
            new = Path(os.path.normpath(place / os.path.relpath(old, attrs["place"])))
            if new.exists():
                moved[name] = f"{new}:{factory}" if colon else str(new)
    return {**moved, "place": str(place)}


def lay_out(
    files: Files,
    tree: Any,
    key: str,
    extraction: Mapping[str, Any],
    specs: Sequence[ArraySpec],
    n_rows: int,
) -> list[str]:
    """Make the group and its arrays if they are missing, and grow all to `n_rows`.

    Returns:
        Names of the arrays that are new.

    Raises:
        BadInput: the group holds something else under this key or one of these names.
        StoreFull: no room even for this.
    """
    import zarr

    with disk_errors(files.url):
        _mend_root(files)
        root = zarr.open_group(tree, mode="a", zarr_format=3)
        root.attrs.update({"schema": root.attrs.get("schema", _SCHEMA)})
        described = _plain(extraction)
        attrs, listed = _stored_attributes(files, key)
        _check_same(attrs or {}, described, key)
        present = _present_arrays(files, tree, key, listed)
        for spec in specs:
            if present.get(spec.name, spec) != spec:
                raise BadInput(f"{key}/{spec.name} holds {present[spec.name]}, not {spec}")
        added = [spec for spec in specs if spec.name not in present]
        lost = [spec for name, spec in listed.items() if name not in present]
        for spec in added:
            if spec.name not in listed:
                check_free(spec.name)
        all_specs = {**present, **{spec.name: spec for spec in [*lost, *added]}}
        stored_taps: Any = (attrs or {}).get("taps", [])
        taps = list(dict.fromkeys([*stored_taps, *described.get("taps", [])]))
        wanted = sealed_attributes(key, {**(attrs or {}), **described, "taps": taps}, all_specs)
        fresh = attrs is None
        group: Any = root.create_group(key, attributes=wanted) if fresh else root[key]
        for spec in dict.fromkeys([*added, *lost]):
            create_array(group, spec, n_rows)
        if VALID not in present:
            create_valid(group, n_rows)
        if dict(group.attrs) != wanted:
            group.attrs.put(wanted)
        for name in present:
            array = zarr.open_array(tree, path=f"{key}/{name}", mode="r+", zarr_format=3)
            if array.shape[0] < n_rows:
                array.resize((n_rows, *array.shape[1:]))
        arrays = {VALID, *all_specs}
        for place in (TREE, f"{TREE}/{key}", *(f"{TREE}/{key}/{name}" for name in sorted(arrays))):
            files.sync(f"{place}/{META}")
        return [spec.name for spec in added]


def check_fits(
    files: Files, key: str, extraction: Mapping[str, Any], specs: Sequence[ArraySpec]
) -> None:
    """Refuse what `lay_out` would refuse, before anything is written: `BadInput`."""
    attrs, _ = _stored_attributes(files, key, mend=False)
    _check_same(attrs or {}, _plain(extraction), key)
    for spec in specs:
        stored = read_array(files, key, spec.name)
        if stored is not None and stored != spec:
            raise BadInput(f"{key}/{spec.name} holds {stored}, not {spec}")


def _mend_root(files: Files) -> None:
    if root_fault(files) not in ("", "is missing"):
        _take_away(files, "", f"{TREE}/{META}")


def _stored_attributes(
    files: Files, key: str, *, mend: bool = True
) -> tuple[dict[str, Any] | None, dict[str, ArraySpec]]:
    """Give a group's attributes and the arrays that they list; None if they are to be written.

    The key holds the hashes of weights and preprocessing, so a run of this key knows them all:
    damaged attributes go, and are written anew.
    """
    try:
        attrs, listed, _ = read_attributes(files, key)
    except FileNotFoundError:
        return None, {}
    except StoreDamaged as error:
        if not mend:
            return None, {}
        _take_away(files, key, error.file)
        return None, {}
    return attrs, listed


def _present_arrays(
    files: Files, tree: Any, key: str, listed: Mapping[str, ArraySpec]
) -> dict[str, ArraySpec]:
    """Give the arrays that are there; what describes one wrongly goes, and is written anew."""
    present = {}
    for name in files.folders(f"{TREE}/{key}"):
        if not is_name(name):
            continue
        try:
            spec = read_array(files, key, name)
        except StoreDamaged as error:
            _take_away(files, key, error.file)
            continue
        wrong = spec is not None and (
            spec != listed.get(name, spec) or described_otherwise(tree, key, spec)
        )
        if wrong:
            _take_away(files, key, f"{TREE}/{key}/{name}/{META}")
        elif spec is not None:
            present[name] = spec
    return present


def _take_away(files: Files, key: str, place: str) -> None:
    files.remove(place)
    note(files, Event("mended", key, f"{place} was damaged and is written anew"))


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Give a mapping as it comes back from JSON."""
    return dict(json.loads(json.dumps(dict(value))))


def _check_same(stored: Mapping[str, Any], described: Mapping[str, Any], key: str) -> None:
    for name in _SAME:
        if name in stored and stored[name] != described.get(name):
            raise BadInput(
                f"{key} was extracted with {name} {stored[name]!r}, not {described.get(name)!r}: "
                "that is another extraction and needs another key"
            )
