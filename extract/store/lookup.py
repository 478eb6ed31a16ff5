"""The images of a set by row and by id, in columns that may be mapped from a file."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

Places = np.ndarray
"""(n,) int64 positions among the images of a look-up."""


def image_table(view: pd.DataFrame, ids: pa.ChunkedArray) -> pa.Table:
    """Give the columns of an `ImageTable`.

    Args:
        view: of the manifest.
        ids: image id of every row.

    Returns:
        row (ascending, each once; the first that is listed), path, label, subset; and by_id, the
        positions in the order of image ids.
    """
    rows = view["row"].to_numpy()
    rows, first = np.unique(rows, return_index=True)
    first, rows = first[rows >= 0], rows[rows >= 0]
    part = view.iloc[first]
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "path": pa.array(part["path"], pa.string()),
            "label": pa.array(part["label"], pa.string()).dictionary_encode(),
            "subset": pa.array(part["subset"], pa.string()).dictionary_encode(),
            "by_id": np.argsort(_take(ids, rows).to_numpy(zero_copy_only=False)),
        }
    ).combine_chunks()


class ImageTable:
    """The images of a view by row.

    Attributes:
        rows: (N,) int64, ascending.
    """

    def __init__(self, columns: pa.Table, ids: pa.ChunkedArray) -> None:
        self.rows: np.ndarray = columns["row"].to_numpy()
        self._columns = columns
        self._ids = ids

    def ids(self, places: Places) -> pa.ChunkedArray:
        """Give the image ids at positions."""
        return _take(self._ids, self.rows[places])

    def place_of(self, image_id: str) -> int:
        """Give the position of an image; -1 if it is not in the set."""
        order = self._columns["by_id"]

        def id_at(number: int) -> str:
            return str(self._ids[int(self.rows[order[number].as_py()])].as_py())

        number = bisect_left(range(len(order)), image_id, key=id_at)
        if number < len(order) and id_at(number) == image_id:
            return int(order[number].as_py())
        return -1

    def names(self, column: str, places: Places) -> np.ndarray:
        """Give labels or subsets at positions, (n,) of `object`: str or None."""
        coded = _take(self._columns[column], places).unify_dictionaries().combine_chunks()
        coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
        names = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
        return np.asarray(names[coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)])

    def paths(self, places: Places) -> pa.ChunkedArray:
        """Give paths at positions."""
        return _take(self._columns["path"], places)


class ImageLookup:
    """The images of a set that have a feature: what `Features.table` gives, row by row.

    Attributes:
        rows: (n,) int64 row numbers, ascending.
    """

    def __init__(
        self,
        images: ImageTable,
        usable: np.ndarray,
        sides: Callable[[np.ndarray, pd.Series], np.ndarray],
    ) -> None:
        """Begin.

        Args:
            images: of the set.
            usable: (n_rows,) bool: whether a row has a feature.
            sides: gives the sides of the split of rows and image ids.
        """
        mask = usable[images.rows]
        # All of them are a mapped column as it is.
        self._places = np.arange(len(mask)) if mask.all() else np.flatnonzero(mask)
        self.rows: np.ndarray = images.rows if mask.all() else images.rows[mask]
        self._images = images
        self._sides = sides

    def __contains__(self, row: int) -> bool:
        """Whether a row is one of them."""
        at = int(np.searchsorted(self.rows, row))
        return at < len(self.rows) and int(self.rows[at]) == row

    def row_of(self, image_id: str) -> int:
        """Give the row of an image; -1 if it is none of them."""
        place = self._images.place_of(image_id)
        row = -1 if place < 0 else int(self._images.rows[place])
        return row if row in self else -1

    def labels(self, rows: np.ndarray) -> NDArray[Any]:
        """Give the labels of rows, (n,) of `object`: None of rows that are none of them."""
        at, present = self._at(rows)
        out = np.full(len(rows), None, dtype=object)
        out[present] = self._images.names("label", self._places[at[present]])
        return out

    def _at(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rows are among these, and whether they are."""
        at = np.searchsorted(self.rows, rows)
        present = at < len(self.rows)
        present[present] = self.rows[at[present]] == rows[present]
        return at, present

    def table(self, rows: np.ndarray | None = None) -> pd.DataFrame:
        """Give images as `Features.table` does.

        Args:
            rows: some of them, in any order; None: all.

        Raises:
            KeyError: a row is none of them.
        """
        rows = self.rows if rows is None else np.asarray(rows, dtype=np.int64)
        at, present = self._at(rows)
        if not present.all():
            raise KeyError(int(rows[~present][0]))
        places = self._places[at]
        ids = self._images.ids(places).to_pandas().astype("str")
        return pd.DataFrame(
            {
                "row": rows,
                "image_id": ids,
                "path": self._images.paths(places).to_pandas().astype("str"),
                "label": pd.Series(self._images.names("label", places), dtype=object),
                "subset": pd.Series(self._images.names("subset", places), dtype=object),
                "split": pd.Series(self._sides(rows, ids), dtype=object),
            }
        )


def _take(values: pa.ChunkedArray, places: np.ndarray) -> Any:
    return values.take(pa.array(places, pa.int64()))
