"""The public functions: those of the command line, with its names and arguments, from Python.

Each loads what it needs when it is called. A store is given as its place or as an open `Store`.
What is noted on the command line (`note: …`) is a `UserWarning` here. An argument of another kind,
or a number beyond the range of the command's option, is a `BadInput` that names it. Scalars of
NumPy are taken as Python's.
"""

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alike.arguments import Names, as_vectors, checked, checked_with, each_name, each_query
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from alike.analysis.background import BackgroundProbe
    from alike.analysis.people import HumanAnswers
    from alike.analysis.ranking import Ranking
    from alike.analysis.stored import Analysis
    from alike.client import Client
    from alike.extract.pipeline import ExtractionReport
    from alike.extract.store import Features, Store
    from alike.flows.pipeline import Finished
    from alike.index.build import IndexReport
    from alike.index.query import NeighbourIndex
    from alike.results import Answers, Comparison, Explanations, ExportedFiles, ReportFile
    from alike.train.run_files import TrainRun

    Place = str | Path | Store
    Query = str | Path | bytes | int

Split = Literal["held_out", "validation", "train", "all"]
FROM_0, FROM_1, FROM_4 = (0, None), (1, None), (4, None)
SHARE = (0, 1)
SEED = (0, 2**63 - 1)
"""Ranges of numbers: those of the options of the commands."""


@checked
def open_store(store: "Place", *, create: bool = False, **options: Any) -> "Store":
    """Open a feature store.

    Args:
        store: a folder, or a URL of an fsspec filesystem such as ``s3://bucket/place``.
        create: create an empty store if there is none.
        options: of the filesystem.

    Raises:
        BadInput: there is no store, or one of another layout.
        StoreUnreachable: the storage of a URL does not answer, or lets nobody in.
    """
    from alike.extract.store import Store

    if isinstance(store, Store):
        return store
    return Store.open(store, create=create, **options)


@checked
def connect(address: str, *, token: str = "", timeout: float = 60.0, store: str = "") -> "Client":
    """Ask a server that `alike serve` has started, here or elsewhere.

    Args:
        address: as the server printed it, such as ``http://127.0.0.1:8000``.
        token: that the server wants; one in the address counts too.
        timeout: seconds until an answer has to be there.
        store: name of a store of the server, as `stores()` gives it; empty: the first.

    Raises:
        BadInput: nobody answers there, or something else does; a wrong token; no store of this
            name.

    Example:
        ``alike.connect("http://127.0.0.1:8000").neighbours("cat.jpg", k=3)``
    """
    from alike.client import Client

    return Client(address, token=token, timeout=timeout, store=store)


@checked
def run_pipeline(
    settings: str | Path, *, rehash: bool = False, progress: Progress = silent
) -> "Finished":
    """Run a settings file: extract, index, analyse, retrain if triggered, compare, report.

    Args:
        settings: the file, such as ``pipeline.toml``.
        rehash: read every image, also those whose size and times are as in the last run.
        progress: called as each step proceeds.

    Raises:
        BadInput: a setting that is wrong; nothing has been computed then.
    """
    from alike.flows.check import check
    from alike.flows.orchestration import prepare
    from alike.flows.run import refusal_recorded
    from alike.flows.settings import read_pipeline
    from alike.flows.unchanged import unchanged_run

    path = Path(settings)
    pipeline = read_pipeline(path)
    done = None if rehash else unchanged_run(pipeline)
    if done is not None:
        return done
    with refusal_recorded(pipeline):
        check(pipeline)
        prepare(pipeline.output.folder)
    # Prefect reads its settings as it is imported: after `prepare`.
    from alike.flows.pipeline import run_pipeline as run

    return run(path, progress, rehash=rehash)


