"""Evaluate an extraction: measures, scores, all tables, stored beside the features."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import (
    MANY,
    MEMORY,
    EvaluationSet,
    Jobs,
    MapBlocks,
    MeasuredRows,
    Precision,
    check,
    check_seed,
    checkpoint,
    forget,
    here,
    keep_tables,
    kept_tables,
    many,
    measured_rows,
    remembering,
    slab_rows,
    stored_evaluation_set,
)
from alike.analysis.classes import ClassGeometry, Moments
from alike.analysis.data_limits import (
    bayes_bounds,
    listed_neighbours,
    second_opinion,
    suspects,
)
from alike.analysis.layers import layer_profile
from alike.analysis.neighbours import Changes, Links, Lists, linked_units, nearest
from alike.analysis.outlook import Load, most_images, outlook
from alike.analysis.pairs import (
    BINS,
    NEAREST_CLASSES,
    Totals,
    check_bins,
    plan_layers,
    units_of,
)
from alike.analysis.people import HumanAnswers, human_scores
from alike.analysis.probes import probe_scores
from alike.analysis.scores import VERSION as SCORES_VERSION
from alike.analysis.scores import (
    Tables,
    check_maps,
    copy_links,
    evaluate_measure,
    evaluate_sets,
    network_scores,
)
from alike.analysis.stored import Analysis, images_digest, table_place
from alike.analysis.sufficiency import FEWEST, LISTED, MOST_CURVED, sufficiency
from alike.analysis.twins import twin_findings
from alike.extract.errors import BadInput
from alike.extract.measures import SET_MEASURES, Measure, ready_measure
from alike.extract.notes import flat_features, only_some
from alike.extract.progress import Progress, silent
from alike.extract.store import Files

if TYPE_CHECKING:
    from alike.extract.store import Features

HEADLINE = "gap_cosine"
BUDGET = 1e14
RUNS = "runs/analyse"
VERSION = 15
"""Of the blocks, their answers and the tables: another number makes unfinished runs start again."""
ANSWERS = (Moments, ClassGeometry, Totals, Changes, Lists)
"""The dataclasses that blocks answer with."""
UNTRAINED = "untrained_gap_cosine"
DEFAULT_MEASURES = (
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


@dataclass(frozen=True)
class AnalysisSettings:
    """What an analysis depends on besides the features.

    Attributes:
        measures: keys of `MEASURES`, and of `SET_MEASURES`, which compare a sample of images; None:
            the default measures, as far as the stored taps allow.
        split: which images are evaluated: `held_out`, `train` or `all`.
        bootstrap: 0: no intervals; any other number: intervals. Nothing is resampled since 0.2.0:
            the number is not used.
        seed: of the folds, the worst class and samples, 0 or more.
        budget: multiplications of the pairs of one measure (N^2 D / 2) up to which every pair
            counts; beyond it a stratified sample of images does, and the notes say so.
        bins: of the histograms of all pairs, a power of two.
        precision: of the products under those histograms; `bfloat16` is faster if the processor
            multiplies it, and the notes say what it does to the AUC.

    Raises:
        BadInput: a wrong number of bins, a negative seed.
    """

    measures: Sequence[str] | None = None
    split: str = "held_out"
    bootstrap: int = 200
    seed: int = 0
    budget: float = BUDGET
    bins: int = BINS
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_bins(self.bins)

    @property
    def set_measures(self) -> list[str]:
        """The measures of sets that are asked for, each once."""
        return [name for name in dict.fromkeys(self.measures or ()) if name in SET_MEASURES]

    @property
    def vector_measures(self) -> list[str]:
        """The measures of vectors that are asked for, each once; empty: the default measures.

        A set measure alone has the headline beside it.
        """
        sets = self.set_measures
        named = [name for name in dict.fromkeys(self.measures or ()) if name not in sets]
        return named or ([HEADLINE] if sets else [])


DEFAULTS = AnalysisSettings()


def analyse(
    features: "Features",
    settings: AnalysisSettings = DEFAULTS,
    *,
    untrained: "Features | None" = None,
    human: HumanAnswers | None = None,
    jobs: Jobs | None = None,
    progress: Progress = silent,
) -> Analysis:
    """Tell how much nearer images of one class are than images of different classes.

    Args:
        features: the extraction.
        settings: measures, images, and how surely.
        untrained: features of the same architecture with random weights, evaluated by the headline
            measure.
        human: what people said about the images; None: nothing is known.
        jobs: where blocks run (see `open_jobs`); None: threads of this process.
        progress: told after every block.

    Returns:
        The analysis, saved in the store already.

    Raises:
        BadInput: no pairs of both kinds, an unknown measure, a tap not stored, NaN features; a
            store that cannot be written. An untrained network that cannot be evaluated is left
            out instead, with the reason.
    """
    features.store.require_writable(table_place(features.key, "scores"))
    with features.store.files.snapshot():
        return _analyse(
            features, settings, untrained, human, Work(settings, jobs or here(), progress)
        )


def _analyse(
    features: "Features",
    settings: AnalysisSettings,
    untrained: "Features | None",
    human: HumanAnswers | None,
    work: "Work",
) -> Analysis:
    progress = work.progress
    images = stored_evaluation_set(features, settings.split)
    plan, left_out = _plan(features, images, settings)
    measures = [part.name for part in plan]
    digests = {part.name: part.source.measure.digest for part in plan}
    if untrained is not None:
        try:
            same = _same_images(features, untrained, images)
            check(same)
            control = ready_measure(untrained, HEADLINE)
            note = "" if len(same) == len(images) else _missing_note(len(same), len(images))
            plan.append(_planned(UNTRAINED, control, untrained, same, note))
        except BadInput as error:
            # A control that cannot be evaluated ends no analysis.
            left_out[UNTRAINED] = str(error)
    for name in settings.set_measures:
        check_maps(features, SET_MEASURES[name])
    plan = [part.within(settings) for part in plan]
    announcement = outlook(
        [part.load for part in plan], work.jobs, intervals=settings.bootstrap > 0,
        budget=settings.budget,
    )  # fmt: skip
    if announcement:
        progress("analysis", 0, 0, announcement)
    first, copies = work.tell_copies(plan)
    set_rows = [
        work.evaluate_sets(features, name, images, copies) for name in settings.set_measures
    ]
    parts = work.evaluate_all(plan, first, copies)
    tables = {name: _joined([part[name] for part in parts]) for name in parts[0]}
    if many(len(images.classes)):
        left_out["pairs of classes"] = (
            f"of {len(images.classes):,} classes, more than {MANY:,}, those with the "
            f"{NEAREST_CLASSES} nearest of each are listed"
        )
    near = listed_neighbours(plan[0].images, parts[0]["neighbours"])
    one_nn = _one_nn(parts[0]["scores"], plan[0].name)
    tables["bayes"] = bayes_bounds(plan[0].name, near, plan[0].images, one_nn)
    flags, opinion = second_opinion(near, plan[0].images)
    if flags is None:
        left_out["cleanlab"] = opinion
    tables["suspects"] = suspects(plan[0].name, near, plan[0].images, flags)
    more_images = work.more_images(plan[0], parts[0]["scores"])
    if len(more_images):
        tables["sufficiency"] = more_images
    network = work.of_network(features, images, copies)
    probes = work.probe(features, plan[0], copies, left_out)
    more = [*set_rows, network, *probes]
    tables["scores"] = pd.concat([tables["scores"], *more], ignore_index=True)
    layers = work.profile(features, plan[0], copies, left_out)
    if len(layers):
        tables["layers"] = layers
    twins, twin_record = twin_findings(
        features, images, headline_of(tables["scores"], measures), work.alone(plan[0])
    )
    tables["twins"] = twins
    human_record = {}
    if human is not None:
        tables["human"] = pd.concat([work.ask(part, human) for part in plan], ignore_index=True)
        human_record = human.record
        if tables["human"].empty:
            left_out["alike to people"] = human.too_few
    record = {
        "split": settings.split, **({"where": features.where} if features.where else {}),
        "measures": [*measures, *settings.set_measures],
        "left_out": left_out, "bootstrap": settings.bootstrap, "seed": settings.seed,
        "budget": settings.budget, "bins": settings.bins,
        "histograms": _layers_in_words(images, settings.bins), "precision": settings.precision,
        "unlabelled": images.unlabelled, "features_digest": features.digest,
        "images_digest": images_digest(features.store),
        "untrained": untrained.key if untrained is not None else None,
        "measure_digests": digests, "twins": twin_record, "human": human_record,
        "warnings": [*only_some(features), *flat_features(features, np.sort(images.rows))],
        "scores_version": SCORES_VERSION, "second_opinion": opinion if flags is not None else None,
        "n_images_before_sampling": len(images),
        "evaluated": {part.name: len(part.images) for part in plan},
    }  # fmt: skip
    # Of the headline: a measure that was fitted on some of the images evaluates the others.
    head = next((part for part in plan if part.name == HEADLINE), plan[0])
    evaluated = len(head.images) if head.images.sampled_from else len(images)
    analysis = Analysis(features.key, evaluated, images.classes, record, tables)
    analysis.save(features.store)
    work.forget()
    return analysis


def headline_of(scores: pd.DataFrame, measures: Sequence[str]) -> float:
    """Sameness by the first measure of an analysis."""
    rows = scores[(scores["measure"] == measures[0]) & (scores["score"] == "sameness")]
    return float(rows["value"].iloc[0]) if len(rows) else float("nan")


def evaluate(
    features: "Features",
    settings: AnalysisSettings,
    *,
    jobs: Jobs | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The table of scores alone, and nothing saved: for a decision, not for a report.

    Args:
        features: the extraction.
        settings: measures, images, and how surely.
        jobs: as in `analyse`.
        progress: told after every block.

    Raises:
        BadInput: as `analyse`.
    """
    images = stored_evaluation_set(features, settings.split)
    plan, _ = _plan(features, images, settings)
    work = Work(settings, jobs or here(), progress)
    plan = [part.within(settings) for part in plan]
    parts = work.evaluate_all(plan, *work.tell_copies(plan))
    work.forget()
    network = network_scores(features, images, intervals=False)
    return pd.concat([*(part["scores"] for part in parts), network], ignore_index=True)


