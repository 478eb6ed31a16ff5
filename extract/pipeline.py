"""Extraction: images of a source, through a network, into the store; only what is missing."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from alike.extract.display import Displayed, Summary
from alike.extract.errors import AlikeError, BadInput, StoreDamaged
from alike.extract.forward import choose_device, choose_precision
from alike.extract.image_pass import ImagePass, Workload
from alike.extract.images import ImageSource, Listing, list_to, notes_of
from alike.extract.lanes import BatchProgress
from alike.extract.large_tables import Batches, texts
from alike.extract.listed import keep_listing, listing_notes, past_listing
from alike.extract.machine import usable_cores
from alike.extract.networks import Extraction, Network
from alike.extract.notes import (
    SELF_CHECK,
    SOURCE_NOTES,
    SelfCheck,
    flat_features,
    set_notes,
    source_notes,
    tap_notes,
    unturned_notes,
)
from alike.extract.progress import Progress, silent
from alike.extract.run import BAD_SHARE, ComputeSettings, ExtractionRun
from alike.extract.secrets import masked
from alike.extract.selfcheck import self_check
from alike.extract.stages import STAGES, bound_by
from alike.extract.store import Features, Store, finish_forgetting
from alike.extract.twins import AUTOMATIC, mend_twins, search_twins

TAPS = ("last_conv", "fc", "logits")

Executor = Callable[[ImagePass, Workload, BatchProgress], Mapping[str, float]]
"""Computes and commits the workload of a pass; gives the busy seconds of each stage."""


@dataclass(frozen=True, repr=False)
class ExtractionReport(Displayed):
    """What a run did.

    Attributes:
        key: of the features in the store.
        n_listed: paths that the source lists.
        n_rows: images with features, each once.
        n_computed: images that this run put through the network.
        n_reused: images whose features were in the store before.
        n_bad: listed paths without a feature.
        bad: path, state, reason of those.
        stages: busy seconds of read, decode, forward, write, summed over threads; of the whole
            pass, if several networks shared it.
        seconds: of the whole run, listing included.
        top1: share of labelled images classified correctly, None if classes do not match.
        notes: what a reader must know: files left out, guesses of the source, taps of an unusual
            kind, a suspicious top-1.
        passing: those of the notes that are about what this run computed.
    """

    key: str
    n_listed: int
    n_rows: int
    n_computed: int
    n_reused: int
    n_bad: int
    bad: pd.DataFrame
    stages: Mapping[str, float]
    seconds: float
    top1: float | None
    notes: tuple[str, ...] = ()
    passing: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values; `bad` becomes a list of records, and `passing` is left out."""
        return {
            name: getattr(self, name).to_dict("records") if name == "bad" else getattr(self, name)
            for name in self.__dataclass_fields__
            if name != "passing"
        }

    def _summary(self) -> Summary:
        facts = {
            "images with features": self.n_rows, "computed": self.n_computed,
            "reused": self.n_reused, "bad": self.n_bad, "top-1": self.top1,
            "seconds": float(self.seconds),
        }  # fmt: skip
        bad = {"images without a feature": self.bad} if self.n_bad else {}
        return Summary(f"extraction {self.key}", facts, self.notes, bad)


def in_process(
    images: ImagePass, workload: Workload, progress: BatchProgress
) -> Mapping[str, float]:
    """The executor of one machine."""
    stages = dict.fromkeys(STAGES, 0.0)
    for wanted, units in workload.items():
        for stage, seconds in images.compute(wanted, units, progress).items():
            stages[stage] += seconds
    return stages