@checked_with(
    batch_size=FROM_1, threads=FROM_1, crop=FROM_1, train_share=SHARE, validation_share=SHARE,
    bad_share=SHARE, seed=SEED,
)  # fmt: skip
def extract_images(
    source: str | Path,
    network: str,
    store: "Place",
    *,
    weights: str | Path | None = None,
    taps: Names = ("last_conv", "fc", "logits"),
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    resize: str | int | None = None,
    crop: int | None = None,
    network_arg: Mapping[str, Any] | None = None,
    source_option: Mapping[str, Any] | None = None,
    train_share: float | None = None,
    validation_share: float | None = None,
    group: str | None = None,
    twins: Literal["together", "ignore"] | None = None,
    classes: Sequence[str] | None = None,
    network_output: str = "",
    weights_key: str = "",
    weights_prefix: str | None = None,
    seed: int = 0,
    where: str | None = None,
    label_column: str | None = None,
    first_label: bool | None = None,
    bad_share: float = 0.2,
    rehash: bool = False,
    cluster: str | int | None = None,
    progress: Progress = silent,
) -> "ExtractionReport":
    """Compute and store the features of images that have none yet.

    Args:
        source: set of images: class folders, arrays, a manifest…; see `alike list datasets`.
        network: name of torchvision, ``file.py:factory`` or ``timm:NAME``.
        store: created if it does not exist.
        weights: file, member of torchvision's enum, or ``none`` (random); None: torchvision's own.
        taps: outputs to store; module paths too.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``…
        precision: ``auto``, ``float32``, ``bfloat16``, ``float16`` (GPU).
        batch_size: images in one forward pass; None: chosen by measurement.
        threads: cores to use; None: all.
        resize: ``none``, ``256`` (shorter side) or ``224x320`` instead of the weights' own.
        crop: side of the central square, with `resize`.
        network_arg: arguments of the factory.
        source_option: options of the source.
        train_share: share of the images that may be trained on, 0 to 1.
        validation_share: share, next to it, by which networks are chosen.
        group: column of what images share that must stand on one side.
        twins: whether images that show one picture stand on one side; None: as the store does.
        classes: names of the logits, in order.
        network_output: output that holds the logits, if there are several: name or position.
        weights_key: group of a weights file to load, such as ``model_ema``.
        weights_prefix: prefix of the names to load, such as ``encoder_q.``; None: detected.
        seed: of random weights.
        where: only these images: ``subset=val`` or ``label=cat,dog``.
        label_column: column, array or JSON field of the classes.
        first_label: of several labels take the first (True), or keep a text such as ``a|b`` as one
            name (False); None refuses both.
        bad_share: largest share of images without a feature; beyond it the features are stored and
            an error is raised.
        rehash: read every image to list it, also those whose size and times are as before.
        cluster: Dask workers: a number, ``local`` (one a core), or ``tcp://scheduler:port``.
        progress: called as listing and extraction proceed.

    Returns:
        What was done. On an unchanged set nothing is computed.

    Raises:
        BadInput: an unknown network or tap, no usable image, too many bad images, or weights that
            do not fit.
    """
    from alike.extract.pipeline import check_bad_share
    from alike.flows.extracting import extract_images as extract_named
    from alike.flows.extracting import network_options, source_options

    settings = {
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "threads": threads,
        "bad_share": bad_share,
        "rehash": rehash,
        "progress": progress,
    }
    report = extract_named(
        str(source),
        network,
        store,
        weights=None if weights is None else str(weights),
        taps=each_name(taps),
        settings=settings,
        size=(None if resize is None else str(resize), crop),
        chosen=network_options(network_arg, classes, network_output, weights_key, weights_prefix),
        source_options=source_options(source_option, where, label_column, first_label),
        split=(train_share, validation_share),
        group=group,
        twins=twins,
        seed=seed,
        cluster=cluster,
    )
    check_bad_share(report, bad_share)
    return report


