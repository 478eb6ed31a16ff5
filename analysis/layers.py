"""Where in a network images of one class become alike: scores of every layer that is stored.

Each layer's vector is the mean over positions of a block's output. Sameness and its interval are
those of `alike analyse` by ``gap_cosine@LAYER``, the probes are those of `alike.analysis.probes`,
fitted on the layer's channels, and the similarity to the last layer is unbiased linear CKA.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from alike.analysis.blocks import EvaluationSet, MapBlocks, Vectors, stored_vectors
from alike.analysis.networks import linear_cka
from alike.analysis.pairs import Units, pair_spreads, right_interval, sure_pairs
from alike.analysis.probes import NAMES as PROBES
from alike.analysis.probes import probe_rights
from alike.extract.errors import BadInput
from alike.extract.measures import measure_named

if TYPE_CHECKING:
    from alike.extract.store import Features

Stage = Callable[[str], MapBlocks]

BY, OF = "gap_cosine", "gap_euclid"
"""Measures of each layer: of pairs and CKA, and of the probes."""
LAST = "gap"
SHOWN = 16
"""Images by which the last layer is told from the map that is pooled."""
COLUMNS = ("layer", "place", "dim", "score", "value", "low", "high", "note")
NO_SPAN = (float("nan"), float("nan"))


def stored_layers(
    features: "Features", images: EvaluationSet, left_out: dict[str, str]
) -> list[str]:
    """The layers whose means are stored, in the order of the pass, then `gap`; [] without them.

    Args:
        features: the extraction.
        images: that are evaluated: `gap` is left out where it is the last layer of these.
        left_out: gets the reason of a layer that not all of them have.
    """
    taps = []
    for tap in (tap for tap in features.attrs.get("layers", ()) if tap in features.arrays):
        lacking = int((~features.committed([tap], good=True)[images.rows]).sum())
        if lacking:
            layer = tap.partition("@")[2]
            left_out[f"layer {layer}"] = f"{lacking} of {len(images)} images have no value of it"
        else:
            taps.append(tap)
    if not taps or LAST not in features.arrays:
        return []
    few = images.rows[features.committed([LAST], good=True)[images.rows]][:SHOWN]
    last, pooled = features.read(taps[-1], few), features.read(LAST, few)
    same = last.shape == pooled.shape and np.allclose(last, pooled, rtol=1e-4, atol=1e-6)
    return [tap.partition("@")[2] for tap in taps] + ([] if same else [LAST])


def layer_profile(
    features: "Features",
    images: EvaluationSet,
    units: Units,
    stage: Stage,
    left_out: dict[str, str],
    *,
    seed: int = 0,
    intervals: bool = True,
) -> pd.DataFrame:
    """Scores of every stored layer.

    Args:
        features: the extraction.
        images: to evaluate.
        units: of them, or near copies of one, that are independent of each other.
        stage: name of a stage to the way in which its blocks are mapped.
        left_out: gets the reasons of layers and probes that are left out.
        seed: of what is drawn.
        intervals: compute them.

    Returns:
        layer (path of a module, `gap` for the map that is pooled), place (from 0, the order of
        the pass), dim (channels), score (`sameness`, `knn_probe`, `linear_probe`, `cka`: linear
        CKA with the last layer), value, low, high, note; no rows if no layer is stored. Without
        train images there are no probes.
    """
    layers = stored_layers(features, images, left_out)
    last = _vectors(features, layers[-1], images) if layers else None
    rows: list[tuple[Any, ...]] = []
    for place, layer in enumerate(layers):
        vectors = _vectors(features, layer, images)
        values = {
            "sameness": _sameness(
                vectors, images, units, stage, layer, seed=seed, intervals=intervals
            ),
            **_probes(features, layer, images, units, stage, left_out, intervals=intervals),
        }
        if last is not None:
            values["cka"] = linear_cka(vectors, last)[1], NO_SPAN, ""
        rows += [
            (layer, place, vectors.dim, score, value, *span, note)
            for score, (value, span, note) in values.items()
        ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


Scored = tuple[float, tuple[float, float], str]


def _name(measure: str, layer: str) -> str:
    return measure if layer == LAST else f"{measure}@{layer}"


def _vectors(features: "Features", layer: str, images: EvaluationSet) -> Vectors:
    return stored_vectors(features, measure_named(_name(BY, layer)), images.rows)


def _sameness(
    vectors: Vectors,
    images: EvaluationSet,
    units: Units,
    stage: Stage,
    layer: str,
    *,
    seed: int,
    intervals: bool,
) -> Scored:
    vectors, counts = sure_pairs(
        vectors, images, map_blocks=stage(f"{layer} pairs"), rounding=stage(f"{layer} rounding"),
        again=stage(f"{layer} pairs in float64"),
    )  # fmt: skip
    area = counts.area().value
    span, note = NO_SPAN, "intervals were not asked for"
    if intervals:
        spreads = pair_spreads(
            [(vectors, counts)], images, units, seed=seed, map_blocks=stage(f"{layer} influence")
        )
        low, high = spreads.interval("auc", area)
        span, note = (2 * low - 1, 2 * high - 1), spreads.why_not.get("auc", "")
    return 2 * area - 1, span, note


def _probes(
    features: "Features",
    layer: str,
    images: EvaluationSet,
    units: Units,
    stage: Stage,
    left_out: dict[str, str],
    *,
    intervals: bool,
) -> dict[str, Scored]:
    measure = measure_named(_name(OF, layer))
    try:
        probed = probe_rights(features, images, stage, measure=measure)
    except BadInput:
        # They need train images, which many a set has not; the analysis says so.
        return {}
    if len(probed.images) < len(images):
        lacking = len(images) - len(probed.images)
        left_out[f"probes of {layer}"] = f"{lacking} of the images fitted them, or have no value"
        return {}
    return {
        name: (
            float(right.mean()),
            right_interval(right, units) if intervals else NO_SPAN,
            probed.notes[name],
        )
        for name, right in probed.rights.items()
    }


def wide_layers(profile: pd.DataFrame) -> pd.DataFrame:
    """One row a layer, one column a score, in the order of the pass."""
    wide = profile.pivot_table(
        index=["place", "layer", "dim"], columns="score", values="value", sort=False
    )
    names = [name for name in ("sameness", *PROBES, "cka") if name in wide]
    return wide[names].sort_index().reset_index().drop(columns="place")