@dataclass(frozen=True)
class Planned:
    """One measure with the images that it evaluates, resolved before anything long runs.

    Attributes:
        name: in the tables.
        features: the extraction.
        source: its rows as the measure embeds them, in the order of `images`.
        images: the evaluation set.
        note: added to every score, such as that images were left out.
    """

    name: str
    features: "Features"
    source: MeasuredRows
    images: EvaluationSet
    note: str = ""

    @property
    def load(self) -> Load:
        """How many pairs it evaluates."""
        n = len(self.images)
        of = self.images.sampled_from or n
        largest = round(int(self.images.counts.max()) * of / n)
        return Load(n, self.source.dim, of, largest=largest)

    def within(self, settings: AnalysisSettings) -> "Planned":
        """The same on as many images as the budget allows, 1,000 at least."""
        few = self.images.sample(most_images(settings.budget, self.source.dim), settings.seed)
        if not few.sampled_from:
            return self
        sampled = f"a stratified sample of {len(few)} of {few.sampled_from} images"
        note = f"{sampled}; {self.note}" if self.note else sampled
        source = replace(self.source, rows=few.rows)
        return replace(self, source=source, images=few, note=note)


def _planned(
    name: str, measure: Measure, features: "Features", images: EvaluationSet, note: str = ""
) -> Planned:
    return Planned(name, features, measured_rows(features, measure, images.rows), images, note)