@checked_with(at=FROM_1, latency=FROM_0, batch=FROM_1, threads=FROM_0, effort=FROM_0)
def build_index(
    store: "Place",
    *,
    features: str | None = None,
    measure: str = "gap_cosine",
    recall: float | None = None,
    at: int | None = None,
    memory: str | int | None = None,
    latency: float | None = None,
    batch: int | None = None,
    threads: int | None = None,
    kind: Names | None = None,
    on_disk: bool | None = None,
    cluster: str | int | None = None,
    rebuild: bool = False,
    effort: float = 900.0,
    progress: Progress = silent,
) -> "IndexReport":
    """Choose an index by measurement and build it, or update the existing one.

    An argument that is not given keeps its value in the existing index.

    Args:
        store: with the features.
        features: the extraction; None: the only one, or the one that a run serves.
        measure: a key of `MEASURES`.
        recall: share of the true neighbours to find; 1: exact search.
        at: number of neighbours for recall.
        memory: largest memory of the index: bytes, a size such as ``4GB``, or ``any``.
        latency: largest time of a call of `batch` queries, in milliseconds; 0: any.
        batch: queries in one call.
        threads: of the search; 0: the default of FAISS.
        kind: only these kinds of index.
        on_disk: leave lists on disk: for sets larger than memory.
        cluster: Dask workers as in `extract_images`: they build the shards of lists on disk, and
            read the feature maps of an index in memory.
        rebuild: build the index again.
        effort: seconds to spend on candidates.
        progress: called as rows are embedded and added.

    Raises:
        BadInput: nothing to index, or a wish that cannot be met.
    """
    from alike.flows.indexing import changed_wish, index_workers
    from alike.index.build import build_index as build
    from alike.index.build import card_there
    from alike.index.specs import Wish

    chosen = open_store(store).features(features)
    card = card_there(chosen, measure)
    there = Wish() if card is None else card.wish
    wanted = None if memory is None else str(memory)
    if on_disk is None:
        on_disk = card is not None and bool(card.lists)
    with index_workers(cluster, chosen, measure, on_disk=on_disk) as workers:
        return build(
            chosen,
            measure,
            wish=changed_wish(there, recall, at, wanted, latency, batch, threads),
            kinds=None if kind is None else each_name(kind),
            on_disk=on_disk,
            rebuild=rebuild,
            effort=effort,
            progress=progress,
            **workers,
        )


@checked_with("images", k=FROM_1)
def neighbours(
    images: "Query | Iterable[Query] | NDArray[np.floating[Any]] | NDArray[np.integer[Any]]",
    store: "Place",
    k: int = 10,
    *,
    features: str | None = None,
    measure: str = "gap_cosine",
    same_class: bool = False,
    other_class: bool = False,
    among: Names | None = None,
    where: str | None = None,
    label: str | None = None,
    rerank: str | None = None,
    trust: bool = False,
    contact_sheet: str | Path | None = None,
) -> "Answers":
    """Find the stored images nearest to images, rows or vectors.

    If there is no index yet, it is built first, and a warning says so.

    Args:
        images: one query or several: image files, URLs, bytes of image files, numbers of stored
            rows; or vectors, (D,) or (Q, D), as the measure makes them: an array, a torch tensor, a
            table or a list. A stored image is never its own neighbour.
        store: with the features.
        k: neighbours a query.
        features: the extraction; None: the only one, or the one that a run serves.
        measure: a key of `MEASURES`.
        same_class: only images of the query's class.
        other_class: only images of other classes.
        among: only images of these classes.
        where: only these images: ``subset=val`` or ``label=cat,dog``.
        label: class of the queries that are not stored.
        rerank: ``chamfer`` or ``sinkhorn``: compare feature maps part by part; not for vectors.
        contact_sheet: write a PNG of queries and neighbours; not for vectors.
        trust: agree to run the network file that the store names, from now on.

    Raises:
        BadInput: nothing to index, a query that cannot be read, or filters that exclude each
            other.
    """
    import numpy as np

    from alike.extract.errors import BadInput
    from alike.extract.networks import accepting
    from alike.extract.replacing import check_target
    from alike.flows.indexing import build_missing
    from alike.index.filters import Among
    from alike.index.query import NeighbourIndex, check_k, check_query_vectors
    from alike.index.show import fewer_than, neighbour_table, write_contact_sheet
    from alike.results import Answers

    if same_class and other_class:
        raise BadInput("same_class and other_class exclude each other: give one of them")
    k = check_k(k)
    if contact_sheet is not None:
        check_target(contact_sheet, endings=[".png"])
    relation: Literal["same", "other", "any"]
    relation = "same" if same_class else "other" if other_class else "any"
    allowed = Among(relation, () if among is None else each_name(among), where or "")
    chosen = open_store(store).features(features)
    told: list[str] = []
    build_missing(chosen, measure, told.append)
    _warn(["; ".join(told)] if told else [])
    opened = NeighbourIndex.open(chosen.store, chosen.key, measure)
    queries: list[tuple[str, bytes | None]]
    if (asked_about := as_vectors(images)) is not None:
        if rerank is not None or contact_sheet is not None:
            raise BadInput("vectors have no images: leave out rerank and contact_sheet")
        with np.errstate(over="ignore"):
            given = np.atleast_2d(asked_about).astype(np.float32)
        # A shape of three dimensions is refused below.
        if given.ndim == 2:
            check_query_vectors(given)
        vectors = _unit(opened, given) if given.ndim == 2 else given
        found = opened.query_vectors(
            vectors, k, weights_hash=opened.card.weights_hash, among=allowed, label=label
        )
        queries = [(f"vector {number}", None) for number in range(len(vectors))]
        table = neighbour_table(opened, [name for name, _ in queries], found)
    else:
        given_images = each_query(images)
        asked = opened.read(given_images)
        with accepting(trust):
            found = opened.query(
                [one.row if one.image is None else one.image for one in asked],
                k,
                among=allowed,
                label=label,
                rerank=rerank,
            )
        queries = [(one.name, None if one.image is None else one.image.data) for one in asked]
        table = neighbour_table(opened, [name for name, _ in queries], found)
        if contact_sheet is not None:
            write_contact_sheet(opened, given_images, table, Path(contact_sheet), label)
    _warn([fewer] if (fewer := fewer_than(k, found.rows)) else [])
    return Answers(
        measure=rerank or measure,
        table=table,
        rows=found.rows,
        distances=found.distances,
        exact=found.exact,
        store=opened.features.store,
        queries=queries,
    )


