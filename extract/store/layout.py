"""Where a store lies, and how a group of arrays is made and grown: metadata only."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.store.arrays import TREE, VALID, ArraySpec, create_array, create_valid, spec_of
from alike.extract.store.files import Files, LocalFiles, disk_errors
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
        group = zarr.open_group(tree, mode="a", zarr_format=3).require_group(key)
        stored = dict(group.attrs)
        described = _plain(extraction)
        _check_same(stored, described, key)
        taps: Any = stored.get("taps", [])
        attrs = {**described, "taps": list(dict.fromkeys([*taps, *described.get("taps", [])]))}
        if any(stored.get(name) != value for name, value in attrs.items()):
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


def _check_same(stored: Mapping[str, Any], described: Mapping[str, Any], key: str) -> None:
    for name in _SAME:
        if name in stored and stored[name] != described.get(name):
            raise BadInput(
                f"{key} was extracted with {name} {stored[name]!r}, not {described.get(name)!r}: "
                "that is another extraction and needs another key"
            )
