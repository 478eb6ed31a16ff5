"""A folder that Hugging Face `datasets` saved with ``save_to_disk``, read without that library."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.errors import BadImage, BadInput
from alike.extract.images.labels import LabelRule, shared_name
from alike.extract.images.source import (
    ImageSource,
    Listed,
    Stamp,
    local_path,
    one_line,
    read_local,
    stamp_of_container,
)
from alike.extract.images.tables import (
    cells,
    check_columns,
    embedded_bytes,
    names_in,
    no_label_note,
    tells_names,
)


class SavedSource:
    """Rows of the Arrow files of one split, memory-mapped; a path is the number of the row.

    Args:
        folder: with ``dataset_info.json``, ``state.json`` and ``data-*.arrow``.
        spec: what was given, for the store.
        options: that were given.
        image: column of images: a struct of bytes and path, or bytes.
        label: column of classes; integers get the names that the dataset gives them.
        first_label: what to do with several labels of one image; see `LabelRule`.
        group: column of what images share that must stand on one side of the split; "" for none.
    """

    def __init__(
        self,
        folder: Path,
        spec: str,
        options: dict[str, Any],
        image: str,
        label: str,
        first_label: bool | None = None,
        group: str = "",
    ) -> None:
        import pyarrow as pa

        self.spec, self.options = spec, options
        try:
            state = json.loads((folder / "state.json").read_text())
            files = [folder / entry["filename"] for entry in state["_data_files"]]
            self._stamps = [stamp_of_container(str(file)) for file in files]
            tables = [pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files]
            table = pa.concat_tables(tables)
            info = json.loads((folder / "dataset_info.json").read_text())
            selected = state.get("_indices_data_files")
            names = names_in(info, label)
        # Any file may hold anything: wrong types of JSON, damaged Arrow.
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            raise BadInput(
                f"{folder} is not what save_to_disk wrote ({reason}): save it again"
            ) from error
        if selected:
            raise BadInput(
                f"{folder} was saved with an index of selected rows: call flatten_indices() before "
                "save_to_disk"
            )
        check_columns(table.column_names, (image, label, group), str(folder))
        if label in table.column_names and not tells_names(
            info, label, table.schema.field(label).type
        ):
            raise BadInput(
                f"{folder / 'dataset_info.json'} is damaged, so the names of its classes are lost: "
                "save the data set again"
            )
        if image not in table.column_names:
            raise BadInput(
                f"{folder} has columns {', '.join(table.column_names)}; none is {image!r}: name "
                "the images by --source-option image=COLUMN"
            )
        self._images = table[image]
        self._ends = np.cumsum([one.num_rows for one in tables])
        self._inside = _rows_inside(self._images)
        self._labels = table[label] if label in table.column_names else None
        if group and group not in table.column_names:
            raise BadInput(
                f"{folder} has columns {', '.join(table.column_names)}: none is {group!r} for the "
                "groups"
            )
        self._groups = table[group] if group else None
        self._rule = LabelRule(spec, first_label, names)
        self._columns, self._label = table.column_names, label
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Listed]:
        """In the order of rows."""
        labels = self._cells(self._labels, self._label)
        groups = self._cells(self._groups, "group")
        for row, (label, group) in enumerate(zip(labels, groups, strict=True)):
            shared = shared_name(group, self.spec, "group")
            yield Listed(f"{row:08d}", self._rule(label), group=shared)
        self.notes = self._rule.notes
        if self._labels is None:
            self.notes = [no_label_note(self._label, self._columns), *self.notes]

    def _cells(self, column: Any, name: str) -> list[Any]:
        return [None] * len(self._images) if column is None else cells(column, name, self.spec)

    def stamp(self, path: str) -> Stamp | None:
        """Says whether the Arrow file of a row is as it was; None where it names another file."""
        if not path.isdecimal() or int(path) >= len(self._images) or not self._inside[int(path)]:
            return None
        return self._stamps[int(np.searchsorted(self._ends, int(path), side="right"))]

    def read(self, path: str) -> bytes:
        """The stored bytes of a row, or those of the file that the row names."""
        if not path.isdecimal() or int(path) >= len(self._images):
            raise BadImage("unreadable", f"no row {path}")
        try:
            value = self._images[int(path)].as_py()
        # A text that is not UTF-8, and whatever else damage makes of a row.
        except Exception as error:
            raise BadImage("unreadable", one_line(error)) from error
        if isinstance(value, dict) and value.get("bytes") is None and value.get("path"):
            return read_local(Path(value["path"]))
        return embedded_bytes(value)


def _rows_inside(images: Any) -> NDArray[np.bool_]:
    """Which rows hold the bytes of their image; the others name a file."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(images.type):
        return np.ones(len(images), dtype=bool)
    if "bytes" not in images.type.names:
        return np.zeros(len(images), dtype=bool)
    return np.asarray(pc.is_valid(pc.struct_field(images, "bytes")).to_numpy(), dtype=bool)


def open_saved(
    spec: str,
    split: str = "",
    image: str = "image",
    label: str = "label",
    first_label: bool | None = None,
    group: str = "",
) -> ImageSource:
    """Open a saved dataset, or one split of a saved dictionary of datasets.

    Args:
        spec: the folder.
        split: of a dictionary of datasets; "" for one dataset.
        image: column of images.
        label: column of classes.
        first_label: what to do with several labels of one image; see `LabelRule`.
        group: column of what images share that must stand on one side of the split; "" for none.

    Raises:
        BadInput: a split is needed and not given, or it does not exist.
    """
    path = local_path(spec)
    if path is None:
        raise BadInput(f"dataset {spec}: these are read from a local folder; copy it first")
    folder = path.resolve()
    given = {"split": (split, ""), "image": (image, "image"), "label": (label, "label")}
    given["group"] = (group, "")
    options: dict[str, Any] = {
        key: value for key, (value, default) in given.items() if value != default
    }
    options |= {} if first_label is None else {"first_label": first_label}
    place = folder
    if (folder / "dataset_dict.json").is_file():
        try:
            splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
            if not isinstance(splits, list) or not all(isinstance(one, str) for one in splits):
                raise TypeError("its splits are no list of names")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(
                f"{folder / 'dataset_dict.json'} names no splits ({one_line(error)}): save it again"
            ) from error
        if split not in splits:
            raise BadInput(
                f"{folder} has splits {', '.join(splits)}: name one by --source-option split=NAME"
            )
        place = folder / split
    elif split:
        raise BadInput(f"{folder} is one dataset without splits: leave out the option split")
    return SavedSource(place, str(folder), options, image, label, first_label, group)
