"""Judge an extraction: every measure, every score, all tables, stored beside the features."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from alike.analysis.blocks import (
    MEMORY,
    EvaluationSet,
    Jobs,
    Precision,
    Run,
    check,
    check_seed,
    checkpoint,
    forget,
    here,
    keep_tables,
    kept_tables,
    remembering,
    slab_rows,
    stored_evaluation_set,
    stored_vectors,
)
from alike.analysis.pairs import BINS, Draws, check_bins, plan_layers
from alike.analysis.scores import Tables, judge_measure, judge_sets, network_scores
from alike.extract.display import Displayed, Summary, with_interval
from alike.extract.errors import BadInput
from alike.extract.measures import SET_MEASURES, Measure, embed_rows, ready_measure
from alike.extract.progress import Progress, silent
from alike.extract.store import Files

if TYPE_CHECKING:
    from alike.extract.store import Features, Store

HEADLINE = "gap_cosine"
BUDGET = 1e14
RUNS = "runs/analyse"
VERSION = 4
"""Of the blocks' answers and the tables: another number makes unfinished runs start again."""
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
"""The default measures: the headline, its floor and ceiling, and what explains them."""

FIRST = ("sameness", "auc", "balanced_accuracy", "eer", "one_nn", "map_at_r", "accuracy")
"""The scores that are read first."""


@dataclass(frozen=True, repr=False)
class Analysis(Displayed):
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

    def outdated(self, digest: str) -> str:
        """What to say where the features have another digest by now; empty where they have not."""
        if self.settings.get("features_digest") in (None, digest):
            return ""
        return (
            f"images or taps of {self.key} came or changed after its analysis, which is of "
            f"{self.n_images} images: run `alike analyse` to judge what is there now"
        )

    def overview(self) -> pd.DataFrame:
        """The scores that are read first: one row a measure, one column a score."""
        scores = self.tables["scores"]
        table = scores.pivot_table(index="measure", columns="score", values="value", sort=False)
        columns = [name for name in FIRST if name in table.columns]
        return table[columns].dropna(how="all").reset_index()

    def _summary(self) -> Summary:
        from alike.analysis.report import main_measure, score_of, worst_class

        measure = main_measure(self)
        sameness = score_of(self, measure, "sameness")
        worst = worst_class(self, measure)
        facts = {
            "sameness": sameness and with_interval(sameness.value, sameness.low, sameness.high),
            "worst class": f"{worst[0]} {worst[1]:.4g}" if worst else None,
            "images": self.n_images,
            "classes": len(self.classes),
            "split": self.settings.get("split"),
        }
        left_out = self.settings.get("left_out", {})
        notes = [f"left out: {name} ({reason})" for name, reason in left_out.items()]
        tables = {f"scores; sameness and worst class are of {measure}": self.overview()}
        return Summary(f"analysis of {self.key}", facts, notes, tables)