@checked_with(bootstrap=FROM_0, seed=SEED, budget=FROM_1)
def analyse(
    store: "Place",
    *,
    features: str | None = None,
    measures: Names | None = None,
    split: Split = "held_out",
    where: str | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    untrained: str | None = None,
    human: str | Path | None = None,
    cluster: str | int | None = None,
    budget: float = 1e14,
    bins: int = 16384,
    precision: Literal["float32", "bfloat16"] = "float32",
    progress: Progress = silent,
) -> "Analysis":
    """Measure how much nearer images of one class are than images of different classes.

    Args:
        store: with the features; the analysis is stored there and replaces an earlier one.
        features: the extraction; None: the only one, or the one that a run serves.
        measures: keys of `MEASURES`; None: the default set of measures.
        split: which images; ``held_out`` are those that no training sees.
        where: only these images: ``subset=val`` or ``label=cat,dog``.
        bootstrap: 0: no intervals; any other number: intervals. Nothing is resampled.
        seed: of folds, samples of images, and draws for the worst class.
        untrained: extraction of the same network with random weights.
        human: file of what people said about the images: votes, triplets or dissimilarities.
        cluster: Dask workers as in `extract_images`; None: threads of this process.
        budget: multiplications a measure; beyond it a sample of images is evaluated.
        bins: of the histograms, a power of two.
        precision: of the products: ``bfloat16`` is faster and coarser.
        progress: called after every block.

    Raises:
        BadInput: no pairs of both kinds, an unknown measure, a tap that is not stored, or held-out
            images that the network was trained on.
    """
    from alike.analysis.analyse import AnalysisSettings
    from alike.analysis.analyse import analyse as analyse_features
    from alike.flows.cluster import cluster_jobs

    settings = AnalysisSettings(
        measures=None if measures is None else each_name(measures),
        split=split,
        bootstrap=bootstrap,
        seed=seed,
        budget=budget,
        bins=bins,
        precision=precision,
    )
    opened = open_store(store)
    chosen = opened.features(features).only(where)
    _check_held_out(split, chosen)
    answers = _answers(human, chosen.whole.table("all"))
    with cluster_jobs(cluster) as jobs:
        return analyse_features(
            chosen,
            settings,
            untrained=None if untrained is None else opened.features(untrained),
            human=answers,
            jobs=jobs,
            progress=progress,
        )


def _answers(human: str | Path | None, images: "pd.DataFrame") -> "HumanAnswers | None":
    """What people said of the images of a store; its notes are warnings."""
    from alike.analysis.people import read_answers

    answers = None if human is None else read_answers(human, images)
    _warn(answers.notes if answers else ())
    return answers