@dataclass(frozen=True)
class Copies:
    """Near copies, as the neighbours of one measure tell them.

    Attributes:
        rows: (N,) of the images that it evaluated.
        unit: (N,) the unit of each.
    """

    rows: NDArray[np.int64]
    unit: NDArray[np.int64]

    def among(self, images: EvaluationSet) -> NDArray[np.int64]:
        """The unit of each of these images (M,); one that was not evaluated is its own."""
        unit = pd.Series(self.unit, self.rows).reindex(images.rows).to_numpy()
        alone = self.unit.max() + 1 + np.arange(len(images))
        return np.asarray(np.where(np.isnan(unit), alone, unit), dtype=np.int64)


@dataclass(frozen=True)
class Work:
    """Evaluates measures; what a run leaves unfinished stays in the store until `forget`.

    Attributes:
        settings: of the analysis.
        jobs: where blocks run.
        progress: told after every block.
        folders: of unfinished work, filled as measures begin.
    """

    settings: AnalysisSettings
    jobs: Jobs
    progress: Progress
    folders: list[tuple[Files, str]] = field(default_factory=list)

    def tell_copies(self, plan: Sequence[Planned]) -> tuple[dict[int, Tables], Copies | None]:
        """The first measure that tells near copies is evaluated; its tables by its place, and they.

        Inner products tell none, so such measures take those of the first that does; without one,
        those of a measure that is not asked for (see `copy_links`).
        """
        for at, part in enumerate(plan):
            if part.features is plan[0].features and part.source.measure.form != "inner":
                tables = self.evaluate(part)
                return {at: tables}, _copies(part, tables["neighbours"])
        stage = self.jobs.stage("near copies", self.progress)
        memory = 0 if self.jobs.remote else MEMORY
        links = copy_links(plan[0].features, plan[0].images, memory=memory, map_blocks=stage)
        return {}, None if links is None else _linked(plan[0].images, links)

    def evaluate_all(
        self, plan: Sequence[Planned], tables: dict[int, Tables], copies: Copies | None
    ) -> list[Tables]:
        """The tables of each measure.

        Args:
            plan: the measures.
            tables: of those that were evaluated, by place.
            copies: that measures take which tell none.
        """
        return [
            tables[at] if at in tables
            else self.evaluate(part, copies if part.source.measure.form == "inner" else None)
            for at, part in enumerate(plan)
        ]  # fmt: skip

    def evaluate(self, planned: Planned, copies: Copies | None = None) -> Tables:
        """The tables of one measure, or those that an earlier run finished.

        Args:
            planned: the measure.
            copies: as another measure tells them, if this one cannot.
        """
        source, settings = planned.source, self.settings
        store = planned.features.store
        unit = _units_among(copies, planned.images)
        measure = f"{planned.name} {source.measure.digest}"
        folder = self._folder(planned.features, measure, planned.images, unit)
        finished = kept_tables(store, folder)
        if finished is not None:
            return finished
        started = time.monotonic()

        def stage(name: str) -> MapBlocks:
            place = f"{folder}/{name.removeprefix(planned.name).strip()}"
            return remembering(self.jobs.stage(name, self.progress), store.files, place, ANSWERS)

        # The vectors go before the tables are written.
        tables = evaluate_measure(
            planned.name, source.load(0 if self.jobs.remote else MEMORY), planned.images, stage,
            seed=settings.seed, intervals=settings.bootstrap > 0, bins=settings.bins,
            precision=settings.precision, note=planned.note, copies=unit,
            one_pass=not self.jobs.remote,
        )  # fmt: skip
        if time.monotonic() - started >= checkpoint.EVERY:
            keep_tables(store, folder, tables)
        return tables

    def evaluate_sets(
        self, features: "Features", name: str, images: EvaluationSet, copies: Copies | None
    ) -> pd.DataFrame:
        """The scores of one set measure; near copies are those that another measure told."""
        settings, unit = self.settings, _units_among(copies, images)
        folder = self._folder(features, name, images)
        stage = remembering(self.jobs.stage(name, self.progress), features.store.files, folder)
        return evaluate_sets(
            features, SET_MEASURES[name], images, settings.bootstrap > 0, settings.seed, stage, unit
        )

    def probe(
        self, features: "Features", head: Planned, copies: Copies | None, left_out: dict[str, str]
    ) -> list[pd.DataFrame]:
        """The scores of the probes on the images of the headline; why there are none otherwise.

        Args:
            features: the extraction.
            head: the headline's measure.
            copies: which images are near copies.
            left_out: gets the reason.
        """
        settings = self.settings
        stage = partial(self.jobs.stage, progress=self.progress)
        try:
            return [
                probe_scores(
                    features, head.images, stage, units=_units_among(copies, head.images),
                    intervals=settings.bootstrap > 0, budget=settings.budget,
                )
            ]  # fmt: skip
        except BadInput as error:
            # They need train images, which many a set has not.
            left_out["probes"] = str(error)
            return []

    def of_network(
        self, features: "Features", images: EvaluationSet, copies: Copies | None
    ) -> pd.DataFrame:
        """Accuracy and neural collapse.

        Args:
            features: the extraction.
            images: all that are evaluated.
            copies: which of them are near copies.
        """
        settings = self.settings
        return network_scores(
            features, images, unit=_units_among(copies, images),
            intervals=settings.bootstrap > 0, seed=settings.seed,
        )  # fmt: skip

    def more_images(self, head: Planned, scores: pd.DataFrame) -> pd.DataFrame:
        """What more images would change, by the headline's measure; empty with few images.

        Args:
            head: the headline's measure; of many images a stratified sample counts.
            scores: of it.
        """
        settings = self.settings
        few = head.images.sample(MOST_CURVED, settings.seed)
        if len(few) < FEWEST:
            return pd.DataFrame()
        source = replace(head.source, rows=few.rows)
        stage = self.jobs.stage("more neighbours", self.progress)
        near = nearest(
            source.load(0 if self.jobs.remote else MEMORY), few, LISTED, map_blocks=stage
        )
        row = scores[scores["score"] == "sameness"].iloc[0]
        return sufficiency(
            head.name, near.places, near.hit_chance, few,
            (float(row["value"]), float(row["low"]), float(row["high"])), len(head.images),
            seed=settings.seed, intervals=settings.bootstrap > 0,
        )  # fmt: skip

    def profile(
        self, features: "Features", head: Planned, copies: Copies | None, left_out: dict[str, str]
    ) -> pd.DataFrame:
        """Scores of every stored layer on the images of the headline; empty without layers.

        Args:
            features: the extraction.
            head: the headline's measure.
            copies: which images are near copies.
            left_out: gets the reasons of layers that are left out.
        """
        return layer_profile(
            features, head.images, units_of(head.images, _units_among(copies, head.images)),
            partial(self.jobs.stage, progress=self.progress), left_out,
            seed=self.settings.seed, intervals=self.settings.bootstrap > 0,
        )  # fmt: skip

    def ask(self, planned: Planned, human: HumanAnswers) -> pd.DataFrame:
        """How alike people and a measure find the images; ceilings and intervals of the headline.

        They are of people, or hardly differ between measures, and take most of the time.
        """
        first = planned.name == HEADLINE or self.settings.vector_measures[:1] == [planned.name]
        settings = self.settings
        draws = {} if first and settings.bootstrap > 0 else {"draws": 0}
        table = human_scores(
            human, planned.source.load(MEMORY), planned.images, seed=settings.seed,
            **draws, **({} if first else {"splits": 0}),
        )  # fmt: skip
        table.insert(0, "measure", planned.name)
        return table

    def alone(self, planned: Planned) -> Callable[[EvaluationSet], float]:
        """Give sameness by a measure of fewer images; without intervals."""

        def sameness(images: EvaluationSet) -> float:
            source = replace(planned.source, rows=images.rows)
            part = replace(planned, source=source, images=images).within(self.settings)
            quick = replace(self, settings=replace(self.settings, bootstrap=0))
            try:
                return headline_of(quick.evaluate(part)["scores"], [planned.name])
            except BadInput:
                # Without twins there may be no pairs of both kinds.
                return float("nan")

        return sameness

    def forget(self) -> None:
        """Remove what was kept, since the run has ended."""
        for files, folder in self.folders:
            forget(files, folder)

    def _folder(
        self,
        features: "Features",
        measure: str,
        images: EvaluationSet,
        unit: NDArray[np.int64] | None = None,
    ) -> str:
        """Where work is kept, under a digest of everything that its blocks and tables depend on."""
        settings = self.settings
        facts = (
            f"{features.key} {features.digest} {measure}"
            f"{settings.bootstrap > 0} {settings.seed} {settings.bins} {settings.precision}"
            f"{slab_rows(1)} {VERSION} {images.sampled_from} {images.classes}"
        )
        digest = hashlib.sha256(facts.encode() + images.rows.tobytes() + images.codes.tobytes())
        if unit is not None:
            digest.update(unit.tobytes())
        folder = f"{RUNS}/{digest.hexdigest()[:16]}"
        self.folders.append((features.store.files, folder))
        return folder


