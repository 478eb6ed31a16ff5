"""`export`: features and statistics as files for study, the manifest inside every one.

One row of `WRITERS` is one kind of file. Each is written aside and renamed, so that an export that
fails leaves what was there before; features are read a stored shard at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from alike.analysis.export.arrays import check_zarr, write_h5, write_netcdf, write_zarr
from alike.analysis.export.fiftyone import write_fiftyone
from alike.analysis.export.graph import write_graph
from alike.analysis.export.plan import COLUMN_UNITS, Plan
from alike.analysis.export.result import Result
from alike.analysis.export.tables import write_csv, write_parquet
from alike.extract.errors import BadInput
from alike.extract.progress import Progress, silent
from alike.extract.replacing import aside


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        about: what it holds and what opens it, one line for help.
        write: writes a plan to a path.
    """

    about: str
    write: Callable[[Plan, Path], None]


WRITERS: dict[str, Kind] = {
    ".parquet": Kind("one row an image; pandas, Polars, DuckDB, embedding-atlas", write_parquet),
    ".csv": Kind("one row an image, the manifest in the first line; anything", write_csv),
    ".h5": Kind("images, features and tables in one HDF5 file; h5py", write_h5),
    ".nc": Kind("the same with named axes; xarray.open_datatree", write_netcdf),
    ".zarr": Kind("the same as a Zarr v3 folder; xarray.open_datatree", write_zarr),
    ".npz": Kind("the graph of nearest neighbours in CSR form; scipy, cleanlab", write_graph),
    ".fiftyone.json": Kind("samples with labels and scores; FiftyOne", write_fiftyone),
}


SAMPLING = ("n_images_before_sampling", "evaluated")
"""Settings of an analysis that say how many images it is of."""


def export(
    features: Any,
    to: str | Path,
    *,
    arrays: Sequence[str] = ("gap",),
    tables: Mapping[str, pd.DataFrame] | None = None,
    analysed: Mapping[str, Any] | None = None,
    split: str | None = None,
    measure: str = "gap_cosine",
    places: pd.DataFrame | None = None,
    images: bool = False,
    progress: Progress = silent,
) -> list[Path]:
    """Write the images of one extraction with their features, and the given tables.

    Args:
        features: the features.
        to: a path with one of the endings of `WRITERS`. Beside a Parquet or CSV file of the images,
            every table becomes a file of its own, `<stem>.<table>.<ending>`.
        arrays: which feature arrays to write.
        tables: name -> table, for example `Analysis.tables`.
        analysed: the settings of the analysis that they are of, `Analysis.settings`.
        split: `train`, `held_out` or None for both.
        measure: whose neighbours are written as columns or as a graph.
        places: a map, as `make_map` gives it; becomes the columns projection_x and
            projection_y.
        images: put a small picture of every image into a Parquet file.
        progress: told how many images are written.

    Returns:
        The files written.

    Raises:
        BadInput: an unknown ending or array, an empty split, a folder that cannot be made, or
            something that this kind of file cannot hold; the message says what can.
    """
    target = Path(to)
    ending = ending_of(target)
    if ending == ".zarr":
        check_zarr(target)
    held = [name for name in arrays if name in features.arrays]
    table = features.table(split, names=held or None)
    if table.empty:
        of = f" and {features.where}" if features.where else ""
        raise BadInput(f"{features.key} has no usable image in split {split or 'all'!r}{of}.")
    unknown = sorted(set(arrays) - set(features.arrays))
    if unknown:
        raise BadInput(
            f"{features.key} has no array {', '.join(unknown)}; it holds "
            f"{', '.join(sorted(features.arrays))}."
        )
    manifest = {"key": features.key, "split": split or "all", "digest": features.digest,
                "measure": measure, **dict(features.attrs)}  # fmt: skip
    if features.where:
        manifest["where"] = features.where
    if analysed is not None:
        # A sample is called a sample in the file of the images too, which has no table of scores.
        manifest |= {name: analysed[name] for name in SAMPLING if name in analysed}
    plan = Plan(
        features=features,
        images=_placed(table.reset_index(drop=True), places),
        arrays=tuple(arrays),
        results=tuple(_results(tables or {}, _manifest_of_tables(manifest, analysed))),
        manifest=manifest,
        neighbours=_neighbours(tables or {}, measure),
        pictures=images,
        progress=progress,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(
            f"the folder {target.parent} cannot be made: {reason}; choose another"
        ) from error
    with aside(target) as part:
        WRITERS[ending].write(plan, part)
    written = [target]
    if ending in {".parquet", ".csv"}:
        written += [_table_beside(target, ending, result) for result in plan.results]
    return written


def ending_of(path: Path) -> str:
    """The ending that names the kind of file.

    Raises:
        BadInput: none of `WRITERS`.
    """
    for ending in sorted(WRITERS, key=len, reverse=True):
        if path.name.endswith(ending) and path.name != ending:
            return ending
    names = ", ".join(WRITERS)
    raise BadInput(f"cannot export to {path.name}: expected a name ending in one of {names}.")


def _placed(images: pd.DataFrame, places: pd.DataFrame | None) -> pd.DataFrame:
    if places is None:
        return images
    columns = places.rename(columns={"tsne_x": "projection_x", "tsne_y": "projection_y"})
    names = ["row", "projection_x", "projection_y", "pca_x", "pca_y"]
    return images.merge(columns[names], on="row", how="left")


def _manifest_of_tables(
    manifest: dict[str, Any], analysed: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Tables are of the images and the features that were analysed, not of those exported now."""
    if analysed is None:
        return manifest
    of = {"split": analysed.get("split"), "digest": analysed.get("features_digest")}
    return {**manifest, **of, "analysis": dict(analysed)}


def _results(tables: Mapping[str, pd.DataFrame], manifest: dict[str, Any]) -> Iterator[Result]:
    for name, table in tables.items():
        units = {str(c): COLUMN_UNITS[str(c)] for c in table.columns if str(c) in COLUMN_UNITS}
        yield Result(str(name), table.reset_index(drop=True), units, manifest)


def _neighbours(tables: Mapping[str, pd.DataFrame], measure: str) -> pd.DataFrame | None:
    table = tables.get("neighbours")
    if table is None:
        return None
    own = table[table["measure"] == measure]
    return None if own.empty else own


def _table_beside(target: Path, ending: str, result: Result) -> Path:
    stem = target.name.removesuffix(ending)
    path = target.with_name(f"{stem}.{result.name}{ending}")
    with aside(path) as part:
        if ending == ".parquet":
            result.to_parquet(part)
        else:
            result.to_csv(part)
    return path