@checked_with(seed=SEED)
def rank_networks(
    store: "Place",
    *,
    measure: str = "gap_cosine",
    split: Split = "held_out",
    where: str | None = None,
    seed: int = 0,
    human: str | Path | None = None,
    cluster: str | int | None = None,
    progress: Progress = silent,
) -> "Ranking":
    """Measure every extraction of a store on the same images, as `alike compare --all` does.

    Args:
        store: with the extractions; the ranking, and how alike the networks are to each other, are
            kept there for the report.
        measure: key of `MEASURES`, of all.
        split: which images; ``held_out`` are those that no training sees.
        where: only images with these values, such as ``subset=val`` or ``label=cat,dog``.
        seed: of what is drawn.
        human: file of what people said about the images, as in `analyse`.
        cluster: Dask workers as in `extract_images`; None: threads of this process.
        progress: called after every few blocks.

    Raises:
        BadInput: fewer than two networks that can be measured, no images in common, or held-out
            images that a network was trained on.
    """
    from alike.flows.cluster import cluster_jobs
    from alike.flows.comparing import compare_all

    opened = open_store(store)
    _check_held_out(split, *(opened.features(key) for key in opened.groups()))
    answers = _answers(human, opened.images())
    with cluster_jobs(cluster) as jobs:
        return compare_all(
            opened, measure=measure, split=split, where=where, seed=seed, human=answers, jobs=jobs,
            progress=progress,
        )[0]  # fmt: skip


@checked_with(bootstrap=FROM_0, seed=SEED)
def compare(
    a: str,
    b: str,
    store: "Place",
    *,
    store_b: "Place | None" = None,
    measure: str = "gap_cosine",
    split: Split = "held_out",
    where: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    human: str | Path | None = None,
    cluster: str | int | None = None,
    progress: Progress = silent,
) -> "Comparison":
    """Compare two extractions on the same images; intervals are of the paired difference.

    Args:
        a: first extraction.
        b: second extraction.
        store: of both.
        store_b: store of the second extraction; None: `store`.
        measure: used for both.
        split: which images; ``held_out`` are those that no training sees.
        where: only these images: ``subset=val`` or ``label=cat,dog``.
        bootstrap: not used since 0.2.0: nothing is resampled.
        seed: of a sample of very many images, and of draws for the worst class.
        human: file of what people said about the images of `store`, as in `analyse`.
        cluster: as in `analyse`.
        progress: called after every few blocks.

    Raises:
        BadInput: no images in common, or none that make pairs of both kinds.
    """
    from alike.analysis.compare import compare as compare_features
    from alike.analysis.networks import network_similarity
    from alike.flows.cluster import cluster_jobs
    from alike.results import Comparison

    first = open_store(store).features(a).only(where)
    second = open_store(store if store_b is None else store_b).features(b).only(where)
    _check_held_out(split, first, second)
    answers = _answers(human, first.whole.table("all"))
    with cluster_jobs(cluster) as jobs:
        scores = compare_features(
            first,
            second,
            split=split,
            measure=measure,
            bootstrap=bootstrap,
            seed=seed,
            human=answers,
            jobs=jobs,
            progress=progress,
        )
    numbers, _ = network_similarity(first, second, split=split, measure=measure, seed=seed)
    return Comparison(first.key, second.key, measure, scores, numbers)


