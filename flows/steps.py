"""The steps of a run as plain functions: each takes settings and keys, and returns keys.

A step is not run again if its artefact is there as it would be made now; the memo of the output
folder knows.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.progress import Progress, silent
from alike.extract.secrets import masked
from alike.flows.cluster import Workers
from alike.flows.log_lines import Tell, unsaid
from alike.flows.memo import Memo, RemoteFile, RunFile, digest
from alike.flows.sections import NetworkSettings
from alike.flows.settings import Pipeline
from alike.flows.trained_images import check_held_out, keep_trained

if TYPE_CHECKING:
    import pandas as pd

    from alike.analysis.people import HumanAnswers
    from alike.analysis.stored import Analysis
    from alike.extract.images import ImageSource
    from alike.extract.networks import Network
    from alike.extract.store import Features, Store


_OF_IMAGES = ("digest", "images")
_REASONS = {
    "digest": "the features changed",
    "images": "the images or their labels changed",
    "untrained": "the features of the untrained network changed",
    "classes": "the names of the network's classes changed",
    "share": "images changed sides",
    "twins": "the paths of twins changed",
    "version": "this version of the program computes it anew",
    "human": "what people said changed",
    "parent": "the network changed",
    "modules_hash": "the network's code changed",
    "train": "the training images changed",
    "validation": "the validation images changed",
    "settings": "the settings changed",
    "network": "the network changed",
    "served": "another network is served",
    "features": "the features changed",
    "others": "further networks changed",
}
"""Input of a step to the reason for which it runs again; any other input is a setting."""


@dataclass
class PipelineRun:
    """What the steps of one run share.

    Attributes:
        pipeline: the settings, paths resolved.
        progress: called with how far a step is.
        seconds: time of every step that ran.
        reused: names of the steps that were not run again.
        decisions: sentences, in order.
        notes: what a reader must know: taps of an unusual kind, a suspicious preprocessing, a
            memo or an accepted network that is lost.
        files: what the steps wrote, or found written, and the report is made from.
        tell: called with a line before a step runs again, its name and why, and with warnings.
        reasons: those lines.
        rates: images a second of every extraction that computed some.
        changes: what changed of the images since the last run, in words; empty if not known.
        passing: those of the decisions and notes that tell what this run did, and no later one.
        began: the clock when it did; `began_ns` the time of day.
        rehash: read every image to list it, also those whose size and times are as before.
    """

    pipeline: Pipeline
    progress: Progress = silent
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[RunFile] = field(default_factory=list)
    tell: Tell = unsaid
    reasons: list[str] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    changes: str = ""
    passing: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)
    began_ns: int = field(default_factory=time.time_ns)
    rehash: bool = False
    _store: "Store | None" = None

    def __post_init__(self) -> None:
        from alike.extract.places import expanded
        from alike.extract.store import remote_files
        from alike.flows.outputs import make_output

        make_output(self.folder)
        local = expanded(self.store_url.removeprefix("file://"))
        self.memo = Memo(self.folder, remote_files(self.store_url) or local)
        self.notes.extend(self.memo.notes)
        self.passing.update(self.memo.notes)
        self.workers = Workers(self.pipeline.cluster)

    def decide(self, sentences: Iterable[str]) -> None:
        """Take down what was decided; a sentence of two trainings once."""
        self.decisions.extend(one for one in sentences if one not in self.decisions)

    def lasting(self, lines: Iterable[str]) -> list[str]:
        """Those of some decisions or notes that a run repeats that finds nothing changed."""
        return [line for line in lines if line not in self.passing]

    def reuse(
        self, artefact: str, inputs: dict[str, Any], name: str, writes: Sequence[RunFile] = ()
    ) -> dict[str, Any] | None:
        """Outputs of the step `name` if its artefact is as it would be made now, else None.

        None announces that the artefact is written over: its entry is gone until `keep`, but for
        the files that the step has or `writes`, which are its own however it ends.
        """
        outputs = self.memo.outputs(artefact, inputs)
        if outputs is None:
            self.explain(name, self.reason_of(artefact, inputs))
            if writes:
                self.memo.begin(artefact, writes)
            else:
                self.memo.forget(artefact)
            return None
        self.reused.append(name)
        self.files.extend(self.memo.files(artefact))
        return outputs

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Take down the seconds of a step that ends well."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def begin_again(self, why: str) -> None:
        """Forget what the steps will note again, and say why they begin again; times are kept."""
        self.reused.clear()
        self.files.clear()
        self.notes[:] = self.memo.notes
        self.reasons.append(masked(why))
        self.tell(why, level="warning")

    def explain(self, name: str, reason: str) -> None:
        """Say that a step runs, and why, before it does."""
        self.reasons.append(f"{name}: {reason}")
        self.tell(self.reasons[-1])

    def reason_of(self, artefact: str, inputs: dict[str, Any]) -> str:
        """Why an artefact is made again."""
        differing = self.memo.differs(artefact, inputs)
        if differing is None:
            return "not finished before"
        if not differing:
            return "its files are gone, or another command changed them"
        words = []
        for name in differing:
            word = _REASONS.get(name, f"the setting {name} changed")
            words.append(self.changes if name in _OF_IMAGES and self.changes else word)
        return ", ".join(dict.fromkeys(words))

    def keep(
        self,
        artefact: str,
        inputs: dict[str, Any],
        outputs: dict[str, Any],
        files: Sequence[RunFile],
    ) -> None:
        """Remember what a step wrote."""
        self.memo.record(artefact, inputs, outputs, files)
        self.files.extend(files)

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.pipeline.output.folder

    @property
    def store_url(self) -> str:
        """Where the feature store of this run is."""
        return self.pipeline.store_place

    def store(self, *, create: bool = True) -> "Store":
        """The feature store, made where it is not there yet.

        Args:
            create: False: `NoStore` where it is not there.
        """
        from alike.extract.store import Store

        if self._store is None:
            self._store = Store.open(self.store_url, create=create)
        return self._store

    def file(self, name: str) -> RunFile:
        """A file of the store."""
        store = self.store()
        return store.path(name) if store.root_path is not None else RemoteFile(store.files, name)


def load(pipeline: Pipeline, weights: str, like: "Network | None" = None) -> "Network":
    """The first network of the settings with these weights; `like` gives the transform."""
    return load_one(pipeline.network, weights, like)


def load_one(settings: NetworkSettings, weights: str, like: "Network | None" = None) -> "Network":
    """A network of the settings with these weights.

    Args:
        settings: of the network.
        weights: those of the settings, those of a retraining, or ``none``.
        like: gives the transform; None: the settings or the weights do.
    """
    from alike.extract.networks import load_network

    transform = like.transform if like else None
    if transform is None and settings.transform is not None:
        transform = settings.transform.build()
    configured = weights == settings.weights
    own = settings.classes if configured else None
    return load_network(
        settings.name,
        weights,
        args=settings.args,
        transform=transform,
        class_names=own or None,
        seed=settings.seed,
        output=settings.output or "",
        weights_key=(settings.weights_key or "") if configured else "",
        weights_prefix=settings.weights_prefix if configured else None,
    )


def taps_of(pipeline: Pipeline, settings: NetworkSettings) -> tuple[str, ...]:
    """The arrays to store of a network."""
    return pipeline.extract.taps if settings.taps is None else settings.taps


def source_of(pipeline: Pipeline) -> "ImageSource":
    """The images of the settings."""
    from alike.extract.images import open_source

    images = pipeline.images
    groups = {"group": images.group} if images.group else {}
    return open_source(images.source, **images.options, **groups)


NO_VALIDATION = (
    "this store has no validation images: its held-out images decide about retraining too, so the "
    "scores of a network that was chosen by them flatter it; [images] validation_share = 0.25 "
    "sets a part of them aside for decisions from now on"
)


def split_store(run: PipelineRun, store: "Store") -> None:
    """Set the shares of the settings; a store that trained without validation stays as it is."""
    images, before = run.pipeline.images, store.split()
    share = run.pipeline.validation_share
    if images.validation_share is None and before.train_share > 0:
        share = min(before.validation_share, 1.0 - run.pipeline.train_share)
    store.set_split(run.pipeline.train_share, images.salt, share)
    store.set_twins(images.twins or "together")
    if run.pipeline.retrain and not share:
        run.decide([NO_VALIDATION])


def sides_of(store: "Store") -> list[Any]:
    """What the sides of the images depend on: shares, salt, and those of twins and groups."""
    split = store.split()
    shares: list[Any] = [split.train_share, split.salt]
    if split.validation_share:
        shares.append(split.validation_share)
    together = store.components()
    if len(together) and store.twins() == "together":
        shares.append(digest(together.astype(str).to_dict("list")))
    return shares


@dataclass(frozen=True)
class Asked:
    """A network whose features are asked for.

    Attributes:
        name: in the times and reasons of the run.
        network: loaded.
        taps: to store.
    """

    name: str
    network: "Network"
    taps: tuple[str, ...]


def extract_images(run: PipelineRun, weights: str, name: str, like: "Network | None" = None) -> str:
    """Features of all images into the store; returns the key of their group."""
    network = load(run.pipeline, weights, like)
    asked = Asked(name, network, taps_of(run.pipeline, run.pipeline.network))
    (key,) = extract_together(run, [asked])
    return key


def extract_together(run: PipelineRun, networks: Sequence[Asked]) -> tuple[str, ...]:
    """Features of all images by several networks, in one pass; the keys of their groups."""
    from alike.extract.pipeline import check_bad_share, extract_networks
    from alike.extract.run import BAD_SHARE

    started = time.perf_counter()
    settings = run.pipeline.extract
    images = run.pipeline.images
    bad_share = BAD_SHARE if images.bad_share is None else images.bad_share
    store = run.store()
    with store.files.snapshot():
        split_store(run, store)
    reports = extract_networks(
        source_of(run.pipeline),
        [(one.network, one.taps) for one in networks],
        store,
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
        bad_share=bad_share,
        rehash=run.rehash,
        progress=run.progress,
        executor=run.workers.executor(),
    )
    # One reading of all images is enough for all networks of a run.
    run.rehash = False
    for report in reports:
        if not report.n_rows:
            first = report.bad.iloc[0]
            raise BadInput(
                f"none of the {report.n_listed} images of {images.source} has features; "
                f"the first: {first.path}: {first.state}: {first.reason}"
            )
        check_bad_share(report, bad_share)
        with store.files.snapshot():
            keep_trained(store.features(report.key))
        run.notes.extend(note for note in map(masked, report.notes) if note not in run.notes)
        run.passing.update(map(masked, report.passing))
    computed = [report.n_computed for report in reports]
    names = [one.name for one in networks]
    run.reused.extend(f"extract {name}" for name, n in zip(names, computed, strict=True) if not n)
    if any(computed):
        label = ", ".join(name for name, n in zip(names, computed, strict=True) if n)
        run.seconds[f"extract {label}"] = time.perf_counter() - started
        run.rates[f"extract {label}"] = max(computed) / reports[0].seconds
    return tuple(str(report.key) for report in reports)


def build(run: PipelineRun, key: str, name: str) -> None:
    """The nearest-neighbour index of a group, if its features or the wish changed."""
    from alike.index.build import build_index
    from alike.index.files import CARD
    from alike.index.places import name_of, why_not_whole
    from alike.index.specs import Wish

    store = run.store()
    features = store.features(key)
    settings = run.pipeline.index
    inputs = {"digest": features.digest, "images": set_digest(features), **settings.model_dump()}
    artefact, label = f"index {key} {settings.measure}", f"index {name}"
    # The card names the file of the index with its checksum: hashing it is enough.
    card = run.file(f"{name_of(key, settings.measure)}/{CARD}")
    lacking = why_not_whole(store, key, settings.measure)
    if lacking:
        run.explain(label, lacking)
        run.memo.forget(artefact)
    elif run.reuse(artefact, inputs, label) is not None:
        return
    started = time.perf_counter()
    ask = partial(
        build_index,
        features,
        settings.measure,
        wish=Wish(recall=settings.recall, at=settings.at, memory=settings.memory),
        progress=run.progress,
    )
    with run.workers.rows(features, settings.measure, "embed") as rows:
        try:
            ask(map_blocks=rows)
        except StoreDamaged:
            # Nothing in an index is lost that the features do not hold.
            ask(map_blocks=rows, rebuild=True)
    run.seconds[label] = time.perf_counter() - started
    run.keep(artefact, inputs, {"key": key}, (card,))


def evaluate_group(
    run: PipelineRun,
    key: str,
    name: str,
    untrained: str | None = None,
    stored: tuple[str, ...] | None = None,
) -> "Analysis":
    """Distances, scores and tables of a group, over the images that no training saw.

    Args:
        run: the run.
        key: of the group.
        name: in times and reasons.
        untrained: key of the same architecture with random weights.
        stored: measures in place of those of the settings; None: these.
    """
    from alike.analysis.analyse import DEFAULT_MEASURES, VERSION, AnalysisSettings, analyse
    from alike.analysis.stored import Analysis

    store = run.store()
    features = store.features(key)
    run.decide(check_held_out(features))
    beside = store.features(untrained) if untrained else None
    settings = run.pipeline.analyse
    measures = settings.measures if stored is None else stored
    trigger = run.pipeline.trigger_measure
    if run.pipeline.retrain and trigger not in (measures or DEFAULT_MEASURES):
        measures = (*(measures or DEFAULT_MEASURES), trigger)
    inputs = {
        **settings.model_dump(exclude={"human"}),
        **human_digest(run),
        "digest": features.digest,
        "untrained": beside.digest if beside else None,
        "images": set_digest(features),
        "twins": twin_paths(features),
        "classes": features.attrs.get("class_names"),
        "share": sides_of(store),
        "version": VERSION,
        "measures": measures,
    }
    artefact, label = f"analyse {key}", f"analyse {name}"
    if run.reuse(artefact, inputs, label) is not None:
        analysis = Analysis.load(store, key)
        run.notes.extend(analysis.sample_notes)
        return analysis
    started = time.perf_counter()
    asked = AnalysisSettings(
        measures=measures or None, bootstrap=settings.bootstrap, seed=settings.seed,
        **settings.of_pairs,
    )  # fmt: skip
    with run.workers.jobs() as jobs:
        analysis = analyse(
            features, asked, untrained=beside, human=human_answers(run), jobs=jobs,
            progress=run.progress,
        )  # fmt: skip
    run.seconds[label] = time.perf_counter() - started
    run.notes.extend(analysis.sample_notes)
    tables = [run.file(f"tables/{key}/{table}.parquet") for table in sorted(analysis.tables)]
    run.keep(artefact, inputs, {"key": key}, tables)
    return analysis


def human_answers(run: PipelineRun) -> "HumanAnswers | None":
    """What people said about the images of the run; None if the settings name no file.

    Raises:
        BadInput: as `read_answers`.
    """
    from alike.analysis.people import read_answers

    file = run.pipeline.analyse.human
    return None if file is None else read_answers(file, run.store().images())


def human_digest(run: PipelineRun) -> dict[str, str]:
    """Of the file of what people said, under `human`; nothing if the settings name none."""
    from alike.analysis.people import answers_digest

    file = run.pipeline.analyse.human
    return {} if file is None else {"human": answers_digest(file)}


def decision_scores(
    run: PipelineRun, key: str, name: str, analysis: "Analysis"
) -> tuple[str, dict[str, float]]:
    """What decides about a network: the side whose images are looked at, and its scores.

    Args:
        run: the run.
        key: of the network's features.
        name: of the step.
        analysis: of the held-out images, which decide in a store without validation images.
    """
    from alike.analysis.analyse import VERSION, AnalysisSettings, evaluate

    store, measure, of_pairs = (
        run.store(),
        run.pipeline.trigger_measure,
        run.pipeline.analyse.of_pairs,
    )
    if not store.split().validation_share:
        return "held_out", named_scores(analysis.tables["scores"], measure)
    features = store.features(key)
    run.decide(check_held_out(features, "validation"))
    inputs = {
        "digest": features.digest_for(features.arrays),
        "images": set_digest(features),
        "classes": features.attrs.get("class_names"),
        "share": sides_of(store),
        "version": VERSION,
        "measure": measure,
        **of_pairs,
    }
    artefact, label = f"validate {key}", f"validate {name}"
    scores = run.reuse(artefact, inputs, label)
    if scores is not None:
        return "validation", {score: float(value) for score, value in scores.items()}
    started = time.perf_counter()
    asked = AnalysisSettings(measures=(measure,), split="validation", bootstrap=0, **of_pairs)
    with run.workers.jobs() as jobs:
        table = evaluate(features, asked, jobs=jobs, progress=run.progress)
    scores = named_scores(table, measure)
    run.seconds[label] = time.perf_counter() - started
    # As text, since JSON has no NaN.
    run.keep(artefact, inputs, {score: str(value) for score, value in scores.items()}, ())
    return "validation", scores


def explain(run: PipelineRun, key: str, weights: str, name: str) -> None:
    """Class activation of examples, continuity, grades, most confused pairs: kept in the store."""
    from alike.analysis.explain.stored_grades import VERSION

    store = run.store()
    features = store.features(key)
    settings = run.pipeline.explain
    inputs = {
        **({"version": VERSION} if settings.grade_images else {}),
        "digest": features.digest,
        "images": view_digest(store),
        "classes": features.attrs.get("class_names"),
        "share": sides_of(store),
        **settings.model_dump(),
    }
    artefact, label = f"explain {key}", f"explain {name}"
    # What another run drew and this one does not is shown by no report of this one.
    drawn_before = run.memo.unchanged(artefact)
    writes = [*drawn_before, *_drawn_files(run, key)]
    if run.reuse(artefact, inputs, label, writes) is not None:
        return
    for picture in drawn_before:
        picture.unlink(missing_ok=True)
    started = time.perf_counter()
    pictures = _draw(run, key, load(run.pipeline, weights))
    run.seconds[label] = time.perf_counter() - started
    run.keep(artefact, inputs, {"key": key}, pictures)


def _drawn_files(run: PipelineRun, key: str) -> list[RunFile]:
    """The files that the settings may have drawn."""
    from alike.analysis.explain import CONFUSED, EXAMPLES, GRADE, PAIR_GRADE, PICTURE, TABLE

    settings = run.pipeline.explain
    names = [EXAMPLES] if settings.examples else []
    names += [TABLE, PICTURE] if settings.continuity_images else []
    names += [GRADE, PAIR_GRADE] if settings.grade_images else []
    names += [CONFUSED] if settings.confused else []
    return [run.file(name.format(key=key)) for name in names]


def _draw(run: PipelineRun, key: str, network: "Network") -> list[RunFile]:
    """What the settings ask to explain; returns the files written."""
    from alike.analysis.explain import (
        CONFUSED,
        EXAMPLES,
        PICTURE,
        TABLE,
        keep_confused,
        keep_examples,
    )
    from alike.analysis.explain.continuity import METHODS, continuity_of

    store, settings = run.store(), run.pipeline.explain
    features = store.features(key)
    names: list[str] = []
    if settings.examples and keep_examples(features, network, settings.examples):
        names.append(EXAMPLES)
    if settings.continuity_images:
        try:
            with run.workers.jobs() as jobs:
                continuity_of(
                    features,
                    network,
                    methods=settings.methods or METHODS,
                    n_images=settings.continuity_images,
                    map_methods=jobs.stage("continuity") if jobs.remote else None,
                    progress=run.progress,
                )
            names += [TABLE, PICTURE]
        except BadInput as error:
            # As for grades: a set of one held-out image ends no run.
            run.decide([f"Continuity of explanations is not measured: {error}"])
    if settings.grade_images:
        # Before the pictures, under whose maps the grades stand.
        names += _grade(run, features, network)
    if settings.confused and "last_conv" in features.arrays:
        lines: list[str] = []
        try:
            keep_confused(features, settings.confused, split="held_out", tell=lines.append)
            names.append(CONFUSED)
        except BadInput as error:
            lines.append(str(error))
        run.decide(f"Most alike images of different classes: {line}" for line in lines)
    return [run.file(name.format(key=key)) for name in names]


def _grade(run: PipelineRun, features: "Features", network: "Network") -> list[str]:
    """Grade the explainers; returns the tables that are written, by their place."""
    from alike.analysis.explain import GRADE, PAIR_GRADE
    from alike.flows.explaining import by_reason, cost_line, graded

    settings, left_out = run.pipeline.explain, list[str]()
    try:
        with run.workers.jobs() as jobs:
            tables = graded(
                features,
                settings.methods or None,
                limit=settings.grade_images,
                split="held_out",
                network=network,
                map_methods=jobs.stage("grade") if jobs.remote else None,
                progress=run.progress,
                tell=left_out.append,
                announce=lambda costs: run.progress("grade", 0, 0, cost_line(costs)),
            )
    except BadInput as error:
        # A network that no explainer fits, or a set without held-out images, ends no run.
        run.decide([f"Explanations are not graded: {error}"])
        return []
    run.decide(f"Not graded: {line}" for line in by_reason(left_out))
    places = {"grade": GRADE, "pair_grade": PAIR_GRADE}
    return [places[name] for name in tables]


def retrain_network(run: PipelineRun, weights: str, key: str, loss: str) -> str:
    """Continue training on the images of the split `train`; returns the weights file."""
    from alike.flows.train_processes import retrain_by_processes
    from alike.train.retrain import retrain

    settings = run.pipeline.retrain
    if settings is None:
        raise BadInput("retraining was asked for, but the settings hold no section [retrain]")
    features = run.store().features(key)
    whole = features.table("train")
    table = whole[whole.label.notna()]
    if len(table) < len(whole):
        unlabelled = len(whole) - len(table)
        run.decide([f"{unlabelled} of {len(whole)} training images have no label: left out"])
    wanted = settings.train_settings(loss)
    validation = features.table("validation")
    validation = validation[validation.label.isin(table.label)]
    stops = bool(wanted.patience and len(validation))
    inputs = {
        "parent": features.attrs["weights_hash"],
        **{name: features.attrs[name] for name in ("modules_hash",) if name in features.attrs},
        "train": digest(sorted(zip(table.image_id, table.label, strict=True))),
        **({"validation": digest(sorted(validation.image_id))} if stops else {}),
        **training_transform(run.pipeline),
        **wanted.to_dict(),
    }
    folder = f"{loss}-{digest(inputs)[:8]}"
    artefact, label = f"retrain {folder}", f"retrain {loss}"
    outputs = run.reuse(artefact, inputs, label)
    if outputs is not None:
        run.decide(outputs["decisions"])
        return str(run.memo.there(outputs["weights"]))
    run.store().mark_trained(table.image_id)
    if table.label.nunique() < 2:
        raise BadInput(
            f"retraining needs images of two classes or more, but the {len(table)} training images "
            f"hold {table.label.nunique()}; raise [images] train_share or bring more images"
        )
    started = time.perf_counter()
    training = list(zip(table.path, table.label, strict=True))
    validating = list(zip(validation.path, validation.label, strict=True))
    out = run.folder / "weights" / folder
    if settings.world == (1, 1):
        trained = retrain(
            load(run.pipeline, weights),
            training,
            source_of(run.pipeline).read,
            validation=validating,
            settings=wanted,
            device=run.pipeline.extract.device,
            out=out,
            progress=run.progress,
        )
    else:
        trained = retrain_by_processes(
            run.pipeline, weights, (training, validating), wanted, out, run.progress, run.tell
        )
    run.seconds[label] = time.perf_counter() - started
    if stops:
        run.store().count_decision("validation")
    run.decide(trained.decisions)
    outputs = {"weights": run.memo.place_of(trained.weights), "decisions": list(trained.decisions)}
    run.keep(artefact, inputs, outputs, (trained.weights,))
    return str(trained.weights)


def training_transform(pipeline: Pipeline) -> dict[str, Any]:
    """The preprocessing of the training images, if the settings set it.

    Only then, so that an update of the program trains nothing anew.
    """
    transform = pipeline.network.transform
    return {} if transform is None else {"transform": transform.model_dump(mode="json")}


def set_side_by_side(run: PipelineRun, before: str, after: str, measure: str) -> "pd.DataFrame":
    """Scores of two groups with paired uncertainty, over the images evaluated in both.

    The measure is that of the report's headline: one page does not speak of two.
    """
    from alike.analysis.compare import compare

    store = run.store()
    settings = run.pipeline.analyse
    with run.workers.jobs() as jobs:
        return compare(
            store.features(before),
            store.features(after),
            measure=measure,
            bootstrap=max(settings.bootstrap, 200),
            seed=settings.seed,
            human=human_answers(run),
            jobs=jobs,
        )


def how_alike(run: PipelineRun, before: str, after: str, measure: str) -> dict[str, float]:
    """CKA, RSA and neighbours kept between two groups, over the images evaluated in both."""
    from alike.analysis.networks import network_similarity

    store = run.store()
    return network_similarity(store.features(before), store.features(after), measure=measure)[0]


def view_digest(store: "Store") -> str:
    """Changes when an image, a path or a label of the current view does."""
    view = store.images()
    return digest(view[["image_id", "path", "label", "row"]].astype(str).to_dict("list"))


def set_digest(features: "Features") -> str:
    """Changes when an image or a label of the set does; a new name of a file changes nothing."""
    table = features.table()[["row", "image_id", "label"]]
    return digest(table.astype(str).to_dict("list"))


def twin_paths(features: "Features") -> str:
    """Changes with the names of images that have a twin, and with groups: a table shows both."""
    groups = features.store.image_groups()
    linked = features.store.components()["row"]
    table = features.table()
    named = table[table["row"].isin(linked)]
    if not len(named) and not len(groups):
        return ""
    shown = named[["row", "path"]].astype(str).to_dict("list")
    # Only if there are any: the digest of a set without groups stays what it was.
    return digest([shown, groups.astype(str).to_dict("list")] if len(groups) else shown)


def named_scores(scores: "pd.DataFrame", measure: str) -> dict[str, float]:
    """Every score of one measure by name, and those that belong to no measure."""
    rows = scores[scores.measure.isin([measure, "network", ""])]
    return {str(name): float(number) for name, number in zip(rows.score, rows.value, strict=True)}
