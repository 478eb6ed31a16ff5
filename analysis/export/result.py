"""A named table that knows its units and how it was made, wherever it is written.

`Result` is what leaves the project: the table, the unit of every column, and the manifest
(settings, versions, source) travel together into Parquet, HDF5, CSV and xarray, and come back.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alike.analysis.export.formulas import as_it_was, write_lines
from alike.extract.documents import read_arrow, read_json
from alike.extract.errors import BadInput

MANIFEST = "alike"
TEXTS = "text_columns"
H5_ROWS = 1 << 18
"""Written at once: a thousand classes have a million pairs a measure, with two names each."""


def manifest_json(manifest: Mapping[str, Any]) -> str:
    """The manifest as JSON text: numpy numbers become numbers, whatever else becomes text."""
    return json.dumps(_plain(manifest), ensure_ascii=False, sort_keys=True)


def texts_of(table: pd.DataFrame) -> dict[str, Any]:
    """The columns of texts, for the manifest of a CSV file, which cannot tell "02" from 2."""
    return {TEXTS: [str(name) for name in table.select_dtypes(exclude=["number", "bool"])]}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, pd.DataFrame):
        return _plain(value.to_dict(orient="records"))
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


@dataclass(frozen=True)
class Result:
    """A table with the meaning of its columns and the record of its making.

    Attributes:
        name: what the table is, for example `scores`.
        table: the rows; a plain frame with no index that means anything.
        units: column -> unit or direction, for example `{"value": "0 to 1, up is better"}`.
        attrs: the manifest: settings, versions, source. Anything that JSON can hold.
    """

    name: str
    table: pd.DataFrame
    units: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.units) - set(map(str, self.table.columns)))
        if unknown:
            raise BadInput(
                f"Units are given for {unknown}, which table {self.name!r} lacks; "
                f"its columns are {list(self.table.columns)}."
            )

    @property
    def manifest(self) -> dict[str, Any]:
        """What is written inside every file: name, units, attrs."""
        return {"name": self.name, "units": dict(self.units), **_plain(self.attrs)}

    def to_parquet(self, path: Path) -> Path:
        """Write Parquet; the manifest is the schema's metadata under the key `alike`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(self.table, preserve_index=False)
        extra = {**(table.schema.metadata or {}), MANIFEST: manifest_json(self.manifest)}
        pq.write_table(table.replace_schema_metadata(extra), path, compression="zstd")
        return path

    def to_csv(self, path: Path) -> Path:
        """Write CSV; the first line is `# alike {manifest}`, so read with `skiprows=1`.

        Text that a spreadsheet would run is written after an apostrophe, which `read_result` takes
        away.
        """
        with path.open("w", encoding="utf-8", newline="") as file:
            manifest = {**self.manifest, **texts_of(self.table)}
            file.write(f"# {MANIFEST} {manifest_json(manifest)}\n")
            write_lines(self.table, file)
        return path

    def to_h5(self, path: Path) -> Path:
        """Write HDF5: one group named after the table, one dataset a column."""
        import h5py

        with h5py.File(path, "w") as file:
            write_h5_table(file, self)
        return path

    def to_xarray(self) -> Any:
        """An `xarray.Dataset` with one variable a column along the dimension `<name>_row`."""
        import xarray

        dim = f"{self.name}_row"
        columns = {
            str(name): (dim, _typed(column), {"units": self.units.get(str(name), "")})
            for name, column in self.table.items()
        }
        return xarray.Dataset(columns, attrs={MANIFEST: manifest_json(self.manifest)})


def column_values(column: pd.Series) -> np.ndarray:
    """A column as a plain numpy array: numbers stay numbers, everything else becomes text."""
    if column.dtype.kind in "iufb":
        return np.asarray(column)
    if isinstance(column.dtype, pd.CategoricalDtype):
        # The last stands for code -1, which is what has no category.
        names = np.array([*map(str, column.cat.categories), ""], dtype=object)
        values: np.ndarray = names[column.cat.codes]
        return values
    return np.asarray(["" if pd.isna(value) else str(value) for value in column], dtype=object)


def _typed(column: pd.Series) -> np.ndarray:
    """`column_values`; an empty column of texts is one still, where xarray would take numbers."""
    values = column_values(column)
    return values if len(values) or values.dtype.kind != "O" else np.zeros(0, dtype="U1")


