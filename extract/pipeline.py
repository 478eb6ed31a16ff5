"""Extraction: images of a source, through a network, into the store; only what is missing."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from alike.extract.errors import AlikeError
from alike.extract.forward import choose_device, choose_precision
from alike.extract.images import ImageSource, list_source
from alike.extract.lanes import STAGES
from alike.extract.machine import usable_cores
from alike.extract.networks import Extraction, Network
from alike.extract.progress import Progress, silent
from alike.extract.run import Done, Run, Settings, Works
from alike.extract.selfcheck import self_check, tap_notes
from alike.extract.store import Store

TAPS = ("last_conv", "fc", "logits")

Engine = Callable[[Run, Works, Done], Mapping[str, float]]
"""Computes and commits all work of a run; tells `Done`; gives busy seconds of each stage."""


@dataclass(frozen=True)
class ExtractionReport:
    """What a run did.

    Attributes:
        key: of the features in the store.
        n_listed: paths that the source lists.
        n_rows: images with features, each once.
        n_computed: images that this run put through the network.
        n_reused: images whose features were there.
        n_bad: listed paths without a feature.
        bad: path, state, reason of those.
        stages: busy seconds of read, decode, forward, write, summed over threads.
        seconds: of the whole run, listing included.
        top1: share of labelled images classified rightly, None where classes do not match.
        notes: what a reader must know: taps of an unusual kind, a suspicious top-1.
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

    def to_dict(self) -> dict[str, Any]:
        """As plain values; `bad` becomes a list of records."""
        return {
            name: getattr(self, name).to_dict("records") if name == "bad" else getattr(self, name)
            for name in self.__dataclass_fields__
        }


def in_process(run: Run, works: Works, done: Done) -> Mapping[str, float]:
    """The engine of one machine."""
    stages = dict.fromkeys(STAGES, 0.0)
    for names, group in works.items():
        for stage, seconds in run.compute(names, group, done).items():
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
    progress: Progress = silent,
    engine: Engine = in_process,
) -> ExtractionReport:
    """Compute the features that are missing of a set of images.

    Args:
        source: the images; the set in the store becomes exactly these.
        network: from `load_network`.
        store: opened with ``create=True`` or there before.
        taps: to store, beside `gap` and `pixels`, which always are; module paths too.
        device: ``auto``, ``cpu``, ``cuda``…
        precision: ``auto`` (float16 on a GPU, float32 on a CPU), ``bfloat16``…
        batch_size: images of one forward pass; found by itself, and halved when memory runs out.
        threads: cores to use; all that this process may.
        progress: told how far listing and extraction are.
        engine: who computes; `alike.extract.distributed` has one for several processes.

    Returns:
        What was done; a run on an unchanged set does no forward pass.

    Raises:
        BadInput: no image can be used, a tap does not exist, or the disk cannot hold the features.
        StoreBusy: another process extracts into the same features.
    """
    start = time.perf_counter()
    threads = threads or usable_cores()
    on = choose_device(device)
    if tuple(taps) == TAPS and network.lacking:
        # Not asked for by name: what the weights can give is given, and a note says the rest.
        taps = [tap for tap in TAPS if tap not in network.lacking]
    extraction = network.extraction(tuple(taps), choose_precision(precision, on))
    listing = list_source(source, max(threads, 4), progress)
    run = Run(source, network, store, extraction, Settings(str(on), batch_size, threads))
    with store.lock(extraction.key):
        view = store.list_images(listing)
        store.set_source(source.spec, source.options)
        run.prepare(view)
        with run.features.lock():
            works = run.missing()
            stages = engine(run, works, _teller(works, len(view), progress))
    features = run.features
    table = features.table(names=run.names)
    bad = features.bad()[["row", "path", "state", "reason"]]
    check_counts(view, table, bad, features.key)
    computed = _rows_of(works)
    top1, warning = self_check(source, network, features, table, bool(len(computed)))
    notes = [*network.notes, *_older_features(extraction, store), *tap_notes(features.attrs)]
    return ExtractionReport(
        key=extraction.key,
        n_listed=len(listing),
        n_rows=len(table),
        n_computed=len(computed),
        n_reused=int(np.isin(table["row"], computed, invert=True).sum()),
        n_bad=len(bad),
        bad=bad[["path", "state", "reason"]],
        stages=stages,
        seconds=time.perf_counter() - start,
        top1=top1,
        notes=(*notes, *filter(None, [warning])),
    )


def _older_features(extraction: Extraction, store: Store) -> Iterator[str]:
    """Why features of a network with modules are computed again after an update of the program."""
    older = replace(extraction, modules_hash="").key
    if extraction.modules_hash and older in store.groups():
        yield (
            f"{older} holds features of the same weights that do not record the modules that the "
            f"network's file loads; they are left as they are, and those of {extraction.key} were "
            "computed"
        )


def _rows_of(works: Works) -> np.ndarray:
    """All rows of some works, each once."""
    rows = [np.arange(one.rows.start, one.rows.stop) for group in works.values() for one in group]
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *rows]))


def _teller(works: Works, n_images: int, progress: Progress) -> Done:
    total = sum(len(work.rows) for group in works.values() for work in group)
    told = 0

    def done(images: int, busy: Mapping[str, float]) -> None:
        nonlocal told
        told += images
        progress("extract", told, total, bound_by(busy))

    if not total:
        progress("extract", n_images, n_images, "nothing new: no forward pass")
    return done


def bound_by(seconds: Mapping[str, float]) -> str:
    """Which stage was busiest: ``decode bound: 3.1 of 3.7 s``."""
    stage = max(seconds, key=lambda name: seconds[name])
    return f"{stage} bound: {seconds[stage]:.1f} of {sum(seconds.values()):.1f} s"


def check_counts(view: pd.DataFrame, table: pd.DataFrame, bad: pd.DataFrame, key: str) -> None:
    """Every listed image is either usable or bad, and no row was lost or added.

    Raises:
        AlikeError: naming how many are not.
    """
    listed = view["row"].to_numpy()
    rows = np.unique(listed[listed >= 0])
    lost = np.setdiff1d(rows, np.concatenate([table["row"], bad["row"]]))
    if len(lost) or not np.isin(table["row"], rows).all():
        raise AlikeError(
            f"{len(lost)} of {len(rows)} images have neither a feature nor a reason in {key}: run "
            "`alike store verify`"
        )