def analyse(
    features: "Features",
    *,
    measures: Sequence[str] | None = None,
    split: str = "held_out",
    bootstrap: int = 200,
    seed: int = 0,
    untrained: "Features | None" = None,
    budget: float = BUDGET,
    bins: int = BINS,
    precision: Precision = "float32",
    jobs: Jobs | None = None,
    progress: Progress = silent,
) -> Analysis:
    """Judge how much nearer images of one class are than images of different classes.

    Args:
        features: the extraction.
        measures: keys of `MEASURES`, and of `SET_MEASURES`, which judge a sample of images beside
            the others; None: the default company, as far as the stored taps allow.
        split: which images are judged: `held_out`, `train` or `all`.
        bootstrap: draws of the images for the intervals; 0: none.
        seed: of the draws, the folds and samples.
        untrained: features of the same architecture with random weights, judged by the headline.
        budget: multiplications of the pairs of one measure (N^2 D / 2) up to which every pair is
            judged; beyond it a stratified sample of images is, and the notes say so.
        bins: of the histograms of all pairs, a power of two.
        precision: of the products under those histograms; `bfloat16` is faster where the processor
            multiplies it, and the notes say what it does to the AUC.
        jobs: where blocks run (see `open_jobs`); None: threads of this process.
        progress: told after every block.

    Returns:
        The analysis, saved in the store already.

    Raises:
        BadInput: no pairs of both kinds, an unknown measure, a tap not stored, NaN features, a
            wrong number of bins, a negative seed.
    """
    check_seed(seed)
    check_bins(bins)
    judged = stored_evaluation_set(features, split)
    asked_for = list(dict.fromkeys(measures or ()))
    sets = [name for name in asked_for if name in SET_MEASURES]
    named = [name for name in asked_for if name not in sets]
    wanted = named or ([HEADLINE] if sets else [])
    ready, left_out = _ready(features, judged, split, wanted)
    found_sets: list[pd.DataFrame] = []
    asked = Asked(bootstrap, seed, budget, bins, precision, progress)
    found: list[Tables] = []
    unfinished: list[tuple[Files, str]] = []
    jobs = jobs or here()
    for name in sets:
        kept = features.store.files, f"{RUNS}/{_digest(features, name, judged, asked)}"
        unfinished.append(kept)
        run = remembering(jobs.run(name, progress), *kept)
        found_sets.append(judge_sets(features, SET_MEASURES[name], judged, bootstrap, seed, run))
    for name, (measure, rest) in ready.items():
        note = "" if len(rest) == len(judged) else _fitted_note(len(rest), len(judged))
        tables, kept = _judge(features, name, measure, rest, asked, jobs, note)
        found.append(tables)
        unfinished.append(kept)
    if untrained is not None:
        measure = ready_measure(untrained, HEADLINE)
        same = _same_images(features, untrained, judged)
        tables, kept = _judge(untrained, UNTRAINED, measure, same, asked, jobs)
        found.append(tables)
        unfinished.append(kept)
    tables = {name: _joined([tables[name] for tables in found]) for name in found[0]}
    network = network_scores(features, judged)
    tables["scores"] = pd.concat([tables["scores"], *found_sets, network], ignore_index=True)
    settings = {
        "split": split, "measures": [*ready, *sets], "left_out": left_out, "bootstrap": bootstrap,
        "seed": seed, "budget": budget, "bins": bins, "histograms": _told_layers(judged, bins),
        "precision": precision, "unlabelled": judged.unlabelled,
        "features_digest": features.digest,
        "untrained": untrained.key if untrained is not None else None,
        "measure_digests": {name: measure.digest for name, (measure, _) in ready.items()},
    }  # fmt: skip
    result = Analysis(features.key, len(judged), judged.classes, settings, tables)
    result.save(features.store)
    for files, folder in unfinished:
        forget(files, folder)
    return result


@dataclass(frozen=True)
class Asked:
    """What holds for every measure of an analysis; fields as in `analyse`."""

    bootstrap: int
    seed: int
    budget: float
    bins: int
    precision: Precision
    progress: Progress


def _same_images(features: "Features", other: "Features", judged: EvaluationSet) -> EvaluationSet:
    """The judged images as rows of another extraction, matched by content."""
    if other.store is features.store:
        return judged
    here = features.table().set_index("row")["image_id"]
    there = other.table().set_index("image_id")["row"]
    wanted = here.loc[judged.rows]
    kept = wanted.isin(there.index).to_numpy()
    if not kept.any():
        msg = f"{other.key} holds none of the judged images: extract the same source with it"
        raise BadInput(msg)
    rows = there.loc[wanted[kept]].to_numpy(dtype=np.int64)
    return replace(judged.take(kept), rows=rows)


def _told_layers(judged: EvaluationSet, bins: int) -> str:
    n_classes = len(judged.classes)
    layers = plan_layers(n_classes, len(judged), bins)
    memory = layers.memory(n_classes) / 2**20
    return (
        f"{layers.total} bins for all pairs, {layers.per_class} a class, {layers.per_pair} a pair "
        f"of classes: {memory:.3g} MiB"
    )