def extract(
    source: ImageSource,
    network: Network,
    store: Store,
    *,
    taps: Sequence[str] = TAPS,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    bad_share: float = BAD_SHARE,
    rehash: bool = False,
    progress: Progress = silent,
    executor: Executor = in_process,
) -> ExtractionReport:
    """Compute the features that are missing of a set of images.

    Args:
        source: the images; the set in the store becomes exactly these.
        network: from `load_network`.
        store: opened, if it is new with ``create=True``.
        taps: to store, beside `gap` and `pixels`, which always are; module paths too, ``gap@path``
            for the mean of a module's output, ``layers`` for those of all blocks.
        device: ``auto``, ``cpu``, ``cuda``…
        precision: ``auto`` (float16 on a GPU, float32 on a CPU), ``bfloat16``…
        batch_size: images of one forward pass; None to choose it. Halved when memory runs out.
        threads: cores to use; None for all that this process may use.
        bad_share: largest share of images of another size with which the run starts, if nothing
            brings all to one size.
        rehash: read every image to list it, also those whose size and times are as before.
        progress: told how far listing and extraction are.
        executor: where to compute; `alike.extract.distributed` has one for several processes.

    Returns:
        What was done; a run on an unchanged set does no forward pass.

    Raises:
        BadInput: no image can be used, a tap does not exist, or the disk cannot hold the features.
        StoreBusy: another process extracts into the same features.
    """

    def reports() -> tuple[ExtractionReport, ...]:
        return extract_networks(
            source,
            [(network, taps)],
            store,
            device=device,
            precision=precision,
            batch_size=batch_size,
            threads=threads,
            bad_share=bad_share,
            rehash=rehash,
            progress=progress,
            executor=executor,
        )

    try:
        (report,) = reports()
    except StoreDamaged as error:
        line = mend_twins(store, error, threads=threads or usable_cores(), progress=progress)
        if not line:
            raise
        progress("extract", 0, 0, line)
        (report,) = reports()
    return report


def extract_networks(
    source: ImageSource,
    networks: Sequence[tuple[Network, Sequence[str]]],
    store: Store,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    bad_share: float = BAD_SHARE,
    rehash: bool = False,
    progress: Progress = silent,
    executor: Executor = in_process,
) -> tuple[ExtractionReport, ...]:
    """`extract` for several networks: images are listed once, and decoded once where frames agree.

    Args:
        source: the images; the set in the store becomes exactly these.
        networks: each with its taps; those of one key are extracted once, with the taps of all.
        store: as for `extract`.
        device: as for `extract`, as all that follows.
        precision: as there.
        batch_size: as there.
        threads: as there.
        bad_share: as there.
        rehash: as there.
        progress: as there.
        executor: as there.

    Returns:
        What was done of each network, in their order.

    Raises:
        BadInput: as `extract` does.
        StoreBusy: another process extracts into the same features.
    """
    start = time.perf_counter()
    store.require_writable()
    # What was to be deleted must not be listed again first.
    finish_forgetting(store)
    threads = threads or usable_cores()
    on = choose_device(device)
    settings = ComputeSettings(str(on), batch_size, threads, bad_share)
    runs = _runs_of(source, networks, store, choose_precision(precision, on), settings)
    images = ImagePass(list(dict.fromkeys(runs)))
    with ExitStack() as held:
        scratch = held.enter_context(store.files.scratch())
        past = None if rehash else past_listing(store, source, scratch)
        listing = list_to(source, scratch, max(threads, 4), progress, past=past)
        held.callback(listing.table.remove)
        for key in sorted(run.extraction.key for run in images.runs):
            held.enter_context(store.lock(key))
        with store.files.snapshot():
            if store.is_split and not store.signatures.units():
                # A store of 0.1: its images keep the sides on which they stand by their hashes.
                store.assign_sides()
            rows = store.list_batches(listing.table)
            store.set_source(source.spec, source.options)
            keep_listing(store, source, listing, past)
            keep_groups(store, listing.table, rows)
            del rows
            view = store.images()
            for run in images.runs:
                run.prepare(view)
        with ExitStack() as written:
            for run in images.runs:
                written.enter_context(run.features.lock())
            with store.files.snapshot():
                workload = images.missing()
            for run in images.runs:
                if run.lost:
                    progress("extract", 0, 0, _lost_line(run.lost))
            stages = executor(images, workload, _batch_progress(workload, len(view), progress))
        with store.files.snapshot():
            twins = {run: _twins(run.features, threads, progress) for run in images.runs}
    reports = {}
    with store.files.snapshot():
        for number, run in enumerate(images.runs):
            report = _report(run, listing, view, _rows_of(workload, number), twins[run])
            reports[run] = replace(report, stages=stages)
    seconds = time.perf_counter() - start
    return tuple(replace(reports[run], seconds=seconds) for run in runs)


