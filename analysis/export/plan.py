"""What an export writes: images, arrays, tables, and the manifest that goes into every file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from alike.analysis.export.result import Result
from alike.extract.progress import Progress

COLUMN_UNITS = {
    "row": "row number in the store",
    "row_a": "row number in the store",
    "row_b": "row number in the store",
    "neighbour": "row number in the store",
    "rank": "1 is the nearest",
    "distance": "the measure's own distance, smaller is nearer",
    "threshold": "the measure's own distance",
    "bin_low": "the measure's own distance",
    "bin_high": "the measure's own distance",
    "mean": "the measure's own distance, smaller is nearer",
    "std": "the measure's own distance",
    "q05": "the measure's own distance, below which 5 % of the pairs lie",
    "median": "the measure's own distance",
    "q95": "the measure's own distance, below which 95 % of the pairs lie",
    "intra_mean": "the measure's own distance",
    "inter_mean": "the measure's own distance",
    "same": "pairs of one class, weighed so that every class counts the same",
    "different": "pairs of two classes, weighed so that every two classes count the same",
    "n_pairs": "pairs of images",
    "n": "images",
    "far": "share of different pairs accepted, 0 to 1",
    "tar": "share of same pairs accepted, 0 to 1",
    "sameness": "-1 to 1, up is better",
    "auc": "0 to 1, up is better",
    "balanced_accuracy": "0 to 1, up is better",
    "low": "lower end of the 95 % interval",
    "high": "upper end of the 95 % interval",
}


@dataclass(frozen=True)
class Plan:
    """Everything that a writer needs.

    Attributes:
        features: the features of one extraction.
        images: row, image_id, path, label, split, and the places of a map where there is one.
        arrays: names of the feature arrays to write.
        results: tables to write.
        manifest: goes inside the file.
        neighbours: row, rank, neighbour, distance of one measure, or None.
        pictures: whether to write small pictures, where the file can hold them.
        progress: told how many images are written.
    """

    features: Any
    images: pd.DataFrame
    arrays: tuple[str, ...]
    results: tuple[Result, ...]
    manifest: dict[str, Any]
    neighbours: pd.DataFrame | None
    pictures: bool
    progress: Progress

    @property
    def rows(self) -> np.ndarray:
        """Row numbers, int64 ascending."""
        return np.asarray(self.images["row"], dtype=np.int64)

    def blocks(self) -> Iterator[tuple[pd.DataFrame, dict[str, np.ndarray]]]:
        """Images with their arrays, one stored shard at a time."""
        if not self.arrays:
            yield self.images, {}
            return
        done = 0
        for rows, values in self.features.blocks(list(self.arrays), self.rows):
            yield self.images.iloc[done : done + len(rows)], values
            done += len(rows)
            self.progress("export", done, len(self.images))

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of one image's array."""
        return tuple(int(n) for n in self.features.read(name, self.rows[:1]).shape[1:])
