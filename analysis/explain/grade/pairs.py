"""A grade for explanations of likeness: does the similarity of a pair follow the map?

As `grade`, with the similarity of image a to a fixed image b in place of a class probability. A
further control is the same method's map of a towards another image: a map that does as well for
any image says where a is likely to count, not what a and b share.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from alike.analysis.explain.grade.curves import Floats, batches, in_cells
from alike.analysis.explain.grade.grade import (
    ENERGY,
    NUMBERS,
    SIDE,
    TO_ANOTHER,
    Grading,
    numbers_of,
    table_of,
    with_permuted_weights,
)
from alike.analysis.explain.gradients import DoesNotFit
from alike.analysis.explain.images import LIKENESS
from alike.analysis.explain.inputs import evaluating
from alike.analysis.explain.likeness_pixels import (
    PAIR_EXPLAINERS,
    Embedding,
    Limits,
    map_relevance_to,
    pair_explainer,
    relevance_to,
    usual_embedding,
)
from alike.extract.errors import BadInput
from alike.extract.networks import forward_taps
from alike.extract.progress import Progress, silent

PAIR_METHODS = (LIKENESS, *PAIR_EXPLAINERS)
PAIR_NUMBERS = (*NUMBERS, TO_ANOTHER)


def grade_pairs(
    module: nn.Module,
    images: Tensor,
    partners: Tensor,
    methods: Sequence[str] = PAIR_METHODS,
    embedding: Embedding | None = None,
    *,
    grading: Grading | None = None,
    limits: Limits = None,
    progress: Progress = silent,
    tell: Callable[[str], object] = lambda _: None,
) -> pd.DataFrame:
    """Grade explainers of likeness by the similarity of pairs of images.

    Args:
        module: a network with a last map.
        images: network input (N, 3, H, W); their cells are blurred.
        partners: (N, 3, H, W), the image that each is compared with.
        methods: `likeness` and names of `PAIR_EXPLAINERS`; what does not fit is left out.
        embedding: of the measure; None: the cosine of pooled maps.
        grading: how.
        limits: the network's input for black and for white, see `lrp`.
        progress: told after every method.
        tell: gets a line for each method that is left out, with the reason.

    Returns:
        The table of `grade` with deletion_to_another, low and high: deletion less that of the
        same method's map towards the partner of another pair. The first and the second pair lend
        each other their partners, the third and the fourth, and so on; so the mean and its
        interval are of the means of two pairs, which share no image with other two. A last pair
        without a fellow counts not.

    Raises:
        BadInput: fewer than two pairs, an unknown method, or none of them fits.
    """
    if len(images) < 2:
        raise BadInput(f"{len(images)} pairs: give two or more")
    grading, embedding = grading or Grading(), embedding or usual_embedding()
    module = embedding.ready(module, (int(images.shape[-2]), int(images.shape[-1])))

    def vectors_of(network: nn.Module, inputs: Tensor) -> Tensor:
        parts = [embedding.vectors(network, part) for part in batches(inputs, grading.batch_size)]
        return torch.cat(parts)

    with evaluating(module), torch.no_grad():
        energies = [
            forward_taps(module, part, ["last_conv"])["last_conv"].norm(dim=1)
            for part in batches(images, grading.batch_size)
        ]
    last = torch.cat(energies)
    grid = (min(SIDE, int(last.shape[1])), min(SIDE, int(last.shape[2])))
    changed = with_permuted_weights(
        module, grading.seed, images[:1],
        lambda network: embedding.before_unit(forward_taps(network, images[:1], embedding.taps)),
    )  # fmt: skip
    targets = vectors_of(module, partners)
    asked = {
        "own": (module, targets),
        "another": (module, _exchanged(targets)),
        "permuted": (changed, vectors_of(changed, partners)),
    }
    cells: dict[str, dict[str, Floats]] = {name: {} for name in asked}
    for done, method in enumerate(methods, start=1):
        try:
            for name, (network, other) in asked.items():
                maps = maps_to(
                    network, images, other, method, embedding, grading.batch_size, limits
                )
                cells[name][method] = in_cells(maps, grid)
        except DoesNotFit as error:
            tell(f"{method}: {error}")
            continue
        progress("maps", done, len(methods), method)
    if not cells["own"]:
        raise BadInput(f"none of {', '.join(methods)} fits this network")
    cells["own"][ENERGY] = in_cells(last, grid)

    def similarity(inputs: Tensor) -> Tensor:
        return embedding.similarity(vectors_of(module, inputs), targets)

    with evaluating(module), torch.no_grad():
        numbers = numbers_of(
            similarity, images, cells["own"], cells["permuted"], grid, grading, progress,
            another=cells["another"],
        )  # fmt: skip
    return table_of(numbers, len(images), grid, PAIR_NUMBERS)


def _exchanged(targets: Tensor) -> Tensor:
    """Targets (N, D) exchanged between the first and second, the third and fourth and so on."""
    order = torch.arange(len(targets))
    even = len(order) // 2 * 2
    order[:even] = order[:even].reshape(-1, 2).flip(1).flatten()
    return targets[order.to(targets.device)]


def maps_to(
    module: nn.Module,
    images: Tensor,
    other: Tensor,
    method: str,
    embedding: Embedding,
    batch_size: int,
    limits: Limits,
) -> Tensor:
    """Maps (N, h, w) of images (N, 3, H, W) towards vectors (N, D)."""
    if method != LIKENESS:
        pair_explainer(method)
    parts = zip(batches(images, batch_size), batches(other, batch_size), strict=True)
    maps = [
        map_relevance_to(module, part, vectors, embedding)
        if method == LIKENESS
        else relevance_to(module, part, vectors, method, embedding, limits=limits)
        for part, vectors in parts
    ]
    return torch.cat(maps).cpu()


KINDS = ("same class", "different classes")
"""Kinds of pairs that are graded."""


def pairs_of(table: pd.DataFrame, count: int) -> dict[str, list[tuple[int, int]]]:
    """Pairs of positions in a table of images, none of which is in two pairs of a kind.

    Args:
        table: with image_id and label.
        count: pairs of each kind, at most.

    Returns:
        `same class` and `different classes` to pairs, spread evenly over the classes, in the order
        of the image ids; kinds of fewer than two pairs are left out.
    """
    table = table.reset_index(drop=True)
    labels = table["label"].fillna("").to_numpy()
    # An image without a label is of no pair, and takes no other's place.
    table = table.assign(label=labels)[labels != ""].sort_values(["label", "image_id"])
    place = table.groupby("label").cumcount().to_numpy()
    rows = table.index.to_numpy()
    turns = rows[np.lexsort((labels[rows], place))]
    by_class = [rows[labels[rows] == label] for label in np.unique(labels[rows])]
    rounds = max((len(members) // 2 for members in by_class), default=0)
    same = [
        (int(members[2 * turn]), int(members[2 * turn + 1]))
        for turn in range(rounds)
        for members in by_class
        if 2 * turn + 1 < len(members)
    ]
    couples = zip(turns[::2], turns[1::2], strict=False)
    different = [(int(one), int(other)) for one, other in couples if labels[one] != labels[other]]
    kinds = dict(zip(KINDS, (same[:count], different[:count]), strict=True))
    return {kind: pairs for kind, pairs in kinds.items() if len(pairs) > 1}
