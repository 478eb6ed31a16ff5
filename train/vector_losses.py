"""Consistency losses on the pooled feature: contrast, triplets, centres."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from alike.extract.measures.gradients import unit
from alike.train.map_losses import StepView
from alike.train.similarity import same_class, supcon

MARGIN = 0.2
Vectors = Callable[[StepView], Tensor]


def pooled(view: StepView) -> Tensor:
    """The feature map averaged over its positions, (B, C)."""
    return view.maps.mean((2, 3))


def gap_supcon(view: StepView) -> Tensor:
    """Supervised contrast (T = 0.1) of z = normalise(mean_p a_p)."""
    features = unit(pooled(view))
    return supcon(features @ features.T, view.labels)


def measure_supcon(view: StepView, vectors: Vectors) -> Tensor:
    """Supervised contrast (T = 0.1) of the inner products of a measure's vectors (B, D).

    These are its cosines, for a measure of that form; of `softmax_dot` what it is named after.
    """
    features = vectors(view)
    return supcon(features @ features.T, view.labels)


@functools.cache
def _semi_hard(margin: float) -> tuple[Any, Any]:
    from pytorch_metric_learning import distances, losses, miners

    distance = distances.LpDistance(normalize_embeddings=True, p=2, power=2)
    miner = miners.TripletMarginMiner(margin, type_of_triplets="semihard", distance=distance)
    return miner, losses.TripletMarginLoss(margin, distance=distance)


@functools.cache
def _batch_hard(margin: float | None) -> tuple[Any, Any]:
    from pytorch_metric_learning import distances, losses, miners, reducers

    distance = distances.LpDistance(normalize_embeddings=False, p=2, power=1)
    return miners.BatchHardMiner(distance=distance), losses.TripletMarginLoss(
        margin or 0.0,
        smooth_loss=margin is None,
        distance=distance,
        reducer=reducers.MeanReducer(),
    )


def triplet_semi_hard(view: StepView, margin: float = MARGIN, vectors: Vectors = pooled) -> Tensor:
    """FaceNet: mean of [|a-p|² - |a-n|² + m]+ over semi-hard triplets of unit vectors."""
    miner, loss = _semi_hard(margin)
    features = unit(vectors(view))
    return _mined(miner, loss, features, view.labels)


def triplet_batch_hard(view: StepView, margin: float | None = None) -> Tensor:
    """Hermans 2017: softplus (or hinge at `margin`) of hardest positive - hardest negative."""
    miner, loss = _batch_hard(margin)
    return _mined(miner, loss, pooled(view), view.labels)


def _mined(miner: Any, loss: Any, features: Tensor, labels: Tensor) -> Tensor:
    value: Tensor = loss(features, labels, miner(features, labels))
    return value


class ClassCentres(nn.Module):
    """Running centres of the unit features of each class (facenet, 0.95).

    Args:
        classes: number of classes K.
        channels: D of the feature.
        keep: share of the old centre that is kept at each step in which its class appears.
    """

    centres: Tensor
    seen: Tensor

    def __init__(self, classes: int, channels: int, keep: float = 0.95) -> None:
        super().__init__()
        self.keep = keep
        self.register_buffer("centres", torch.zeros(classes, channels))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    def follow(self, features: Tensor, labels: Tensor) -> None:
        """Move the centres of the classes of a batch towards its unit features (B, D)."""
        present, slot = torch.unique(labels, return_inverse=True)
        sums = features.new_zeros(len(present), features.shape[1]).index_add_(0, slot, features)
        means = (sums / torch.bincount(slot)[:, None]).to(self.centres.dtype)
        keep = torch.where(self.seen[present], self.keep, 0.0)[:, None]
        self.centres[present] = (keep * self.centres[present] + (1 - keep) * means).to(
            self.centres.dtype
        )
        self.seen[present] = True


class CentreLoss(ClassCentres):
    """½ mean |z - c_y|² of unit features; the centres follow the class means."""

    def forward(self, view: StepView) -> Tensor:
        """The loss of one batch; moves the centres, without gradient, before it."""
        features = unit(pooled(view))
        self.follow(features.detach(), view.labels)
        centres = self.centres.to(features.dtype)
        return 0.5 * (features - centres[view.labels]).square().sum(1).mean()


class SimilarClasses(ClassCentres):
    """`gap_supcon` in which negatives of a similar class count less.

    A negative of class b counts 1 - cos(c_a, c_b) for an image of class a, with c the running
    centres, divided by the mean of that over the negatives of the image. Cats are then pushed away
    from dogs less than from ships, and the order of class pairs can stay.
    """

    def forward(self, view: StepView) -> Tensor:
        """The loss of one batch; moves the centres, without gradient, before it."""
        features = unit(pooled(view))
        self.follow(features.detach(), view.labels)
        centres = unit(self.centres.to(features.dtype))[view.labels]
        _, different = same_class(view.labels)
        apart = (1.0 - centres @ centres.T).clamp_min(1e-6) * different
        count = different.sum(1, keepdim=True).clamp_min(1)
        mean = (apart.sum(1, keepdim=True) / count).clamp_min(1e-6)
        return supcon(features @ features.T, view.labels, shares=apart / mean)
