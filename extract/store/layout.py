"""Where a store lies, and how a group of arrays is made and grown: metadata only."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.store.arrays import TREE, VALID, ArraySpec, create_array, create_valid, spec_of
from alike.extract.store.files import Files, LocalFiles, explain
from alike.extract.store.remote import RemoteFiles

_SAME = ("weights_hash", "transform", "precision")
"""What decides a feature's value: a group never mixes two of any."""


def open_place(url: str, options: Mapping[str, Any]) -> tuple[Files, Any]:
    """Give the files and the Zarr store of a folder or of a URL of fsspec.

    Raises:
        BadInput: no package for this kind of URL is installed.
    """
    from zarr.storage import FsspecStore, LocalStore

    if "://" not in url or url.startswith("file://"):
        root = Path(url.removeprefix("file://")).expanduser()
        return LocalFiles(root), LocalStore(root / TREE)
    import fsspec

    try:
        filesystem, base = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise BadInput(f"{url} cannot be opened: {error}; for s3:// pip install s3fs") from None
    tree = FsspecStore.from_url(f"{url.rstrip('/')}/{TREE}", storage_options=dict(options))
    return RemoteFiles(filesystem, base, url), tree


def moved_along(said: Mapping[str, Any], root: Path | None, names: Sequence[str]) -> dict[str, Any]:
    """Paths that a store remembers, where they are now: a folder may be moved with its store in it.

    Args:
        said: what the store remembers, with ``place``, where it was then.
        root: where it is now, None for a URL.
        names: of the paths; ``file.py:factory`` too. Those that exist are left alone.
    """
    found = dict(said)
    place = None if root is None else root.absolute()
    if place is None or said.get("place") in (None, str(place)):
        return found
    for name in names:
        path, colon, factory = str(said.get(name, "")).rpartition(".py:")
        was = Path(path + ".py" if colon else factory)
        if was.is_absolute() and not was.exists():
            now = Path(os.path.normpath(place / os.path.relpath(was, said["place"])))
            if now.exists():
                found[name] = f"{now}:{factory}" if colon else str(now)
    return {**found, "place": str(place)}


def lay_out(
    files: Files,
    tree: Any,
    key: str,
    extraction: Mapping[str, Any],
    specs: Sequence[ArraySpec],
    n_rows: int,
) -> list[str]:
    """Make the group and its arrays where they are missing, and grow all to `n_rows`.

    Returns:
        Names of the arrays that are new.

    Raises:
        BadInput: the group holds something else under this key or one of these names.
        StoreFull: no room even for this.
    """
    try:
        return _lay_out(files, tree, key, extraction, specs, n_rows)
    except OSError as error:
        raise explain(error, files.url) or error from error


def _lay_out(
    files: Files,
    tree: Any,
    key: str,
    extraction: Mapping[str, Any],
    specs: Sequence[ArraySpec],
    n_rows: int,
) -> list[str]:
    import zarr

    group = zarr.open_group(tree, mode="a", zarr_format=3).require_group(key)
    have = dict(group.attrs)
    wanted = _plain(extraction)
    _check_same(have, wanted, key)
    known: Any = have.get("taps", [])
    attrs = {**wanted, "taps": list(dict.fromkeys([*known, *wanted.get("taps", [])]))}
    if any(have.get(name) != value for name, value in attrs.items()):
        group.attrs.update(attrs)
    present = dict(group.arrays())
    for spec in specs:
        if spec.name in present and spec_of(spec.name, present[spec.name]) != spec:
            raise BadInput(
                f"{key}/{spec.name} holds {spec_of(spec.name, present[spec.name])}, not {spec}"
            )
    added = [spec for spec in specs if spec.name not in present]
    for spec in added:
        create_array(group, spec, n_rows)
    if VALID not in present:
        create_valid(group, n_rows)
    for array in present.values():
        if array.shape[0] < n_rows:
            array.resize((n_rows, *array.shape[1:]))
    arrays = {VALID, *present, *(spec.name for spec in added)}
    for place in (TREE, f"{TREE}/{key}", *(f"{TREE}/{key}/{name}" for name in sorted(arrays))):
        files.sync(f"{place}/zarr.json")
    return [spec.name for spec in added]


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Give a mapping as it comes back from JSON."""
    return dict(json.loads(json.dumps(dict(value))))


def _check_same(have: Mapping[str, Any], wanted: Mapping[str, Any], key: str) -> None:
    for name in _SAME:
        if name in have and have[name] != wanted.get(name):
            raise BadInput(
                f"{key} was extracted with {name} {have[name]!r}, not {wanted.get(name)!r}: "
                "that is another extraction and needs another key"
            )