@checked_with("images", confused=FROM_0, limit=FROM_1)
def explain(
    images: "str | Path | int | Iterable[str | Path | int]",
    store: "Place",
    *,
    features: str | None = None,
    methods: Names | None = None,
    target: str | int | None = None,
    measure: str | None = None,
    pairs: bool = False,
    like: str | None = None,
    every: bool = False,
    classes: bool = False,
    confused: int = 0,
    continuity: bool = False,
    grade: bool = False,
    limit: int | None = None,
    split: Split = "held_out",
    where: str | None = None,
    trust: bool = False,
    cluster: str | int | None = None,
    progress: Progress = silent,
) -> "Explanations":
    """Show what supports a class in an image, or where two images are alike.

    Args:
        images: image files, or numbers of stored rows; two are compared. ``[]`` for none.
        store: whose network is explained.
        features: the extraction; None: the only one, or the one that a run serves.
        methods: keys of `EXPLAINERS` and `PAIR_EXPLAINERS`, and ``likeness``; None: likeness on
            the last map and in pixels for two images, all for `grade`, else all usual ones but it.
        target: class name or index; None: the predicted one.
        measure: whose similarity is explained in pixels; None: the cosine of pooled maps.
        pairs: also show what on the first image is like each position of the second.
        like: class label: show what makes the images like this class.
        every: explain every image of the split, and store the maps.
        classes: compute what makes the images of each class alike.
        confused: number of most alike pairs of different classes to show.
        continuity: measure whether explanations are continuous.
        grade: measure whether the network follows its explanations, and whether the similarity
            of pairs of images follows theirs.
        limit: images for `every`, `continuity` and `grade`, of which it is the number of pairs
            of each kind too; None: all, 64 and 32.
        split: which images; ``held_out`` are those that no training sees.
        where: only these images: ``subset=val`` or ``label=cat,dog``.
        progress: called as `every`, `continuity` and `grade` proceed.
        trust: agree to run the network file that the store names, from now on.
        cluster: Dask workers as in `extract_images`, for `every`, `continuity` and `grade`.

    Raises:
        BadInput: nothing to explain, an image that is not there, an unknown method or class.
    """
    from alike.analysis.explain import StoredGrades, confused_panel, explain_set
    from alike.analysis.explain.continuity import METHODS, continuity_of
    from alike.extract.errors import BadInput
    from alike.extract.networks import accepting
    from alike.flows.cluster import cluster_jobs
    from alike.flows.explaining import (
        Part,
        check_options,
        every_class,
        given_images,
        graded,
        joined_arrays,
        like_class,
        questions_of,
    )
    from alike.results import Explanations

    given = [one if isinstance(one, int) else _file(one) for one in each_query(images)]
    if like is not None and not given:
        raise BadInput("like compares images with a class: give images, or classes=True for all")
    if not (given or every or classes or confused or continuity or grade):
        raise BadInput("what to explain? give images, or every, classes, confused, …")
    names = None if methods is None else tuple(dict.fromkeys(each_name(methods)))
    asked = questions_of(
        len(given), names, like, all=every, classes=classes, confused=confused,
        continuity=continuity, grade=grade,
    )  # fmt: skip
    options = {
        "methods": methods, "target": target, "measure": measure, "pairs": pairs, "limit": limit,
        "cluster": cluster, "where": where or None,
        "split": None if split == "held_out" else split,
    }  # fmt: skip
    check_options(options, asked, lambda name: "every" if name == "all" else name)
    chosen = open_store(store).features(features).only(where)
    side = None if split == "all" else split
    parts: dict[str, Part] = {}
    pictures: dict[str, Any] = {}
    notes: list[str] = []
    with accepting(trust):
        if like is not None:
            parts["like"] = like_class(chosen, given, like)
        if given and (like is None or names):
            parts["images"] = given_images(chosen, given, names, target, measure, pairs)
            _warn(filter(None, [parts["images"].target_note]))
        if every:
            with cluster_jobs(cluster) as jobs:
                report = explain_set(
                    chosen,
                    methods=names or ("gradcam",),
                    split=side,
                    limit=limit,
                    map_parts=jobs.stage("explain") if jobs.remote else map,
                    progress=progress,
                )
            parts["all"] = Part(report.table, notes=report.left_out)
        if classes:
            parts["classes"] = every_class(chosen, side, pictures.__setitem__)
        if confused:
            grades = StoredGrades.of(chosen)
            table, picture = confused_panel(
                chosen, confused, split=side, grades=grades, tell=notes.append
            )
            parts["confused"] = Part(table, {"confused": picture})
        if continuity:
            with cluster_jobs(cluster) as jobs:
                ratios = continuity_of(
                    chosen,
                    methods=names or METHODS,
                    n_images=limit or 64,
                    split=side,
                    map_methods=jobs.stage("continuity") if jobs.remote else None,
                    progress=progress,
                    tell=notes.append,
                )
            parts["continuity"] = Part(ratios.table)
        if grade:
            with cluster_jobs(cluster) as jobs:
                tables = graded(
                    chosen,
                    names,
                    measure=measure,
                    limit=limit,
                    split=side,
                    map_methods=jobs.stage("grade") if jobs.remote else None,
                    progress=progress,
                    tell=notes.append,
                )
            parts |= {name: Part(table) for name, table in tables.items()}
    return Explanations(
        key=chosen.key,
        tables={name: part.table for name, part in parts.items() if len(part.table)},
        pictures={name: one for part in parts.values() for name, one in part.pictures.items()}
        | pictures,
        arrays=joined_arrays(part.arrays for part in parts.values()),
        cosine=parts["images"].cosine if "images" in parts else None,
        notes=[*(note for part in parts.values() for note in part.notes), *dict.fromkeys(notes)],
    )