def _runs_of(
    source: ImageSource,
    networks: Sequence[tuple[Network, Sequence[str]]],
    store: Store,
    precision: str,
    settings: ComputeSettings,
) -> list[ExtractionRun]:
    """The extraction of every network; those of one key are one, with the taps of all."""
    asked: dict[str, tuple[Network, list[str]]] = {}
    keys = []
    for network, names in networks:
        if tuple(names) == TAPS and network.lacking:
            # Not asked for by name: what the weights can give is given, and a note says the rest.
            names = [tap for tap in TAPS if tap not in network.lacking]
        taps = network.tap_names(names)
        keys.append(network.extraction(taps, precision).key)
        asked.setdefault(keys[-1], (network, []))[1].extend(taps)
    runs = {
        key: ExtractionRun(
            source,
            network,
            store,
            network.extraction(tuple(dict.fromkeys(taps)), precision),
            settings,
        )
        for key, (network, taps) in asked.items()
    }
    return [runs[key] for key in keys]


def _report(
    run: ExtractionRun,
    listing: Listing,
    view: pd.DataFrame,
    computed: np.ndarray,
    twins: Sequence[str],
) -> ExtractionReport:
    """What was done of one network, without times.

    Args:
        run: of the network.
        listing: of the source.
        view: the same, as the store has it.
        computed: rows that were computed.
        twins: what must be told of twins.
    """
    features, store, network, source = run.features, run.store, run.network, run.source
    # A map that is lost leaves an image its vectors.
    vectors = [name for name in run.names if len(features.arrays[name].tail) == 1]
    table = features.table(names=vectors)
    bad = features.bad()[["row", "path", "state", "reason"]]
    check_counts(view, table, bad, features.key)
    top1, check = self_check(source, network, features, table, fresh=bool(len(computed)))
    left_out = [masked(one) for one in notes_of(source)]
    _keep_check(store, features, check, left_out)
    passing = tuple(unturned_notes(run.n_unturned, "computed"))
    return ExtractionReport(
        key=features.key,
        n_listed=len(listing),
        n_rows=len(table),
        # Rows of images that left the set are written again too, empty.
        n_computed=int(np.isin(computed, view["row"]).sum()),
        n_reused=int(np.isin(table["row"], computed, invert=True).sum()),
        n_bad=len(bad),
        bad=bad[["path", "state", "reason"]],
        stages={},
        seconds=0.0,
        top1=top1,
        notes=(
            *left_out,
            *listing_notes(listing),
            *set_notes(table["label"].nunique(), int(table["label"].isna().sum()), len(table)),
            *passing,
            *network.notes,
            *_older_features(run.extraction, store),
            *tap_notes(features.attrs),
            *filter(None, [check.warning]),
            *_lost(features),
            *flat_features(features, table["row"].to_numpy()),
            *twins,
        ),
        passing=passing,
    )


def _lost_line(files: Sequence[str]) -> str:
    """What is said before rows are computed again whose files are gone or torn."""
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return f"{files[0]}{more}: gone or torn, so their rows are computed again"


def keep_groups(store: Store, listing: Batches, rows: np.ndarray) -> None:
    """Keep which images of the set share a group, if the source says so.

    Args:
        store: that keeps them.
        listing: of the source.
        rows: (N,) int64 of its images.
    """
    parts, start = [pd.DataFrame({"row": np.zeros(0, np.int64), "group": np.zeros(0, object)})], 0
    seen = np.zeros(store.n_rows, dtype=bool)
    for batch in listing.to_batches():
        groups = pd.DataFrame(
            {"row": rows[start : start + batch.num_rows], "group": texts(batch, "group")}
        )
        start += batch.num_rows
        groups = groups[(groups["row"] >= 0) & groups["group"].notna()].drop_duplicates("row")
        parts.append(groups[~seen[groups["row"].to_numpy()]])
        seen[groups["row"].to_numpy()] = True
    store.keep_image_groups(pd.concat([part for part in parts if len(part)] or parts[:1]))


