"""The graph of nearest neighbours: as a CSR matrix, and as a column of an image table."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alike.analysis.export.plan import Plan
from alike.analysis.export.result import MANIFEST, manifest_json
from alike.extract.command import command_of
from alike.extract.errors import BadInput

WITH_NEIGHBOURS = (".parquet", ".fiftyone.json")
"""Endings of files that hold neighbours if there are any; others have none, or must have them."""


def neighbour_lists(plan: Plan) -> tuple[np.ndarray, np.ndarray] | None:
    """Neighbours of every exported image as positions in the export, nearest first.

    Returns:
        positions (N, k) int64 and distances (N, k) float64; None where the neighbours that were
        computed are not those of exactly these images.
    """
    return lists_among(plan.neighbours, plan.rows)


def lists_among(
    table: pd.DataFrame | None, rows: np.ndarray, measure: str | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """The same of a table of neighbours (row, rank, neighbour, distance) and ascending rows (N,).

    Args:
        table: None: nothing was computed.
        rows: that are exported.
        measure: of which lines count; None: all do.
    """
    if table is not None and measure is not None:
        table = table[table["measure"] == measure]
    if table is None or table.empty or not np.array_equal(np.unique(table["row"]), rows):
        return None
    if not np.isin(table["neighbour"], rows).all():
        return None
    ordered = table.sort_values(["row", "rank"])
    k = int(ordered["rank"].max())
    if len(ordered) != k * len(rows):
        return None
    positions = np.searchsorted(rows, ordered["neighbour"].to_numpy(np.int64))
    return positions.reshape(-1, k), ordered["distance"].to_numpy(float).reshape(-1, k)


def demanded(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The same, or the reason why there is none.

    Raises:
        BadInput: the analysis has no neighbours of these images.
    """
    lists = neighbour_lists(plan)
    if lists is None:
        features, split = plan.features, str(plan.manifest["split"])
        where = ("--where", features.where) if features.where else ()
        command = command_of("analyse", features.store, features.key, "--split", split, *where)
        unlabelled = int(plan.images["label"].fillna("").eq("").sum())
        if unlabelled:
            raise BadInput(
                f"{unlabelled} of the {len(plan.images)} images of split {split!r} have no class, "
                "and an analysis lists no neighbours of these: give them one, or leave them out "
                "by --where label=NAME,…, here and in `alike analyse`"
            )
        counts = plan.images["label"].value_counts()
        if len(counts) < 2 or counts.max() < 2:
            raise BadInput(
                f"the {len(plan.images)} images of split {split!r} have {len(counts)} class(es): "
                "neighbours are those of an analysis, which needs two classes or more, one of "
                "them with two images or more"
            )
        measure, whole = plan.manifest.get("measure"), plan.manifest.get("n_images_before_sampling")
        taken = plan.manifest.get("evaluated", {}).get(measure)
        if taken and whole and taken < whole:
            raise BadInput(
                f"the analysis by {measure} is of {taken:,} of {whole:,} images, and the graph is "
                f"of all: run `{command}` with a larger --budget, if that is why"
            )
        raise BadInput(
            f"there are no neighbours among exactly the {len(plan.images)} images of split "
            f"{split!r}: run `{command}`, and export with the same --split"
            f"{' and --where' if where else ''}."
        )
    return lists


def write_graph(plan: Plan, path: Path) -> None:
    """Write the CSR matrix (N, N) of distances, as `scipy.sparse.load_npz` reads it.

    Rows and columns are the exported images in the order of `rows` and `image_ids`, which stand in
    the file too. Entries of a line ascend by distance and never hold the image itself, as
    cleanlab's `knn_graph` wants it; a neighbour at distance 0 is kept as an explicit zero.
    """
    positions, distances = demanded(plan)
    n, k = positions.shape
    contents: dict[str, Any] = {
        "data": distances.ravel(),
        "indices": positions.ravel().astype(np.int64),
        "indptr": np.arange(0, n * k + 1, k, dtype=np.int64),
        "shape": np.array([n, n]),
        "format": np.array(b"csr"),
        "rows": plan.rows,
        "image_ids": plan.images["image_id"].to_numpy(str),
        "labels": plan.images["label"].fillna("").to_numpy(str),
        MANIFEST: np.array(manifest_json(plan.manifest)),
    }
    # `WRITERS` hands a path aside; an open file keeps its name, to which NumPy would add .npz.
    with path.open("wb") as sink:
        np.savez_compressed(sink, **contents)