@checked_with(limit=FROM_4, seed=SEED)
def probe_background(
    store: "Place",
    masks: str | Path,
    *,
    features: str | None = None,
    measure: str = "gap_cosine",
    split: Split = "held_out",
    where: str | None = None,
    limit: int = 500,
    seed: int = 0,
    trust: bool = False,
    progress: Progress = silent,
) -> "BackgroundProbe":
    """Measure what the ground behind objects does to sameness, accuracy and likeness.

    Args:
        store: with the features; the table is kept there.
        masks: set of masks: one for each image, of its size and path but for the suffix; bright is
            object.
        features: the extraction; None: the only one, or the one that a run serves.
        measure: a key of `MEASURES`.
        split: which images; ``held_out`` are those that no training sees.
        where: only these images: ``subset=val`` or ``label=cat,dog``.
        limit: images, spread evenly over the classes.
        seed: of the grounds that objects are pasted on.
        trust: agree to run the network file that the store names, from now on.
        progress: called after every batch.

    Raises:
        BadInput: masks that fit no image or another size, too few images that have an object and a
            ground, or held-out images that the network was trained on.
    """
    from alike.analysis.background import background_probe
    from alike.extract.networks import accepting

    chosen = open_store(store).features(features).only(where)
    _check_held_out(split, chosen)
    with accepting(trust):
        return background_probe(
            chosen,
            str(masks),
            measure=measure,
            split=None if split == "all" else split,
            limit=limit,
            seed=seed,
            progress=progress,
        )


@checked_with(
    crop=FROM_1, train_share=SHARE, epochs=FROM_1, seed=SEED, batch_size=FROM_1, devices=FROM_1,
    nodes=FROM_1,
)  # fmt: skip
def retrain(
    to: str | Path,
    *,
    store: "Place | None" = None,
    features: str | None = None,
    images: str | Path | None = None,
    network: str | None = None,
    weights: str | Path | None = None,
    network_arg: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    network_output: str = "",
    weights_key: str = "",
    weights_prefix: str | None = None,
    resize: str | int | None = None,
    crop: int | None = None,
    where: str | None = None,
    source_option: Mapping[str, Any] | None = None,
    label_column: str | None = None,
    first_label: bool | None = None,
    train_share: float | None = None,
    loss: str = "gap_supcon",
    epochs: int = 20,
    seed: int = 0,
    lr: float | None = None,
    weight: float | None = None,
    batch_size: int | None = None,
    augment: str = "shift",
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    trust: bool = False,
    progress: Progress = silent,
    **settings: Any,
) -> "TrainRun":
    """Train a network further so that images of one class get alike features.

    Only images of the train split are trained on. A run that was cut short goes on from its last
    checkpoint; a finished one is not done again.

    Args:
        to: folder of the run: weights, log, decisions.
        store: its network, its images, its train split.
        features: the extraction; None: the only one, or the one that a run serves.
        images: instead of a store, as for `extract_images`; with `network`.
        network: name of torchvision, ``file.py:factory`` or ``timm:NAME``.
        weights: file, run folder, name of torchvision's weights, or ``none`` for random weights;
            None: those of the store, or ``none`` with `images`.
        network_arg: as in `extract_images`; so are `classes`, `network_output`, `weights_key`,
            `weights_prefix`, `resize` and `crop`: of a network that is named here.
        classes: see there.
        network_output: see there.
        weights_key: see there.
        weights_prefix: see there.
        resize: see there.
        crop: see there.
        where: only these images: ``subset=train`` or ``label=cat,dog``.
        source_option: with `images`, as in `extract_images`; so are `label_column` and
            `first_label`.
        label_column: see there.
        first_label: see there.
        train_share: share to train on; with `images` 0.5 unless given.
        loss: a key of `LOSSES`.
        epochs: passes over the training images.
        seed: of everything random.
        lr: peak learning rate.
        weight: of the loss; None: its own.
        batch_size: images of one step.
        augment: ``none``, ``shift``, ``shift_flip``, ``zoom_flip`` or ``trivial``.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: GPUs, or processes on the CPU, of a machine, which share every batch; more than one
            only from a script.
        nodes: machines; more than one only from a script that torchrun starts on each.
        progress: called now and then.
        settings: other fields of `TrainSettings`, as with ``--set`` on the command line.
        trust: agree to run the network file that the store names, from now on.

    Raises:
        BadInput: an unknown setting, no images to train on, a network that cannot be trained.
    """
    from alike.extract.networks import accepting
    from alike.extract.places import expanded
    from alike.flows.extracting import network_options, source_options
    from alike.flows.training_images import training_images
    from alike.train.retrain import retrain as train

    with accepting(trust):
        loaded, (training, held_out, validation), read = training_images(
            (store, features, train_share),
            (
                None if images is None else str(images),
                network,
                None if weights is None else str(weights),
            ),
            chosen=network_options(
                network_arg, classes, network_output, weights_key, weights_prefix
            ),
            size=(None if resize is None else str(resize), crop),
            where=where,
            options=source_options(source_option, None, label_column, first_label),
        )
    optional: dict[str, Any] = {"lr": lr, "weight": weight, "batch_size": batch_size}
    changes = {name: value for name, value in optional.items() if value is not None}
    return train(
        loaded,
        training,
        read,
        out=expanded(to).resolve(),
        held_out=held_out,
        validation=validation,
        device=device,
        devices=devices,
        nodes=nodes,
        progress=progress,
        loss=loss,
        epochs=epochs,
        seed=seed,
        augment=augment,
        **changes,
        **settings,
    )


