"""Judge an extraction: every measure, every score, all tables, stored beside the features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.bootstrap import image_weights
from analysis.jobs import threads
from analysis.judged import Judged, check, judged_rows
from analysis.network_scores import network_scores
from analysis.one_measure import Tables, judge_measure
from analysis.vectors import stored_vectors
from extract.errors import BadInput
from extract.measures import Measure, ready_measure
from extract.progress import Progress, silent

if TYPE_CHECKING:
    from extract.store import Store
    from extract.store_features import Features

HEADLINE = "gap_cosine"
UNTRAINED = "untrained_gap_cosine"
COMPANY = (
    HEADLINE,
    "gap_cosine_centred",
    "gap_euclid",
    "map_cosine",
    "fc_cosine",
    "lda_cosine",
    "cam_pred_cosine",
    "energy_cosine",
    "gap_wpred_cosine",
    "softmax_dot",
    "pixel_euclid",
)
"""Judged where nothing is named: the headline, its floor and ceiling, and what explains them."""


@dataclass(frozen=True)
class Analysis:
    """What an analysis found.

    Attributes:
        key: of the extraction.
        n_images: judged.
        classes: their names, sorted.
        settings: everything that the numbers depend on, and which measures were left out and why.
        tables: by name; columns in docs/analysis.md.
    """

    key: str
    n_images: int
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]

    def save(self, store: "Store") -> None:
        """Write every table to `tables/<key>/<name>.parquet`, the settings inside each."""
        attrs = {
            "key": self.key,
            "n_images": self.n_images,
            "classes": list(self.classes),
            "settings": dict(self.settings),
            "names": sorted(self.tables),
        }
        for name, table in self.tables.items():
            store.write_table(_place(self.key, name), table, {**attrs, "name": name})

    @staticmethod
    def load(store: "Store", key: str) -> "Analysis":
        """Read what `save` wrote.

        Raises:
            BadInput: this extraction was not analysed yet.
        """
        try:
            _, attrs = store.read_table(_place(key, "scores"))
        except FileNotFoundError as error:
            msg = f"{key} was not analysed yet: run `alike analyse --store {store.url}` first"
            raise BadInput(msg) from error
        tables = {name: store.read_table(_place(key, name))[0] for name in attrs["names"]}
        return Analysis(key, attrs["n_images"], tuple(attrs["classes"]), attrs["settings"], tables)


def analyse(
    features: "Features",
    *,
    measures: Sequence[str] | None = None,
    split: str = "held_out",
    bootstrap: int = 200,
    seed: int = 0,
    untrained: "Features | None" = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> Analysis:
    """Judge how much nearer images of one class are than images of different classes.

    Args:
        features: the extraction.
        measures: keys of `MEASURES`; None: the default company, as far as the stored taps allow.
        split: which images are judged: `held_out`, `train` or `all`.
        bootstrap: draws of the images for the intervals; 0: none.
        seed: of the draws and the folds.
        untrained: features of the same architecture with random weights, judged by the headline.
        workers: threads; None: one a core.
        progress: told after every few blocks.

    Returns:
        The analysis, saved in the store already.

    Raises:
        BadInput: no pairs of both kinds, an unknown measure, a tap not stored, NaN features.
    """
    judged = judged_rows(features, split)
    ready, left_out = _ready(features, judged, measures)
    found: list[Tables] = []
    for name, measure in ready.items():
        rest = _unfitted(judged, measure, split)
        found.append(_judge(features, name, measure, rest, bootstrap, seed, workers, progress))
    if untrained is not None:
        measure = ready_measure(untrained, HEADLINE)
        found.append(
            _judge(untrained, UNTRAINED, measure, judged, bootstrap, seed, workers, progress)
        )
    tables = {
        name: pd.concat([tables[name] for tables in found], ignore_index=True) for name in found[0]
    }
    tables["scores"] = pd.concat([tables["scores"], network_scores(features, judged)])
    tables["scores"] = tables["scores"].reset_index(drop=True)
    settings = {
        "split": split, "measures": list(ready), "left_out": left_out, "bootstrap": bootstrap,
        "seed": seed, "unlabelled": judged.unlabelled, "features_digest": features.digest,
        "untrained": untrained.key if untrained is not None else None,
        "measure_digests": {name: measure.digest for name, measure in ready.items()},
    }  # fmt: skip
    result = Analysis(features.key, len(judged), judged.classes, settings, tables)
    result.save(features.store)
    return result


def _place(key: str, name: str) -> str:
    return f"tables/{key}/{name}.parquet"


def _ready(
    features: "Features", judged: Judged, names: Sequence[str] | None
) -> tuple[dict[str, Measure], dict[str, str]]:
    ready: dict[str, Measure] = {}
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(names or COMPANY):
        try:
            ready[name] = ready_measure(features, name)
        except BadInput as error:
            if names is not None or name == HEADLINE:
                raise
            left_out[name] = str(error)
    return ready, left_out


def _unfitted(judged: Judged, measure: Measure, split: str) -> Judged:
    """Leave out the rows that the measure was fitted on."""
    seen = np.isin(judged.rows, measure.fitted_rows)
    if not seen.any():
        return judged
    if seen.all():
        msg = (
            f"every image of the split {split} was used to fit {measure.name}, which it must not "
            f"judge: judge --split held_out"
        )
        raise BadInput(msg)
    rest = judged.take(~seen)
    check(rest)
    return rest


def _judge(
    features: "Features",
    name: str,
    measure: Measure,
    judged: Judged,
    bootstrap: int,
    seed: int,
    workers: int | None,
    progress: Progress,
) -> Tables:
    vectors = stored_vectors(features, measure, judged.rows)
    weights = image_weights(judged, bootstrap, seed)
    return judge_measure(
        name, vectors, judged, weights, lambda stage: threads(stage, progress, workers), seed
    )