def _plan(
    features: "Features", images: EvaluationSet, settings: AnalysisSettings
) -> tuple[list[Planned], dict[str, str]]:
    """The measures of vectors, and why default measures that do not fit were left out."""
    plan: list[Planned] = []
    left_out: dict[str, str] = {}
    for name in settings.vector_measures or DEFAULT_MEASURES:
        try:
            measure = ready_measure(features, name)
            rest = _unfitted(images, measure, settings.split)
            note = "" if len(rest) == len(images) else _fitted_note(len(rest), len(images))
            held = features.committed(measure.taps, good=True)[rest.rows]
            if not held.all():
                note = _missing_note(int(held.sum()), len(images))
                rest = rest.take(held)
                check(rest)
            # Only an embedding shows whether the classifier reads what the map has.
            early = _planned(name, measure, features, rest, note) if measure.constants else None
        except BadInput as error:
            if settings.vector_measures or name == HEADLINE:
                raise
            left_out[name] = str(error)
            continue
        # Without constants, what cannot be embedded is damaged: no reason to leave a measure out.
        plan.append(early or _planned(name, measure, features, rest, note))
    return plan, left_out


def _copies(planned: Planned, neighbours: pd.DataFrame) -> Copies | None:
    """Near copies as a measure's table of neighbours tells them; None where there are none."""
    form = planned.source.measure.form
    if form == "inner":
        return None
    near = listed_neighbours(planned.images, neighbours)
    keys = near.distances**2 / 2 if form == "euclidean" else near.distances
    return _linked(planned.images, (near.places, keys))


