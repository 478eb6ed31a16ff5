"""The two probes as scores of a network: fitted on train images, evaluated on the others.

An interval is over images that are evaluated, given the train images: once fitted, a probe says
of each image by itself whether it is right, so no gallery is shared between them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import (
    EvaluationSet,
    MapBlocks,
    Vectors,
    blocks,
    evaluation_set_of,
    stored_vectors,
)
from alike.analysis.pairs import right_interval, units_of
from alike.analysis.probes.linear import LinearProbe, fit_linear
from alike.analysis.probes.votes import vote_rights
from alike.analysis.scores import score_row
from alike.extract.errors import BadInput
from alike.extract.measures import MEASURES, Measure, balanced_rows

if TYPE_CHECKING:
    from alike.extract.store import Features

Floats = NDArray[np.float64]
Stage = Callable[[str], MapBlocks]

KNN = 20
"""Train images that vote."""
POOLED = MEASURES["gap_euclid"]
NAMES = ("knn_probe", "linear_probe")
BUDGET = 1e14
"""Multiplications of the neighbour probe; of more train images a balanced sample votes."""


@dataclass(frozen=True)
class Probed:
    """What the probes say of each image.

    Attributes:
        rights: name of the probe to (N,) 1 right, 0 wrong, between them where votes are equal.
        images: those that were evaluated.
        notes: name of the probe to what a reader must know.
        made_of: vectors and classes that it follows from: of these images, and of the train images.
    """

    rights: dict[str, Floats]
    images: EvaluationSet
    notes: dict[str, str]
    made_of: tuple[tuple[Vectors, EvaluationSet], ...]

    def digest(self) -> str:
        """Of what it follows from: with the same one every image is right or wrong alike."""
        out = hashlib.sha256()
        for vectors, images in self.made_of:
            out.update("\0".join(images.classes).encode() + images.codes.tobytes())
            for low, high in blocks(vectors.n, vectors.dim):
                out.update(vectors.fetch.embedded(low, high).tobytes())
        return out.hexdigest()


def probe_rights(
    features: "Features",
    images: EvaluationSet,
    stage: Stage,
    *,
    measure: Measure = POOLED,
    budget: float = BUDGET,
) -> Probed:
    """Fit both probes on the train images of an extraction and evaluate them on others.

    Args:
        features: the extraction.
        images: to evaluate; those that are train images are left out.
        stage: name of a stage to the way in which its blocks are mapped.
        measure: whose vectors are standardised and read; not fitted.
        budget: multiplications of the neighbour probe.

    Raises:
        BadInput: what the measure reads is not stored, too few train images, or no others.
    """
    absent = [tap for tap in measure.taps if tap not in features.arrays]
    if absent:
        names = ", ".join(absent)
        command = f"--taps {','.join(absent)}"
        raise BadInput(f"{features.key} stores no {names}, which probes read: add it by {command}")
    train = _train_images(features, measure)
    good = features.committed(measure.taps, good=True)[images.rows]
    apart = good & ~np.isin(images.rows, train.rows)
    if not apart.any():
        msg = (
            "every evaluated image is a train image, which fitted the probes: use --split held_out"
        )
        raise BadInput(msg)
    left = images if apart.all() else images.take(apart)
    asking = stored_vectors(features, measure, left.rows)
    gallery = stored_vectors(features, measure, train.rows)
    probe = fit_linear(gallery, train, stage)
    of_train = {name: code for code, name in enumerate(train.classes)}
    true_codes = np.array([of_train.get(name, -1) for name in left.classes])[left.codes]
    few, voters = _voters(gallery, train, len(left), budget)
    rights = {
        "knn_probe": vote_rights(
            asking,
            true_codes,
            few,
            voters.codes,
            probe.standard,
            KNN,
            map_blocks=stage("probe votes"),
        ),
        "linear_probe": _linear_rights(asking, gallery, true_codes, probe),
    }
    everywhere = _everywhere(len(train), left, images, true_codes)
    voting = f"{min(KNN, len(voters))} nearest of {len(voters)} train images vote"
    return Probed(
        rights,
        left,
        {
            "knn_probe": f"{voting}; {everywhere}",
            "linear_probe": f"discriminant analysis, ridge {probe.ridge:g}; {everywhere}",
        },
        ((asking, left), (gallery, train)),
    )


def probe_scores(
    features: "Features",
    images: EvaluationSet,
    stage: Stage,
    *,
    units: NDArray[np.int64] | None = None,
    intervals: bool = True,
    budget: float = BUDGET,
) -> pd.DataFrame:
    """Rows of `scores` under the measure `network`: the accuracy of both probes.

    Args:
        features: the extraction.
        images: to evaluate.
        stage: name of a stage to the way in which its blocks are mapped.
        units: (N,) the unit of each image where some are near copies; None: each is one.
        intervals: compute them.
        budget: see `probe_rights`.

    Raises:
        BadInput: as `probe_rights`.
    """
    probed = probe_rights(features, images, stage, budget=budget)
    in_probe = np.isin(images.rows, probed.images.rows)
    own = None if units is None else np.unique(units[in_probe], return_inverse=True)[1]
    of = units_of(probed.images, own)
    rows = [
        score_row(
            "network", name, float(right.mean()),
            right_interval(right, of) if intervals else (float("nan"), float("nan")),
            probed.notes[name],
        )
        for name, right in probed.rights.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _train_images(features: "Features", measure: Measure) -> EvaluationSet:
    table = features.whole.table("train")
    table = table[features.committed(measure.taps, good=True)[table["row"].to_numpy()]]
    if not len(table):
        msg = (
            f"probes are fitted on train images, and {features.key} has none: set a train share "
            "(--train-share 0.5)"
        )
        raise BadInput(msg)
    try:
        return evaluation_set_of(
            table["row"].to_numpy(), table["label"].tolist(), table["image_id"]
        )
    except BadInput as error:
        raise BadInput(f"probes are fitted on train images: {error}") from error


def _voters(
    gallery: Vectors, train: EvaluationSet, asking: int, budget: float
) -> tuple[Vectors, EvaluationSet]:
    """The train images that vote: all, or a sample balanced by class."""
    most = max(1000, int(budget / (asking * gallery.dim)))
    if len(train) <= most:
        return gallery, train
    # By image id, so that the sample is one of images, not of rows.
    at = np.sort(train.by_id[balanced_rows(
        np.arange(len(train)), np.array(train.classes, object)[train.codes], most
    )])  # fmt: skip
    return gallery.take(at), train.take(at)


def _linear_rights(
    asking: Vectors, gallery: Vectors, true_codes: NDArray[np.int64], probe: LinearProbe
) -> Floats:
    parts = [
        probe.codes(asking.block(low, high)[0] + asking.centre - gallery.centre)
        for low, high in ((low, min(low + 1024, asking.n)) for low in range(0, asking.n, 1024))
    ]
    return np.asarray(np.concatenate(parts) == true_codes, dtype=np.float64)


def _everywhere(
    train: int, left: EvaluationSet, images: EvaluationSet, true_codes: NDArray[np.int64]
) -> str:
    parts = [f"channels standardised on {train} train images, which fitted it"]
    if len(left) < len(images):
        parts.append(f"{len(left)} of {len(images)} images: the others fitted it or have no gap")
    strange = int((true_codes < 0).sum())
    if strange:
        parts.append(f"{strange} images of classes without train images count as wrong")
    return "; ".join(parts)
