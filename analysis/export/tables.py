"""Images and their features as one table: Parquet and CSV."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alike.analysis.export.formulas import write_lines
from alike.analysis.export.graph import neighbour_lists
from alike.analysis.export.plan import Plan
from alike.analysis.export.result import MANIFEST, manifest_json, texts_of
from alike.extract.errors import BadInput
from alike.extract.row_groups import RowGroups

MOST_CSV_COLUMNS = 4096


def write_parquet(plan: Plan, path: Path) -> None:
    """Write one row an image; features are fixed-size lists, the manifest is in the schema.

    Columns for embedding-atlas where they are known: projection_x and projection_y, `neighbors`
    ({ids, distances}, ids count the rows of this file from 0) and `image` ({bytes}, PNG or JPEG).
    """
    import pyarrow as pa

    shapes = {name: plan.shape_of(name) for name in plan.arrays}
    meta = {MANIFEST: manifest_json({"name": "images", "shapes": shapes, **plan.manifest})}
    near = neighbour_lists(plan)
    pictures = _pictures(plan)
    done, columns = 0, _columns_of(plan.images)
    with RowGroups(path, compression="zstd") as groups:
        for part, values in plan.blocks():
            table = pa.Table.from_pandas(part, columns, preserve_index=False)
            if near is not None:
                span = slice(done, done + len(part))
                table = table.append_column(
                    "neighbors", _neighbor_column(near[0][span], near[1][span])
                )
            if pictures is not None:
                table = table.append_column("image", _image_column(part, pictures))
            for name, array in values.items():
                flat = np.ascontiguousarray(array.reshape(len(array), -1))
                column = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
                table = table.append_column(name, column)
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **meta})
            groups.add(table)
            done += len(part)


def _columns_of(images: pd.DataFrame) -> Any:
    """The Arrow schema of all images: a part may have no value in a column at all."""
    import pyarrow as pa

    schema = pa.Schema.from_pandas(images, preserve_index=False)
    for number, field in enumerate(schema):
        if pa.types.is_null(field.type):
            schema = schema.set(number, field.with_type(pa.string()))
    return schema


def _neighbor_column(ids: np.ndarray, distances: np.ndarray) -> Any:
    import pyarrow as pa

    n, k = ids.shape
    offsets = pa.array(np.arange(0, n * k + 1, k, dtype=np.int32))
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(values.ravel())) for values in (ids, distances)
    ]
    return pa.StructArray.from_arrays(lists, names=["ids", "distances"])


def _pictures(plan: Plan) -> Any:
    if not plan.pictures:
        return None
    from alike.analysis.report import Pictures

    return Pictures(plan.features.store)


def _image_column(part: pd.DataFrame, pictures: Any) -> Any:
    import pyarrow as pa

    thumbnails = pictures.thumbnails(part["row"], side=128)
    coded = [
        {"bytes": thumbnails[row].data} if row in thumbnails else None
        for row in part["row"].astype(int)
    ]
    return pa.array(coded, pa.struct([("bytes", pa.binary())]))


def write_csv(plan: Plan, path: Path) -> None:
    """Write one row an image, one column a number; the first line is `# alike {manifest}`.

    Text that a spreadsheet would run is written after an apostrophe.

    Raises:
        BadInput: more than 4,096 numbers an image.
    """
    width = sum(int(np.prod(plan.shape_of(name))) for name in plan.arrays)
    if width > MOST_CSV_COLUMNS:
        raise BadInput(
            f"{', '.join(plan.arrays)} have {width} numbers an image, CSV takes at most "
            f"{MOST_CSV_COLUMNS}: export to .parquet, .h5, .nc or .zarr."
        )
    with path.open("w", encoding="utf-8", newline="") as file:
        manifest = {"name": "images", **plan.manifest, **texts_of(plan.images)}
        file.write(f"# {MANIFEST} {manifest_json(manifest)}\n")
        for number, (part, values) in enumerate(plan.blocks()):
            wide = [part.reset_index(drop=True)]
            for name, array in values.items():
                flat = array.reshape(len(array), -1)
                heads = [f"{name}_{i}" for i in range(flat.shape[1])]
                wide.append(pd.DataFrame(flat, columns=heads))
            write_lines(pd.concat(wide, axis=1), file, header=number == 0)
