"""How the AUC moves with each unit, for replicates of many networks on the same images."""

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, MapBlocks, Vectors
from alike.analysis.pairs.counts import PairCounts
from alike.analysis.pairs.influence import (
    Tables,
    Units,
    coarse,
    influence_tables,
    pair_influence,
    pass_over_pairs,
)

Floats = NDArray[np.float64]


def auc_movements(
    vectors: Vectors,
    counts: PairCounts,
    images: EvaluationSet,
    units: Units,
    *,
    map_blocks: MapBlocks = map,
) -> Floats:
    """Movement (U,) of the AUC by each unit, mean 0 within a stratum.

    With weights w of the units, the AUC is near AUC + sum (w - 1) movement.

    Args:
        vectors: of the images.
        counts: histograms of all their pairs.
        images: the evaluation set, of at most 16,384 images.
        units: what is independent.
        map_blocks: how blocks of rows are mapped.
    """
    n = images.counts.astype(np.float64)
    paired = (n > 1) / (n > 1).sum()
    same, different, _ = influence_tables(*coarse(counts.balanced))["auc"]
    tables = Tables(
        same[None, None], different[None, None], np.ones((1, 1)), np.zeros(1, np.int64),
        (n > 0).astype(np.float64)[None], paired[None],
    )  # fmt: skip
    sides = [(vectors, counts.bins)]
    sums = pass_over_pairs(sides, images, tables, map_blocks=map_blocks).sums
    moved = pair_influence(
        sums, 0, images.counts, images.codes, units.named, units.stratum, paired, tables.g[0]
    )
    return moved.unit
