"""The table of losses: what is added to cross-entropy so that alike images get alike features.

A row makes its function for a number of classes and channels; the function takes a `StepView`:

>>> import torch
>>> maps = torch.ones(4, 8, 2, 2)
>>> labels = torch.tensor([0, 0, 1, 1])
>>> row = LOSSES["gap_supcon"]
>>> contrast = row.make(2, 8)
>>> round(float(contrast(StepView(maps, labels, mask=lambda: maps[:, 0] / 4))), 4)
1.0986

Four equal features: the value by which a collapse is recognised, log(4 - 1).

>>> round(row.collapsed(4), 4)
1.0986
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor

from alike.extract.errors import BadInput
from alike.extract.measures import MEASURES
from alike.train.icnn import icnn_loss
from alike.train.map_losses import (
    NEGATIVE_MARGIN,
    StepView,
    cam_chamfer,
    cam_supcon,
    cam_supcon_background,
    map_pair,
    map_pair_raw,
)
from alike.train.measured import vectors_of
from alike.train.vector_losses import (
    CentreLoss,
    SimilarClasses,
    Vectors,
    gap_supcon,
    measure_supcon,
    triplet_batch_hard,
    triplet_semi_hard,
)

LossFunction = Callable[[StepView], Tensor]


@dataclass(frozen=True)
class Loss:
    """One way to train: cross-entropy + λ(t) · consistency, or a change of the head or targets.

    Attributes:
        name: as on the command line.
        about: one line for `alike list losses`.
        make: (classes, channels) -> consistency function of one step; None for a control.
        weight: λ_max, the share of the consistency term after its ramp.
        collapsed: value of the term for a batch of B equal features, as a function of B; None
            if a small value is no sign of collapse.
        gradient_share: when set, λ is chosen at every step so that the gradient of the term on
            the feature map has this share of the norm of the gradient of cross-entropy.
        masked: whether it needs to know where the class is in the map.
        of: vectors of a measure to the consistency function of these; None if the term is not
            one of vectors alone. Such a loss is also known as NAME:MEASURE.
        taps: what the term reads of the network.
        linear: whether it reads the weights of a linear classifier.
        smoothing: label smoothing of the cross-entropy, 0 to 1.
        head: "etf" fixes the classifier to a simplex equiangular tight frame.
    """

    name: str
    about: str
    make: Callable[[int, int], LossFunction] | None = None
    weight: float = 0.0
    collapsed: Callable[[int], float] | None = None
    gradient_share: float | None = None
    masked: bool = False
    of: Callable[[Vectors], LossFunction] | None = None
    taps: tuple[str, ...] = ("last_conv",)
    linear: bool = False
    smoothing: float = 0.0
    head: Literal["linear", "etf"] = "linear"


def _fixed(function: LossFunction) -> Callable[[int, int], LossFunction]:
    return lambda classes, channels: function


def _contrast_of(vectors: Vectors) -> LossFunction:
    return partial(measure_supcon, vectors=vectors)


def _triplet_of(vectors: Vectors) -> LossFunction:
    return partial(triplet_semi_hard, vectors=vectors)


def _even_contrast(batch: int) -> float:
    return math.log(max(batch - 1, 1))


_ROWS = (
    Loss("ce", "cross-entropy alone: the control"),
    Loss(
        "gap_supcon",
        "supervised contrast of the pooled, normalised feature (default)",
        _fixed(gap_supcon),
        weight=0.5,
        collapsed=_even_contrast,
    ),
    Loss(
        "gap_supcon_similar",
        "gap_supcon in which negatives of similar classes count less: keeps which classes are near",
        SimilarClasses,
        weight=0.5,
        collapsed=_even_contrast,
    ),
    Loss(
        "supcon",
        "supervised contrast of the vectors of a measure, as in supcon:gem_cosine",
        _fixed(gap_supcon),
        weight=0.5,
        collapsed=_even_contrast,
        of=_contrast_of,
    ),
    Loss(
        "map_pair",
        "pairs of normalised feature maps: same within, different beyond a margin",
        _fixed(map_pair),
        weight=1.0,
        collapsed=lambda batch: NEGATIVE_MARGIN,
    ),
    Loss(
        "map_pair_raw",
        "the same on raw maps: does not converge, offered to show that",
        _fixed(map_pair_raw),
        weight=1.0,
        collapsed=lambda batch: NEGATIVE_MARGIN,
    ),
    Loss(
        "cam_supcon",
        "contrast of the feature pooled by the class activation map",
        _fixed(cam_supcon),
        weight=0.5,
        masked=True,
        collapsed=_even_contrast,
    ),
    Loss(
        "cam_supcon_background",
        "cam_supcon, and a penalty on activation outside the class activation map",
        _fixed(cam_supcon_background),
        weight=0.5,
        masked=True,
    ),
    Loss(
        "cam_chamfer",
        "contrast of best-matching parts wherever they are, weighted by class activation",
        _fixed(cam_chamfer),
        weight=0.5,
        masked=True,
        collapsed=_even_contrast,
    ),
    Loss(
        "triplet",
        "FaceNet: semi-hard triplets of normalised features, margin 0.2; triplet:fc_cosine",
        _fixed(triplet_semi_hard),
        weight=0.5,
        of=_triplet_of,
    ),
    Loss(
        "triplet_hard",
        "hardest positive and negative of the batch, soft margin, unnormalised",
        _fixed(triplet_batch_hard),
        weight=0.5,
        collapsed=lambda batch: math.log(2.0),
    ),
    Loss(
        "centre",
        "distance of the normalised feature to the running centre of its class",
        CentreLoss,
        weight=0.5,
    ),
    Loss(
        "icnn",
        "interpretable CNN: each filter is active at one position or at none (exact information)",
        _fixed(icnn_loss),
        weight=1.0,
        gradient_share=0.1,
    ),
    Loss("etf_head", "cross-entropy with a fixed simplex classifier: a control", head="etf"),
    Loss("label_smoothing", "cross-entropy with smoothed targets: a control", smoothing=0.1),
)

LOSSES: dict[str, Loss] = {row.name: row for row in _ROWS}


def loss_named(name: str) -> Loss:
    """The row of `LOSSES` called `name`, or for NAME:MEASURE that row on vectors of a measure.

    Raises:
        BadInput: an unknown loss, a measure that is unknown or cannot be trained, or a loss that
            takes none.

    Examples:
        >>> loss_named("triplet").weight
        0.5
        >>> loss_named("supcon:fc_cosine").taps
        ('fc',)
        >>> loss_named("centre:fc_cosine")
        Traceback (most recent call last):
        ...
        alike.extract.errors.BadInput: loss 'centre:fc_cosine': centre takes no measure; those \
that do are supcon, triplet
    """
    first, colon, measure = name.partition(":")
    if first not in LOSSES:
        raise BadInput(f"loss {name!r} is not known; choose one of {', '.join(LOSSES)}")
    row = LOSSES[first]
    if not colon:
        return row
    if row.of is None:
        rows = ", ".join(one.name for one in _ROWS if one.of)
        raise BadInput(f"loss {name!r}: {first} takes no measure; those that do are {rows}")
    function = row.of(vectors_of(measure))
    taps, linear = MEASURES[measure].taps, bool(MEASURES[measure].constants)
    return replace(row, name=name, make=_fixed(function), taps=taps, linear=linear)
