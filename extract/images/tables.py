"""Images named by a table: a CSV or Parquet manifest of paths, or Parquet with the images in it."""

import json
import posixpath
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from alike.extract.errors import BadImage, BadInput
from alike.extract.images.source import (
    ImageSource,
    Listed,
    check_bytes,
    filesystem_of,
    one_line,
    read_local,
    read_url,
)

OPEN_GROUPS = 4
"""Row groups of a Parquet file kept in memory."""


def open_table(
    spec: str,
    path: str = "path",
    label: str = "label",
    root: str = "",
    image: str = "image",
    group: str = "",
) -> ImageSource:
    """Open a manifest, or Parquet with embedded images.

    Args:
        spec: .csv or .parquet, a path or a URL of any fsspec filesystem.
        path: column of paths or URLs; relative ones start at `root`.
        label: column of class names; may be missing.
        root: folder or URL of relative paths; "" for the manifest's own folder.
        image: column of embedded images: bytes, or a struct with the field ``bytes``.
        group: column of what images share that must stand on the same side of the split; "" for
            none.

    Raises:
        BadInput: not readable, or it has neither column, or none of the group.
    """
    with _Readable(spec):
        filesystem, name = filesystem_of(spec)
    given = {"path": path, "label": label, "root": root, "image": image, "group": group}
    defaults = {"path": "path", "label": "label", "root": "", "image": "image", "group": ""}
    options = {key: value for key, value in given.items() if value != defaults[key]}
    if spec.lower().endswith(".parquet"):
        import pyarrow.parquet as pq

        with _Readable(spec):
            file = pq.ParquetFile(filesystem.open(name, "rb"))
        if path not in file.schema_arrow.names:
            return EmbeddedSource(_absolute(spec), options, file, image, label)
        table = file.read([c for c in (path, label, group) if c in file.schema_arrow.names])
        columns = {c: table[c].to_pylist() for c in table.column_names}
    else:
        import pandas as pd

        with _Readable(spec), filesystem.open(name, "rb") as opened:
            # As text: a class named "1" or "NA" stays what it is.
            frame = pd.read_csv(opened, dtype=str, keep_default_na=False)
        columns = {str(c): frame[c].tolist() for c in frame.columns}
    if path not in columns:
        raise BadInput(f"manifest {spec} has columns {', '.join(columns)}; none is {path!r}")
    base = root or posixpath.dirname(_absolute(spec))
    names = [columns.get(label), columns[_group(group, columns, spec)] if group else None]
    return ManifestSource(_absolute(spec), options, columns[path], names, base)


def _group(name: str, columns: Iterable[str], spec: str) -> str:
    if name not in columns:
        raise BadInput(f"{spec} has columns {', '.join(columns)}: none is {name!r} for the groups")
    return name


class ManifestSource:
    """Files named one by one, anywhere that fsspec reads."""

    def __init__(
        self,
        spec: str,
        options: dict[str, Any],
        paths: list[str],
        names: Sequence[list[Any] | None],
        base: str,
    ) -> None:
        self.spec, self.options = spec, options
        self._paths, self._base = paths, base
        # Labels, then groups.
        nobody = [None] * len(paths)
        self._labels, self._groups = (nobody if one is None else one for one in names)

    def __iter__(self) -> Iterator[Listed]:
        """In the manifest's order."""
        for path, label, group in zip(self._paths, self._labels, self._groups, strict=True):
            yield Listed(str(path), text_or_none(label), text_or_none(group))

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        is_whole = "://" in path or path.startswith("/")
        place = path if is_whole else f"{self._base}/{path}"
        return read_url(place) if "://" in place else read_local(Path(place))


def text_or_none(name: Any) -> str | None:
    """A name of a table's cell; an empty one is none."""
    return None if name in (None, "") else str(name)


class EmbeddedSource:
    """Images inside a Parquet file; a path is the number of the row.

    Row groups are read as they are needed, `OPEN_GROUPS` at a time, so memory is theirs.
    """

    def __init__(
        self, spec: str, options: dict[str, Any], file: Any, image: str, label: str
    ) -> None:
        names = file.schema_arrow.names
        if image not in names:
            raise BadInput(
                f"{spec} has columns {', '.join(names)}: no column of paths and none of images "
                f"named {image!r}; name one with the options path or image"
            )
        self.spec, self.options = spec, options
        self._file, self._image = file, image
        self._label = label if label in names else None
        group = str(options.get("group", ""))
        self._group_name = _group(group, names, spec) if group else None
        groups = range(file.num_row_groups)
        sizes = [file.metadata.row_group(group).num_rows for group in groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._lock = threading.Lock()
        self._group = lru_cache(OPEN_GROUPS)(self._read_group)

    def __iter__(self) -> Iterator[Listed]:
        """In the order of rows."""
        labels: Any = [None] * int(self._starts[-1])
        if self._label is not None:
            labels = self._file.read([self._label])[self._label].to_pylist()
        names = class_names(self._file.schema_arrow.metadata, self._label or "")
        groups: Any = [None] * len(labels)
        if self._group_name is not None:
            groups = self._file.read([self._group_name])[self._group_name].to_pylist()
        for row, (label, group) in enumerate(zip(labels, groups, strict=True)):
            name = names[label] if isinstance(label, int) and 0 <= label < len(names) else label
            yield Listed(f"{row:08d}", None if name is None else str(name), text_or_none(group))

    def _read_group(self, group: int) -> Any:
        return self._file.read_row_group(group, columns=[self._image])[self._image]

    def read(self, path: str) -> bytes:
        """The stored bytes of a row."""
        if not path.isdigit() or int(path) >= self._starts[-1]:
            raise BadImage("unreadable", f"no row {path}")
        row = int(path)
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        try:
            with self._lock:
                value = self._group(group)[row - int(self._starts[group])].as_py()
        # Damaged pages make Arrow raise OSError or ArrowInvalid, a filesystem any type of its own.
        except Exception as error:
            raise BadImage("unreadable", one_line(error)) from error
        return embedded_bytes(value)


def class_names(metadata: Mapping[bytes, bytes] | None, label: str) -> list[str]:
    """Names of integer labels that Hugging Face `datasets` writes into a schema; [] if none."""
    written = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    features = (written.get("info") or {}).get("features") or {}
    names: list[str] = (features.get(label) or {}).get("names") or []
    return names


def embedded_bytes(value: Any) -> bytes:
    """Bytes of an embedded image: bytes, or a struct with the field ``bytes``.

    Raises:
        BadImage: empty, or no bytes.
    """
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise BadImage("unreadable", "no bytes in this row")
    check_bytes(len(data))
    return data


def _absolute(spec: str) -> str:
    return spec if "://" in spec else posixpath.abspath(posixpath.expanduser(spec))


class _Readable:
    """Turns what a reader of tables raises into one line."""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        # Every filesystem raises its own errors: no credentials, an unknown protocol…
        if isinstance(error, Exception):
            raise BadInput(f"manifest {self.spec} cannot be read: {one_line(error)}") from error
