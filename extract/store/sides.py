"""On which side of the split images stand that belong together: pure functions of arrays.

An image alone stands where its hash says. Images that show one picture, or are of one group, form
a component, and a component stands on one side: training on one of two copies and scoring by the
other would flatter.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from alike.extract.images import SIDES, splits_of


@dataclass(frozen=True)
class Split:
    """How the images of a store are split.

    Attributes:
        train_share: expected share that may be trained on, 0 to 1.
        salt: another salt gives another split.
        validation_share: expected share by which networks are chosen, 0 to 1 - `train_share`.
    """

    train_share: float = 0.0
    salt: str = ""
    validation_share: float = 0.0

    def sides(self, image_ids: pd.Series | np.ndarray) -> np.ndarray:
        """Give the side of every image by its hash alone, (N,) of `object`."""
        return splits_of(image_ids, self.train_share, self.salt, self.validation_share)


def components(pairs: np.ndarray) -> pd.DataFrame:
    """Give the connected components of pairs of rows.

    Args:
        pairs: (n, 2) int64.

    Returns:
        row (ascending, each once), component (its smallest row).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, at = np.unique(pairs, return_inverse=True)
    at = at.reshape(-1, 2)
    graph = coo_array((np.ones(len(at), bool), (at[:, 0], at[:, 1])), shape=(len(rows), len(rows)))
    _, labels = connected_components(graph, directed=False)
    first = np.full(int(labels.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, labels, rows)
    return pd.DataFrame({"row": rows, "component": first[labels]})


def sides_of(
    members: pd.DataFrame,
    split: Split,
    stored: Mapping[int, str],
    trained: Collection[str],
) -> pd.DataFrame:
    """Give every component one side.

    That of most of its stored members, train before validation before held out where as many are
    on each; without stored members that of its smallest image id. A component with an image that
    was trained on is `train`, whatever the others were.

    Args:
        members: row, component, image_id.
        split: of the store.
        stored: row to the side that it had until now.
        trained: ids of images that a network was trained on.

    Returns:
        `members` with a column side.
    """
    by_hash = split.sides(members["image_id"])
    was = [stored.get(row) for row in members["row"].tolist()]
    table = members.assign(
        by_hash=by_hash,
        was=pd.Series(was, members.index, dtype=object),
        trained=members["image_id"].isin(list(trained)),
    )
    chosen = {}
    for component, part in table.groupby("component"):
        votes = part["was"].value_counts()
        if part["trained"].any():
            chosen[component] = "train"
        elif len(votes):
            chosen[component] = max(SIDES, key=lambda side: (votes.get(side, 0), _before(side)))
        else:
            chosen[component] = part.loc[part["image_id"].idxmin(), "by_hash"]
    return members.assign(side=members["component"].map(chosen).astype(object))


def _before(side: str) -> int:
    return -SIDES.index(side)


def ranges_of(rows: np.ndarray) -> list[list[int]]:
    """Give ascending rows as [first, last + 1] ranges: short where they follow on each other."""
    cuts = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [[int(part[0]), int(part[-1]) + 1] for part in cuts if len(part)]


def rows_in(ranges: list[list[int]]) -> np.ndarray:
    """Give the rows of ranges, ascending."""
    parts = [np.arange(first, end, dtype=np.int64) for first, end in ranges]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