def _linked(images: EvaluationSet, links: Links) -> Copies | None:
    unit = linked_units(images, [links])
    return None if unit is None else Copies(images.rows, unit)


def _units_among(copies: Copies | None, images: EvaluationSet) -> NDArray[np.int64] | None:
    return None if copies is None else copies.among(images)


def _one_nn(scores: pd.DataFrame, measure: str) -> tuple[float, float, float]:
    rows = scores[(scores["measure"] == measure) & (scores["score"] == "one_nn")]
    value, low, high = rows.iloc[0][["value", "low", "high"]]
    return float(value), float(low), float(high)


def _same_images(features: "Features", other: "Features", images: EvaluationSet) -> EvaluationSet:
    """The images as rows of another extraction, matched by content."""
    if other.store is features.store:
        return images.take(other.committed(["gap"], good=True)[images.rows])
    here = features.table().set_index("row")["image_id"]
    there = other.table().set_index("image_id")["row"]
    ids = here.loc[images.rows]
    shared = ids.isin(there.index).to_numpy()
    if not shared.any():
        msg = f"{other.key} holds none of the evaluated images: extract the same source with it"
        raise BadInput(msg)
    rows = there.loc[ids[shared]].to_numpy(dtype=np.int64)
    return replace(images.take(shared), rows=rows)


