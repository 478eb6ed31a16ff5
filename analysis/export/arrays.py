"""Images, features and tables in one file of arrays: HDF5, netCDF and Zarr."""

import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alike.analysis.class_pairs import why_no_matrix
from alike.analysis.export.plan import Plan
from alike.analysis.export.result import (
    MANIFEST,
    Result,
    column_values,
    manifest_json,
    write_h5_table,
)
from alike.extract.documents import read_json
from alike.extract.errors import BadInput
from alike.extract.replacing import check_target


def write_h5(plan: Plan, path: Path) -> None:
    """Write HDF5: groups `images` and `tables` with one dataset a column, `features` by array."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs[MANIFEST] = manifest_json(plan.manifest)
        write_h5_table(file, Result("images", plan.images, {}, plan.manifest))
        group, done = file.create_group("features"), 0
        for part, values in plan.blocks():
            for name, array in values.items():
                if name not in group:
                    chunks = (min(len(array), 128) if array.ndim == 2 else 1, *array.shape[1:])
                    shape = (len(plan.images), *array.shape[1:])
                    group.create_dataset(name, shape, array.dtype, chunks=chunks)
                group[name][done : done + len(part)] = array
            done += len(part)
        tables = file.create_group("tables")
        for result in plan.results:
            write_h5_table(tables, result)


def write_netcdf(plan: Plan, path: Path) -> None:
    """Write netCDF-4: the images at the root, a group for each table; `xarray.open_datatree`.

    Features of float16 are written as float32.

    Raises:
        BadInput: h5netcdf is not installed.
    """
    if find_spec("h5netcdf") is None:
        raise BadInput("netCDF needs h5netcdf: pip install h5netcdf, or export to .h5.")
    tree = as_tree(plan)
    # netCDF has no half precision: many readers refuse such a file. float32 holds it exactly.
    wide = {name: tree[name].astype("float32") for name in plan.arrays if tree[name].dtype == "f2"}
    tree.dataset = tree.to_dataset().assign(wide)
    tree.to_netcdf(path, engine="h5netcdf")


def write_zarr(plan: Plan, path: Path) -> None:
    """Write Zarr v3: the images at the root, a group for each table; `xarray.open_datatree`."""
    with warnings.catch_warnings():
        # Text columns have no final place in the Zarr v3 specification yet; zarr and xarray both
        # read what they write.
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        warnings.filterwarnings("ignore", message=".*data type.*specification.*")
        as_tree(plan).to_zarr(path, zarr_format=3, consolidated=False)


def check_zarr(path: Path) -> None:
    """Refuse a folder that is there and that no export wrote: it would be deleted as a whole.

    Raises:
        BadInput: it is such a folder, a file, or lies where one may not write.
    """
    check_target(path, folder=True)
    if not path.is_dir() or not any(path.iterdir()):
        return
    place, attributes = path / "zarr.json", {}
    with suppress(OSError, BadInput):
        document = read_json(place.read_bytes(), dict[str, Any], str(place), "", brought=True)
        attributes = document.get("attributes", {})
    if MANIFEST not in attributes:
        raise BadInput(f"{path} is a folder that no `alike export` wrote: name another place")


def as_tree(plan: Plan) -> Any:
    """An `xarray.DataTree`: images and features at the root, the tables below.

    Features are lazy Dask arrays, one block a stored shard, so that writing needs little memory.
    """
    import xarray

    coords = {"row": ("image", plan.rows, {"units": "row number in the store"})}
    columns = {
        str(name): ("image", column_values(column))
        for name, column in plan.images.items()
        if name != "row"
    }
    arrays = {name: _lazy(plan, name) for name in plan.arrays}
    root = xarray.Dataset(
        {**columns, **arrays}, coords, attrs={MANIFEST: manifest_json(plan.manifest)}
    )
    groups = {f"/tables/{result.name}": _grouped(result) for result in plan.results}
    return xarray.DataTree.from_dict({"/": root, **groups})


def _lazy(plan: Plan, name: str) -> tuple[tuple[str, ...], Any]:
    import dask
    import dask.array

    shape = plan.shape_of(name)
    kind = plan.features.read(name, plan.rows[:1]).dtype
    rows = plan.rows
    cuts = np.flatnonzero(np.diff(rows // 1024)) + 1
    read = dask.delayed(plan.features.read)
    blocks = [
        dask.array.from_delayed(read(name, part), (len(part), *shape), kind)
        for part in np.split(rows, cuts)
    ]
    axes = ("channel",) if len(shape) == 1 else ("channel", "y", "x")[: len(shape)]
    return ("image", *(f"{name}_{axis}" for axis in axes)), dask.array.concatenate(blocks)


def _grouped(result: Result) -> Any:
    cube = _cube(result)
    return result.to_xarray() if cube is None else cube


def _cube(result: Result) -> Any:
    """`class_pairs` with its real axes: measure x class x class; None of any other table.

    None too if the table has not all pairs: it is written as the rows that it has.
    """
    import xarray

    keys = ["measure", "class_a", "class_b"]
    table = result.table
    if result.name != "class_pairs" or why_no_matrix(table) or table.duplicated(keys).any():
        return None
    axes = {key: pd.unique(table[key]) for key in keys}
    classes = pd.unique(np.concatenate([axes["class_a"], axes["class_b"]]))
    axes["class_a"] = axes["class_b"] = classes
    shape = tuple(len(values) for values in axes.values())
    at = tuple(pd.Index(axes[key]).get_indexer(table[key]) for key in keys)
    variables = {}
    for name in [column for column in table.columns if column not in keys]:
        cube = np.full(shape, np.nan)
        cube[at] = table[name].to_numpy(float)
        variables[str(name)] = (keys, cube, {"units": result.units.get(str(name), "")})
    coords = {key: np.asarray(values, dtype=object) for key, values in axes.items()}
    return xarray.Dataset(variables, coords, attrs={MANIFEST: manifest_json(result.manifest)})