def _fitted_note(n: int, of: int) -> str:
    return f"{n} of {of} images: the others fitted the measure, so compare with care"


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows of every measure under each other; categories stay categories."""
    if isinstance(parts[0]["measure"].dtype, pd.CategoricalDtype):
        names = [part["measure"].iloc[0] for part in parts]
        parts = [part.assign(measure=part["measure"].cat.set_categories(names)) for part in parts]
    return pd.concat(parts, ignore_index=True)


def _place(key: str, name: str) -> str:
    return f"tables/{key}/{name}.parquet"


def _ready(
    features: "Features", judged: EvaluationSet, split: str, names: Sequence[str]
) -> tuple[dict[str, tuple[Measure, EvaluationSet]], dict[str, str]]:
    """Measures with the images that each may judge; of the default company what does not fit."""
    ready: dict[str, tuple[Measure, EvaluationSet]] = {}
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(names or COMPANY):
        try:
            measure = ready_measure(features, name)
            if measure.constants:
                # Whether the classifier reads what the map has shows only when it is applied.
                embed_rows(features, measure, judged.rows[:1])
            ready[name] = measure, _unfitted(judged, measure, split)
        except BadInput as error:
            if names or name == HEADLINE:
                raise
            left_out[name] = str(error)
    return ready, left_out


def _unfitted(judged: EvaluationSet, measure: Measure, split: str) -> EvaluationSet:
    """Leave out the rows that the measure was fitted on."""
    seen = np.isin(judged.rows, measure.fitted_rows)
    if not seen.any():
        return judged
    if seen.all():
        msg = (
            f"every image of the split {split} was used to fit {measure.name}, which it must not "
            f"judge: use --split held_out"
        )
        raise BadInput(msg)
    rest = judged.take(~seen)
    check(rest)
    return rest


def _judge(
    features: "Features",
    name: str,
    measure: Measure,
    judged: EvaluationSet,
    asked: Asked,
    jobs: Jobs,
    note: str = "",
) -> tuple[Tables, tuple[Files, str]]:
    """The tables of one measure, and where it keeps what is finished until the run ends."""
    dim = embed_rows(features, measure, judged.rows[:1]).shape[1]
    judged = judged.sample(max(1000, int((2.0 * asked.budget / dim) ** 0.5)), asked.seed)
    if judged.sampled_from:
        sampled = f"a stratified sample of {len(judged)} of {judged.sampled_from} images"
        note = f"{sampled}; {note}" if note else sampled
    files = features.store.files
    folder = f"{RUNS}/{_digest(features, f'{name} {measure.digest}', judged, asked)}"
    known = kept_tables(features.store, folder)
    if known is not None:
        return known, (files, folder)
    started = time.monotonic()
    vectors = stored_vectors(features, measure, judged.rows, memory=0 if jobs.remote else MEMORY)
    draws = Draws(judged, asked.bootstrap, asked.seed)

    def run(stage: str) -> Run:
        done = f"{folder}/{stage.removeprefix(name).strip()}"
        return remembering(jobs.run(stage, asked.progress), files, done)

    tables = judge_measure(
        name, vectors, draws, run, bins=asked.bins, precision=asked.precision, note=note
    )
    if time.monotonic() - started >= checkpoint.EVERY:
        keep_tables(features.store, folder, tables)
    return tables, (files, folder)


def _digest(features: "Features", measure: str, judged: EvaluationSet, asked: Asked) -> str:
    """Changes with everything that the blocks and tables of one measure depend on."""
    told = hashlib.sha256(f"{features.key} {features.digest} {measure}".encode())
    told.update(f"{asked.bootstrap} {asked.seed} {asked.bins} {asked.precision}".encode())
    told.update(f"{slab_rows(1)} {VERSION} {judged.sampled_from} {judged.classes}".encode())
    told.update(judged.rows.tobytes() + judged.codes.tobytes())
    return told.hexdigest()[:16]