def _layers_in_words(images: EvaluationSet, bins: int) -> str:
    n_classes = len(images.classes)
    layers = plan_layers(n_classes, len(images), bins)
    memory = layers.memory(n_classes) / 2**20
    return (
        f"{layers.total} bins for all pairs, {layers.per_class} a class, {layers.per_pair} a pair "
        f"of classes: {memory:.3g} MiB"
    )


def _fitted_note(n: int, of: int) -> str:
    return f"{n} of {of} images: the others fitted the measure, so compare with care"


def _missing_note(n: int, of: int) -> str:
    return f"{n} of {of} images: the others have no such features"


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows of every measure under each other; categories stay categories."""
    if isinstance(parts[0]["measure"].dtype, pd.CategoricalDtype):
        names = [part["measure"].iloc[0] for part in parts]
        parts = [part.assign(measure=part["measure"].cat.set_categories(names)) for part in parts]
    return pd.concat(parts, ignore_index=True)


def _unfitted(images: EvaluationSet, measure: Measure, split: str) -> EvaluationSet:
    """Leave out the rows that the measure was fitted on."""
    fitted = np.isin(images.rows, measure.fitted_rows)
    if not fitted.any():
        return images
    if fitted.all():
        msg = (
            f"every image of the split {split} was used to fit {measure.name}, which it must not "
            f"evaluate: use --split held_out"
        )
        raise BadInput(msg)
    rest = images.take(~fitted)
    check(rest)
    return rest