@checked
def write_report(
    store: "Place",
    *,
    features: str | None = None,
    after: str | None = None,
    to: str | Path = "report.html",
    title: str = "",
    maps: bool = True,
    thumbnails: bool = True,
    progress: Progress = silent,
) -> "ReportFile":
    """Write the report of an analysis: one HTML file that loads nothing else.

    Args:
        store: with the analysis.
        features: the extraction; None: the only one, or the one that a run serves.
        after: a second extraction, set beside the first.
        to: the HTML file.
        title: in the first line.
        maps: show the map of the images.
        thumbnails: show the images.
        progress: called as the work proceeds.

    Returns:
        The file, which shows itself and can be used as a path; its `Path` is `.path`.

    Raises:
        BadInput: an extraction that was not analysed yet.
    """
    from alike.flows.reporting import write_report as write
    from alike.results import ReportFile

    chosen = open_store(store)
    after = None if after is None else chosen.features(after).key
    written = write(
        chosen,
        features,
        after,
        to,
        title=title,
        maps=maps,
        thumbnails=thumbnails,
        progress=progress,
    )
    _warn(written.notes)
    return ReportFile(written.path, written.key, after, written.notes)


@checked
def export(
    store: "Place",
    to: str | Path,
    *,
    features: str | None = None,
    arrays: Names = "gap",
    split: Split = "held_out",
    where: str | None = None,
    measure: str = "gap_cosine",
    maps: bool = False,
    images: bool = False,
    progress: Progress = silent,
) -> "ExportedFiles":
    """Write features, the tables of `analyse`, and their manifest to a file.

    Args:
        store: with the features.
        to: file; its ending says what kind: .parquet .csv .h5 .nc .zarr .npz .fiftyone.json.
        features: the extraction; None: the only one, or the one that a run serves.
        arrays: feature arrays; empty for none.
        split: which images; ``held_out`` are those that no training sees.
        where: only these images: ``subset=val`` or ``label=cat,dog``.
        measure: the measure whose neighbours are written.
        maps: add the coordinates of the 2-D map.
        images: add thumbnails to Parquet.
        progress: called as the work proceeds.

    Returns:
        The files that were written, a sequence that shows itself; as a path it is the first one.

    Raises:
        BadInput: an ending or an array that is not there.
    """
    from alike.flows.exporting import export as write
    from alike.results import ExportedFiles

    written = write(
        store,
        Path(to),
        features,
        arrays=each_name(arrays),
        split=split,
        where=where,
        measure=measure,
        maps=maps,
        images=images,
        progress=progress,
    )
    _warn(written.notes)
    return ExportedFiles(written.files, written.key, written.notes)


def _file(one: str | Path | bytes) -> str:
    from alike.extract.errors import BadInput

    if isinstance(one, bytes):
        raise BadInput(f"an image of {len(one)} bytes: give its file, a URL, or a stored row")
    return str(one)


def _unit(index: "NeighbourIndex", vectors: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Vectors as the measure makes them: of length 1 if it looks at the angle only."""
    from alike.extract.measures.steps import normalise

    return normalise(vectors, {}) if index.measure.form == "cosine" else vectors


def _check_held_out(split: str, *extractions: "Features") -> None:
    """Refuse an evaluation on training images; warn if these are not known."""
    if split not in ("held_out", "validation"):
        return
    from alike.flows.trained_images import check_held_out

    for features in extractions:
        _warn(check_held_out(features, split))


def _warn(notes: Iterable[str]) -> None:
    """Warn whoever called the public function, however many calls lie between."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("alike."):
        level, frame = level + 1, frame.f_back
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=level)
