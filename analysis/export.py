"""`export`: features and statistics as files for study, the manifest inside every one."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.result import Result
from extract.errors import BadInput

MOST_CSV_COLUMNS = 4096


def export(
    features: Any,
    to: str | Path,
    *,
    arrays: Sequence[str] = ("gap",),
    tables: Mapping[str, pd.DataFrame] | None = None,
    split: str | None = None,
) -> list[Path]:
    """Write the images, their features and the given tables.

    Args:
        features: the features of one extraction.
        to: a path ending in .parquet, .csv or .h5. One HDF5 file holds everything; beside a Parquet
            or CSV file of the images, every table becomes its own file `<stem>.<table>.<ending>`.
        arrays: which feature arrays to write with the images.
        tables: name -> table, for example `Analysis.tables`.
        split: `train`, `held_out` or None for both.

    Returns:
        The files written.

    Raises:
        BadInput: an unknown ending or array, or maps that are too wide for CSV.
    """
    target = Path(to)
    writer = WRITERS.get(target.suffix)
    if writer is None:
        raise BadInput(
            f"{target.name}: cannot export to {target.suffix or 'a name without an ending'!r}; "
            f"choose one of {', '.join(WRITERS)}."
        )
    images = features.table(split)
    if images.empty:
        raise BadInput(f"{features.key} has no usable image in split {split or 'all'!r}.")
    unknown = sorted(set(arrays) - set(features.arrays))
    if unknown:
        raise BadInput(f"{features.key} has no {unknown}; it holds {sorted(features.arrays)}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    manifest = {"key": features.key, "split": split or "all", **dict(features.attrs)}
    results = [Result(str(name), table, {}, manifest) for name, table in (tables or {}).items()]
    return writer(features, images, list(arrays), results, manifest, target)


def _beside(target: Path, results: Iterable[Result]) -> list[Path]:
    written = []
    for result in results:
        path = target.with_name(f"{target.stem}.{result.name}{target.suffix}")
        written.append(
            result.to_parquet(path) if path.suffix == ".parquet" else result.to_csv(path)
        )
    return written


def _blocks(features: Any, images: pd.DataFrame, arrays: list[str]) -> Iterable[tuple[Any, Any]]:
    """Images and their arrays, a stored shard at a time, so that memory does not grow with N."""
    rows = images["row"].to_numpy()
    if not arrays:
        yield images, {}
        return
    done = 0
    for block, values in features.blocks(arrays, rows):
        yield images.iloc[done : done + len(block)], values
        done += len(block)


def _parquet(
    features: Any,
    images: pd.DataFrame,
    arrays: list[str],
    results: list[Result],
    manifest: dict[str, Any],
    target: Path,
) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from analysis.result import MANIFEST, manifest_json

    shapes = {name: [int(n) for n in features.read(name, images["row"].to_numpy()[:1]).shape[1:]]
              for name in arrays}  # fmt: skip
    meta = {MANIFEST: manifest_json({"name": "images", "units": {}, "shapes": shapes, **manifest})}
    writer = None
    for part, values in _blocks(features, images, arrays):
        table = pa.Table.from_pandas(part, preserve_index=False)
        for name, array in values.items():
            flat = np.ascontiguousarray(array.reshape(len(array), -1))
            column = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
            table = table.append_column(name, column)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **meta})
        writer = writer or pq.ParquetWriter(target, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()
    return [target, *_beside(target, results)]


def _csv(
    features: Any,
    images: pd.DataFrame,
    arrays: list[str],
    results: list[Result],
    manifest: dict[str, Any],
    target: Path,
) -> list[Path]:
    from analysis.result import MANIFEST, manifest_json

    with target.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {MANIFEST} {manifest_json({'name': 'images', 'units': {}, **manifest})}\n")
        for number, (part, values) in enumerate(_blocks(features, images, arrays)):
            wide = [part.reset_index(drop=True)]
            for name, array in values.items():
                flat = array.reshape(len(array), -1)
                if flat.shape[1] > MOST_CSV_COLUMNS:
                    raise BadInput(
                        f"{name} has {flat.shape[1]} numbers an image, too wide for CSV "
                        f"(at most {MOST_CSV_COLUMNS}); export to .parquet, .h5 or .zarr."
                    )
                heads = [f"{name}_{i}" for i in range(flat.shape[1])]
                wide.append(pd.DataFrame(flat, columns=heads))
            pd.concat(wide, axis=1).to_csv(file, index=False, header=number == 0)
    return [target, *_beside(target, results)]


def _h5(
    features: Any,
    images: pd.DataFrame,
    arrays: list[str],
    results: list[Result],
    manifest: dict[str, Any],
    target: Path,
) -> list[Path]:
    import h5py

    from analysis.result import MANIFEST, manifest_json, write_h5_table

    with h5py.File(target, "w") as file:
        file.attrs[MANIFEST] = manifest_json(manifest)
        write_h5_table(file, Result("images", images, {}, manifest))
        group = file.create_group("features")
        done = 0
        for part, values in _blocks(features, images, arrays):
            for name, array in values.items():
                if name not in group:
                    shape = (len(images), *array.shape[1:])
                    group.create_dataset(name, shape, array.dtype, chunks=(1, *shape[1:]))
                group[name][done : done + len(part)] = array
            done += len(part)
        if results:
            tables = file.create_group("tables")
            for result in results:
                write_h5_table(tables, result)
    return [target]


WRITERS = {".parquet": _parquet, ".csv": _csv, ".h5": _h5}