def write_h5_table(parent: Any, result: Result) -> None:
    """Write a result as a group of an open HDF5 file, units on the columns."""
    import h5py

    group = parent.create_group(result.name)
    group.attrs[MANIFEST] = manifest_json(result.manifest)
    group.attrs["columns"] = [str(name) for name in result.table.columns]
    for name, column in result.table.items():
        values = column_values(column)
        kind = values.dtype
        if kind.kind == "O":
            # Text of a fixed width compresses, where h5py's text of any width does not.
            width = max((len(value.encode()) for value in pd.unique(values)), default=0)
            kind = h5py.string_dtype("utf-8", max(width, 1))
        packed = "gzip" if len(values) > 1000 else None
        dataset = group.create_dataset(str(name), values.shape, kind, compression=packed)
        for low in range(0, len(values), H5_ROWS):
            part = values[low : low + H5_ROWS]
            if part.dtype.kind == "O":
                part = np.array([value.encode() for value in part]).astype(kind)
            dataset[low : low + H5_ROWS] = part
        dataset.attrs["units"] = result.units.get(str(name), "")


def read_result(path: str | Path, name: str = "") -> Result:
    """Read back what `Result` or `alike export` wrote (Parquet, CSV or HDF5).

    Args:
        path: the file.
        name: which table of an HDF5 file; not needed where it holds one.

    Raises:
        BadInput: the ending is not one of these, or the file holds no manifest.
    """
    path = Path(path)
    reader = {".parquet": _from_parquet, ".csv": _from_csv}.get(path.suffix)
    if reader is None and path.suffix not in {".h5", ".hdf5"}:
        raise BadInput(f"{path.name}: expected a file ending in .parquet, .csv or .h5.")
    table, text = reader(path) if reader else _from_h5(path, name)
    if text is None:
        raise BadInput(f"{path.name} holds no manifest of Alike; read it with pandas instead.")
    attrs = read_json(text, dict[str, Any], str(path), "export it again", brought=True)
    attrs.pop(TEXTS, None)
    return Result(attrs.pop("name", name), table, attrs.pop("units", {}), attrs)


def _from_parquet(path: Path) -> tuple[pd.DataFrame, str | None]:
    table = read_arrow(path.read_bytes(), str(path), "export it again")
    text = (table.schema.metadata or {}).get(MANIFEST.encode())
    return table.to_pandas(), None if text is None else text.decode()


def _pandas() -> tuple[int, ...]:
    return tuple(map(int, pd.__version__.split(".")[:2]))


def _from_csv(path: Path) -> tuple[pd.DataFrame, str | None]:
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    if not first.startswith(f"# {MANIFEST} "):
        return pd.DataFrame(), None
    text = first.removeprefix(f"# {MANIFEST} ")
    attrs = read_json(text, dict[str, Any], str(path), "export it again", brought=True)
    texts = [str(name) for name in attrs.get(TEXTS, ())]
    names = pd.read_csv(path, skiprows=1, nrows=0).columns
    # From 3.1 on it reads numbers exactly, and warns of the option.
    exact: dict[str, Any] = {} if _pandas() >= (3, 1) else {"float_precision": "round_trip"}
    table = pd.read_csv(
        path,
        skiprows=1,
        **exact,
        dtype=dict.fromkeys(texts, str),
        # A class may be named "None", "NA" or "02".
        keep_default_na=not texts,
        na_values={name: [""] if name in texts else ["", "nan", "NaN"] for name in names},
    )
    return as_it_was(table), text


def _from_h5(path: Path, name: str) -> tuple[pd.DataFrame, str | None]:
    import h5py

    with h5py.File(path, "r") as file:
        names = [key for key, item in file.items() if MANIFEST in item.attrs]
        wanted = name or (names[0] if len(names) == 1 else "")
        if wanted not in names:
            raise BadInput(f"{path.name} holds the tables {names}; name one of them.")
        group = file[wanted]
        columns = {}
        for column in group.attrs["columns"]:
            data = group[column]
            columns[column] = data.asstr()[:] if h5py.check_string_dtype(data.dtype) else data[:]
        return pd.DataFrame(columns), str(group.attrs[MANIFEST])
