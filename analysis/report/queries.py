"""Which images a reader should look at: best, worst, most changed, most confused."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from alike.analysis.figures import closest_pairs


def purity(neighbours: pd.DataFrame, labels: Mapping[int, str | None], k: int = 10) -> pd.DataFrame:
    """Share of each image's k nearest that have its class, of as many as its class can fill.

    An image of a class of six has five kin: its purity is the share of them among its five nearest.
    Images alone in their class are left out.

    Args:
        neighbours: table `neighbours` of one measure: row, rank (from 1), neighbour, distance.
        labels: row -> class.
        k: how many neighbours count.

    Returns:
        row (ascending), label, purity (0 to 1), nearest (distance of the first neighbour).
    """
    own = neighbours["row"].map(labels)
    sizes = own[~neighbours["row"].duplicated()].value_counts()
    near = neighbours[neighbours["rank"] <= np.minimum(k, own.map(sizes) - 1)]
    hit = near["row"].map(labels) == near["neighbour"].map(labels)
    share = hit.groupby(near["row"]).mean()
    nearest = near.loc[near["rank"] == 1].set_index("row")["distance"].reindex(share.index)
    return pd.DataFrame(
        {
            "row": share.index.to_numpy(np.int64),
            "label": [labels.get(int(row)) for row in share.index],
            "purity": share.to_numpy(float),
            "nearest": nearest.to_numpy(float),
        }
    )


def best(pure: pd.DataFrame, n: int) -> list[int]:
    """Purest neighbours, the nearest first; as many classes as can be."""
    return _one_a_class(pure.sort_values(["purity", "nearest"], ascending=[False, True]), n)


def worst(pure: pd.DataFrame, n: int) -> list[int]:
    """Least pure neighbours, the nearest (so the most surely wrong) first."""
    return _one_a_class(pure.sort_values(["purity", "nearest"]), n)


def most_changed(before: pd.DataFrame, after: pd.DataFrame, n: int) -> tuple[list[int], list[int]]:
    """Rows whose purity rose most, and those whose purity fell most; only real changes."""
    both = before.merge(after[["row", "purity", "nearest"]], on="row", suffixes=("_before", ""))
    both["change"] = both["purity"] - both["purity_before"]
    ranked = both.sort_values(["change", "nearest"], ascending=[False, True])
    helped = _one_a_class(ranked[ranked["change"] > 0], n)
    hurt = _one_a_class(ranked[ranked["change"] < 0].iloc[::-1], n)
    return helped, hurt


def turnover(
    before: pd.DataFrame, after: pd.DataFrame, labels: Mapping[int, str | None]
) -> dict[str, float]:
    """How many neighbours stayed, came and went, and how many of these have the image's class.

    Args:
        before: table `neighbours` of one measure.
        after: the same of the second network, on the same images.
        labels: row -> class.

    Returns:
        k, kept, gained, gained_right, lost_right: means an image (lost is as many as gained).
    """
    pairs = before[["row", "neighbour"]].merge(
        after[["row", "neighbour"]], on=["row", "neighbour"], how="outer", indicator=True
    )
    right = pairs["row"].map(labels).to_numpy() == pairs["neighbour"].map(labels).to_numpy()
    side = pairs["_merge"].to_numpy(str)
    n = max(before["row"].nunique(), 1)
    return {
        "k": len(before) / n,
        "kept": float((side == "both").sum() / n),
        "gained": float((side == "right_only").sum() / n),
        "gained_right": float(((side == "right_only") & right).sum() / n),
        "lost_right": float(((side == "left_only") & right).sum() / n),
    }


def _one_a_class(ranked: pd.DataFrame, n: int) -> list[int]:
    """The first of every class in this order, then the second ones, until there are n."""
    turn = ranked.groupby("label", sort=False, dropna=False).cumcount()
    order = turn.sort_values(kind="stable").index
    return [int(row) for row in ranked.loc[order, "row"].iloc[:n]]


def confused(
    class_pairs: pd.DataFrame,
    measure: str,
    neighbours: pd.DataFrame,
    labels: Mapping[int, str | None],
    n_pairs: int = 4,
    n_images: int = 6,
) -> list[tuple[str, str, float, list[tuple[int, int, float]]]]:
    """Pairs of classes that are most often taken for each other, with images that show it.

    Pairs of classes rank by how many neighbours cross between them, per image of the two; where no
    neighbour crosses, by their mean distance.

    Args:
        class_pairs: the table of the analysis.
        measure: of the neighbours.
        neighbours: table `neighbours` of one measure.
        labels: row -> class.
        n_pairs: how many pairs of classes.
        n_images: how many pairs of images for each.

    Returns:
        (class, class, share of the neighbours of the two that lie in the other, pairs of images as
        (row, row, distance), nearest first).
    """
    table = neighbours.assign(
        own=neighbours["row"].map(labels), other=neighbours["neighbour"].map(labels)
    )
    total = table.groupby("own").size()
    across = table[table["own"] != table["other"]].copy()
    if across.empty:
        near = closest_pairs(class_pairs, measure, n_pairs)
        return [(a, b, 0.0, []) for a, b in zip(near["class_a"], near["class_b"], strict=True)]
    across["low"] = np.minimum(across["own"].astype(str), across["other"].astype(str))
    across["high"] = np.maximum(across["own"].astype(str), across["other"].astype(str))
    # Of many classes there are hundreds of thousands of pairs: only those shown are looked into.
    groups = across.groupby(["low", "high"], sort=False)
    crossing = groups.size()
    of_either = [total.reindex(crossing.index.get_level_values(i), fill_value=0) for i in (0, 1)]
    shares = crossing / np.maximum(of_either[0].to_numpy() + of_either[1].to_numpy(), 1)
    shares = shares.sort_values(ascending=False, kind="stable").head(n_pairs)
    return [
        (low, high, float(share), _distinct_pairs(groups.get_group((low, high)), n_images))
        for (low, high), share in shares.items()
    ]


def _distinct_pairs(group: pd.DataFrame, n: int) -> list[tuple[int, int, float]]:
    """The nearest pairs, each image at most once."""
    used: set[int] = set()
    pairs: list[tuple[int, int, float]] = []
    for row in group.sort_values("distance").itertuples():
        if row.row in used or row.neighbour in used:
            continue
        used |= {row.row, row.neighbour}
        pairs.append((int(row.row), int(row.neighbour), float(row.distance)))
        if len(pairs) == n:
            break
    return pairs