def _lost(features: Features) -> list[str]:
    """A sentence for every array that some images have no value of."""
    lost = features.lost()
    return [
        f"{len(part)} images have no {name}: its values are beyond the range of "
        f"{features.arrays[str(name)].dtype}; their other features are stored (the first: "
        f"{part['path'].iloc[0]})"
        for name, part in lost.groupby("array")
    ]


def _twins(features: Features, threads: int, progress: Progress) -> tuple[str, ...]:
    """Search new images for twins unless the store ignores them; what must be told."""
    store = features.store
    if store.twins() == "ignore":
        return ()
    bad = features.bad()["row"].to_numpy()
    twins = search_twins(store, bad=bad, threads=threads, at_most=AUTOMATIC, progress=progress)
    return twins.notes


def _older_features(extraction: Extraction, store: Store) -> Iterator[str]:
    """Why features of a network with modules are computed again after an update of the program."""
    older = replace(extraction, modules_hash="").key
    if extraction.modules_hash and older in store.groups():
        yield (
            f"{older} holds features of the same weights that do not record the modules that the "
            f"network's file loads; they are left as they are, and those of {extraction.key} were "
            "computed"
        )


def _rows_of(workload: Workload, number: int) -> np.ndarray:
    """The rows of a workload that one extraction misses, each once."""
    rows = [
        np.asarray(todo.rows)
        for wanted, units in workload.items()
        for todo in units
        if number in dict(wanted)
    ]
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *rows]))


def _batch_progress(workload: Workload, n_images: int, progress: Progress) -> BatchProgress:
    total = sum(len(todo.rows) for units in workload.values() for todo in units)
    n_computed = 0

    def report(images: int, busy: Mapping[str, float]) -> None:
        nonlocal n_computed
        n_computed += images
        progress("extract", n_computed, total, bound_by(busy))

    if not total:
        progress("extract", n_images, n_images, "nothing new: no forward pass")
    return report


def _keep_check(
    store: Store, features: Features, check: SelfCheck, left_out: Sequence[str]
) -> None:
    notes: dict[str, Any] = {}
    if check != SelfCheck.stored(features.attrs):
        notes[SELF_CHECK] = asdict(check)
    if list(left_out) != source_notes(features.attrs):
        notes[SOURCE_NOTES] = list(left_out)
    if notes:
        store.create_features({**features.attrs, **notes}, features.key, {})


def check_bad_share(report: ExtractionReport, bad_share: float = BAD_SHARE) -> None:
    """Refuse a run that left out too many images; the features of the others are kept.

    Raises:
        BadInput: more than `bad_share` of the listed images have no feature.
    """
    if report.n_bad <= bad_share * report.n_listed:
        return
    first = report.bad.iloc[0]
    counts = ", ".join(f"{state} {n}" for state, n in report.bad["state"].value_counts().items())
    raise BadInput(
        f"{report.n_bad} of {report.n_listed} images have no feature ({counts}), more than "
        f"{bad_share:.0%}; the first: {first['path']}: {first['state']}: {first['reason']}. The "
        f"features of the other {report.n_rows} are kept: mend the set, or allow it by --bad-share "
        "or [images] bad_share"
    )


def check_counts(view: pd.DataFrame, table: pd.DataFrame, bad: pd.DataFrame, key: str) -> None:
    """Check that every listed image is either usable or bad, and that no row was lost or added.

    Raises:
        AlikeError: some are neither; it says how many.
    """
    listed = view["row"].to_numpy()
    rows = np.unique(listed[listed >= 0])
    lost = np.setdiff1d(rows, np.concatenate([table["row"], bad["row"]]))
    if len(lost) or not np.isin(table["row"], rows).all():
        raise AlikeError(
            f"{len(lost)} of {len(rows)} images have neither a feature nor a reason in {key}: run "
            "`alike store verify`"
        )
