"""Which stored images are near copies, for measures that cannot tell: inner products.

Keys of inner products are no squared distances, by which copies are known. So another measure of
the same images tells them: the first that is stored and not fitted, `gap_cosine` if it may be.
"""

from typing import TYPE_CHECKING

from alike.analysis.blocks import MEMORY, EvaluationSet, MapBlocks, stored_vectors
from alike.analysis.neighbours import Links, nearest
from alike.extract.errors import BadInput
from alike.extract.measures import MEASURES, ready_measure

if TYPE_CHECKING:
    from alike.extract.store import Features

NEIGHBOURS = 10


def copy_links(
    features: "Features",
    images: EvaluationSet,
    *,
    memory: int = MEMORY,
    map_blocks: MapBlocks = map,
) -> Links | None:
    """Places and keys of the nearest by the first measure that tells copies; None: none does.

    Args:
        features: of the images.
        images: the evaluation set.
        memory: bytes of vectors that are held; 0 where workers elsewhere read them.
        map_blocks: how panels of images are mapped.
    """
    able = [name for name, row in MEASURES.items() if row.form != "inner" and not row.needs_fit]
    for name in able:
        try:
            measure = ready_measure(features, name)
            if not features.committed(measure.taps, good=True)[images.rows].all():
                continue
            vectors = stored_vectors(features, measure, images.rows, memory=memory)
        except BadInput:
            continue
        near = nearest(vectors, images, NEIGHBOURS, map_blocks=map_blocks)
        return near.places, near.keys
    return None
