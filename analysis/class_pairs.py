"""The table `class_pairs` as others read it: all pairs of few classes, of many the nearest alone.

Up to `MANY` classes it has a row for each two, both ways round. Of more it has, for each class, its
own row and those of the `NEAREST_CLASSES` others nearest to it; readers take a pair that is there
one way round only. Nothing that grows with the square of the number of classes is made of it.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def why_no_matrix(class_pairs: pd.DataFrame) -> str:
    """Why the classes have no matrix, as a note; empty if they have one.

    Args:
        class_pairs: of one measure or more.
    """
    # Here: it loads numba, which other files of stored tables do without.
    from alike.analysis.blocks import evaluation_set
    from alike.analysis.pairs import NEAREST_CLASSES

    n = int(class_pairs["class_a"].nunique()) if "class_a" in class_pairs else 0
    if n <= evaluation_set.MANY:
        return ""
    return (
        f"{n:,} classes: no matrix beyond {evaluation_set.MANY:,}; of each class the distances to "
        f"its {NEAREST_CLASSES} nearest are listed"
    )


def named_codes(
    class_pairs: pd.DataFrame,
) -> tuple[pd.Index, NDArray[np.int64], NDArray[np.int64]]:
    """The classes (C,) in the order of the table, and the numbers of both of each row (R,)."""
    sides = [class_pairs[name] for name in ("class_a", "class_b")]
    names = pd.Index(list(dict.fromkeys(name for side in sides for name in side.unique())))
    a, b = (np.asarray(names.get_indexer(side), dtype=np.int64) for side in sides)
    return names, a, b


def nearest_pairs(class_pairs: pd.DataFrame, measure: str, top: int) -> pd.DataFrame:
    """Rows of the pairs of different classes with the smallest mean distance, each pair once.

    Of many classes too the first `NEAREST_CLASSES` are those of all pairs, where the nearest are so
    by mean distance: a pair that is not among those of its class has as many of them before it.

    Args:
        class_pairs: the table of an analysis.
        measure: one of its measures.
        top: most pairs.

    Returns:
        columns of the table, nearest first, `class_a` before `class_b` in the order of the table.
    """
    rows = class_pairs[class_pairs["measure"] == measure]
    names, a, b = named_codes(rows)
    # A pair has two rows at most, of which one may have no mean.
    near = rows["mean"].reset_index(drop=True)[a != b].nsmallest(2 * top).index
    first, second = np.minimum(a, b)[near], np.maximum(a, b)[near]
    near_rows = rows.iloc[near].assign(class_a=names[first], class_b=names[second])
    return near_rows.drop_duplicates(["class_a", "class_b"]).head(top).reset_index(drop=True)
