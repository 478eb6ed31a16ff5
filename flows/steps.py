"""The steps of a run as plain functions: each takes settings and keys, and returns keys.

A step whose inputs are unchanged is not run again; the memo of the output folder knows.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alike.extract.errors import BadInput
from alike.extract.progress import Progress, silent
from alike.flows.memo import Memo, digest
from alike.flows.settings import Pipeline
from alike.flows.trained_images import check_unseen, keep_trained

if TYPE_CHECKING:
    import pandas as pd

    from alike.analysis.analyse import Analysis
    from alike.extract.images import ImageSource
    from alike.extract.networks import Network
    from alike.extract.store import Store


@dataclass
class Run:
    """What the steps of one run share.

    Attributes:
        pipeline: the settings, paths resolved.
        progress: who is told how far a step is.
        seconds: time of every step that ran.
        reused: names of the steps that were not run again.
        decisions: sentences, in order.
        notes: what the extractions noted: taps of an unusual kind, a suspicious preprocessing.
    """

    pipeline: Pipeline
    progress: Progress = silent
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.memo = Memo(self.folder)

    def decide(self, sentences: Iterable[str]) -> None:
        """Take down what was decided; what two trainings say alike once."""
        self.decisions.extend(said for said in sentences if said not in self.decisions)

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.pipeline.output.folder

    @property
    def store_url(self) -> str:
        """Where the feature store of this run is."""
        return str(self.folder / "store")

    def store(self) -> "Store":
        """The feature store, made where it is not there yet."""
        from alike.extract.store import Store

        return Store.open(self.store_url, create=True)


def load(pipeline: Pipeline, weights: str, like: "Network | None" = None) -> "Network":
    """The network of the settings with these weights; `like` gives the transform."""
    from alike.extract.networks import Transform, load_network

    settings = pipeline.network
    transform = like.transform if like else None
    if transform is None and settings.transform is not None:
        transform = Transform.from_dict(settings.transform)
    configured = weights == settings.weights
    own = settings.classes if configured else None
    return load_network(
        settings.name,
        weights,
        args=settings.args,
        transform=transform,
        class_names=own or None,
        seed=settings.seed,
        output=settings.output,
        weights_key=settings.weights_key if configured else "",
        weights_prefix=settings.weights_prefix if configured else None,
    )


def source_of(pipeline: Pipeline) -> "ImageSource":
    """The images of the settings."""
    from alike.extract.images import open_source

    return open_source(pipeline.images.source, **pipeline.images.options)


def extract_images(run: Run, weights: str, name: str, like: "Network | None" = None) -> str:
    """Features of all images into the store; returns the key of their group."""
    from alike.extract.pipeline import extract

    started = time.perf_counter()
    settings = run.pipeline.extract
    store = run.store()
    store.set_split(run.pipeline.train_share, run.pipeline.images.salt)
    report = extract(
        source_of(run.pipeline),
        load(run.pipeline, weights, like),
        store,
        taps=settings.taps,
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
        progress=run.progress,
    )
    if not report.n_rows:
        first = report.bad.iloc[0]
        raise BadInput(
            f"none of the {report.n_listed} images of {run.pipeline.images.source} could be read; "
            f"the first: {first.path}: {first.state}: {first.reason}"
        )
    keep_trained(store.features(report.key))
    run.notes.extend(note for note in report.notes if note not in run.notes)
    if report.n_computed:
        run.seconds[f"extract {name}"] = time.perf_counter() - started
    else:
        run.reused.append(f"extract {name}")
    return str(report.key)


def build(run: Run, key: str, name: str) -> None:
    """The nearest-neighbour index of a group, where its features changed."""
    from alike.index.build import build_index

    store = run.store()
    features = store.features(key)
    inputs = {
        "digest": features.digest, "images": view_digest(store), **run.pipeline.index.model_dump()
    }  # fmt: skip
    if run.memo.outputs("index", inputs) is not None:
        run.reused.append(f"index {name}")
        return
    started = time.perf_counter()
    settings = run.pipeline.index
    build_index(
        features,
        settings.measure,
        recall=settings.recall,
        at=settings.at,
        memory=settings.memory,
        progress=run.progress,
    )
    run.seconds[f"index {name}"] = time.perf_counter() - started
    run.memo.record("index", inputs, {"key": key}, (store.path("index", key),))


def judge(run: Run, key: str, name: str, untrained: str | None = None) -> "Analysis":
    """Distances, scores and tables of a group, over the images that no training saw."""
    from alike.analysis.analyse import Analysis, analyse

    store = run.store()
    features = store.features(key)
    run.decide(check_unseen(features))
    beside = store.features(untrained) if untrained else None
    inputs = {
        "digest": features.digest,
        "untrained": beside.digest if beside else None,
        "images": view_digest(store),
        "share": [run.pipeline.train_share, run.pipeline.images.salt],
        **run.pipeline.analyse.model_dump(),
    }
    if run.memo.outputs("analyse", inputs) is not None:
        run.reused.append(f"analyse {name}")
        return Analysis.load(store, key)
    started = time.perf_counter()
    settings = run.pipeline.analyse
    chosen: dict[str, Any] = {"measures": settings.measures} if settings.measures else {}
    analysis = analyse(
        features,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
        untrained=beside,
        progress=run.progress,
        **chosen,
    )
    run.seconds[f"analyse {name}"] = time.perf_counter() - started
    run.memo.record("analyse", inputs, {"key": key}, (store.path("tables", key),))
    return analysis


def explain(run: Run, key: str, weights: str, name: str) -> None:
    """Class activation of examples, continuity, the most confused pairs: kept in the store."""
    from alike.analysis.explain import keep_confused, keep_examples
    from alike.analysis.explain.continuity import METHODS, continuity_of

    store = run.store()
    features = store.features(key)
    settings = run.pipeline.explain
    inputs = {
        "digest": features.digest,
        "images": view_digest(store),
        "share": [run.pipeline.train_share, run.pipeline.images.salt],
        **settings.model_dump(),
    }
    if run.memo.outputs("explain", inputs) is not None:
        run.reused.append(f"explain {name}")
        return
    started = time.perf_counter()
    network = load(run.pipeline, weights)
    if settings.examples:
        keep_examples(features, network, settings.examples)
    if settings.continuity_images:
        continuity_of(
            features,
            network,
            methods=settings.methods or METHODS,
            n_images=settings.continuity_images,
            progress=run.progress,
        )
    if settings.confused and "last_conv" in features.arrays:
        keep_confused(features, settings.confused, split="held_out")
    run.seconds[f"explain {name}"] = time.perf_counter() - started
    run.memo.record("explain", inputs, {"key": key})


def retrain_network(run: Run, weights: str, key: str, loss: str) -> str:
    """Continue training on the images of the split `train`; returns the weights file."""
    from alike.train.retrain import retrain

    settings = run.pipeline.retrain
    if settings is None:
        raise BadInput("retraining was asked for, but the settings hold no section [retrain]")
    features = run.store().features(key)
    table = features.table("train")
    wanted = settings.train_settings(loss)
    inputs = {
        "parent": features.attrs["weights_hash"],
        **{name: features.attrs[name] for name in ("modules_hash",) if name in features.attrs},
        "train": digest(sorted(zip(table.image_id, table.label, strict=True))),
        **wanted.to_dict(),
    }
    known = run.memo.outputs("retrain", inputs)
    if known is not None:
        run.reused.append(f"retrain {loss}")
        run.decide(known["decisions"])
        return str(run.memo.there(known["weights"]))
    if table.label.nunique() < 2:
        raise BadInput(
            f"retraining needs images of two classes or more, but the {len(table)} training images "
            f"hold {table.label.nunique()}; raise [images] train_share or bring more images"
        )
    started = time.perf_counter()
    trained = retrain(
        load(run.pipeline, weights),
        list(zip(table.path, table.label, strict=True)),
        source_of(run.pipeline).read,
        settings=wanted,
        device=run.pipeline.extract.device,
        out=run.folder / "weights" / f"{loss}-{digest(inputs)[:8]}",
        progress=run.progress,
    )
    run.seconds[f"retrain {loss}"] = time.perf_counter() - started
    run.decide(trained.decisions)
    outputs = {"weights": run.memo.kept(trained.weights), "decisions": list(trained.decisions)}
    run.memo.record("retrain", inputs, outputs, (trained.weights,))
    return str(trained.weights)


def set_side_by_side(run: Run, before: str, after: str, measure: str) -> "pd.DataFrame":
    """Scores of two groups with paired uncertainty, over the images judged in both.

    The measure is that of the report's headline: one page does not speak of two.
    """
    from alike.analysis.compare import compare

    store = run.store()
    settings = run.pipeline.analyse
    return compare(
        store.features(before),
        store.features(after),
        measure=measure,
        bootstrap=max(settings.bootstrap, 200),
        seed=settings.seed,
    )


def how_alike(run: Run, before: str, after: str, measure: str) -> dict[str, float]:
    """CKA, RSA and neighbours kept between two groups, over the images judged in both."""
    from alike.analysis.networks import likeness

    store = run.store()
    return likeness(store.features(before), store.features(after), measure=measure)[0]


def view_digest(store: "Store") -> str:
    """Changes when an image, a path or a label of the current view does."""
    view = store.images()
    return digest(view[["image_id", "path", "label", "row"]].astype(str).to_dict("list"))


def named_scores(scores: "pd.DataFrame", measure: str) -> dict[str, float]:
    """Every score of one measure by name, and those that belong to no measure."""
    rows = scores[scores.measure.isin([measure, "network", ""])]
    return {str(name): float(number) for name, number in zip(rows.score, rows.value, strict=True)}
