"""Extraction: images of a source, through a network, into the store; only what is missing."""

import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from extract.decode import decode
from extract.errors import AlikeError, BadImage, BadInput
from extract.extraction import Extraction
from extract.forward import Forward, array_names, choose_device, choose_precision
from extract.listing import list_source
from extract.network import Network
from extract.progress import Progress, silent
from extract.selfcheck import stored_top1
from extract.source import ImageSource
from extract.store import Features, Store
from extract.units import RETRIED, STAGES, Image, Lanes, Work

TAPS = ("last_conv", "fc", "logits")
BATCH_PIXELS = {"cpu": 16 * 224 * 224, "cuda": 256 * 224 * 224}
BEST_COMPRESSION = 0.4
"""Smallest share of their size that feature maps took after zstd (STORAGE: ratio 2.57)."""


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
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """As plain values; `bad` becomes a list of records."""
        return {
            name: getattr(self, name).to_dict("records") if name == "bad" else getattr(self, name)
            for name in self.__dataclass_fields__
        }


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

    Returns:
        What was done; a run on an unchanged set does no forward pass.

    Raises:
        BadInput: no image can be used, a tap does not exist, or the disk cannot hold the features.
        StoreBusy: another process extracts into the same features.
    """
    start = time.perf_counter()
    threads = threads or len(os.sched_getaffinity(0))
    on = choose_device(device)
    extraction = network.extraction(tuple(taps), choose_precision(precision, on))
    listing = list_source(source, max(threads, 4), progress)
    run = _Run(source, network, store, extraction, on)
    with store.lock(extraction.key):
        view = store.list_images(listing)
        store.set_source(source.spec, source.options)
        run.prepare(view)
        with run.features.lock():
            run.compute(view, batch_size, threads, progress)
    features = run.features
    table = features.table(names=run.names)
    bad = features.bad()[["path", "state", "reason"]]
    _check_counts(view, table, features)
    return ExtractionReport(
        key=extraction.key,
        n_listed=len(listing),
        n_rows=len(table),
        n_computed=run.n_computed,
        n_reused=int(np.isin(table["row"], list(run.touched), invert=True).sum()),
        n_bad=len(bad),
        bad=bad,
        stages=run.stages,
        seconds=time.perf_counter() - start,
        top1=stored_top1(features, network.class_names),
        notes=tuple(run.notes),
    )


class _Run:
    """One run: what it needs, and what it did."""

    features: Features

    def __init__(
        self,
        source: ImageSource,
        network: Network,
        store: Store,
        extraction: Extraction,
        device: torch.device,
    ) -> None:
        self.source, self.network, self.store = source, network, store
        self.extraction, self.device = extraction, device
        self.names = array_names(extraction.taps)
        self.stages = dict.fromkeys(STAGES, 0.0)
        self.n_computed = 0
        self.touched: set[int] = set()
        self.notes: list[str] = []
        self._size: tuple[int, int] | None = network.transform.size

    def prepare(self, view: pd.DataFrame) -> None:
        """Make or grow the group's arrays; no forward pass where all of them are there."""
        if not (view["state"] == "ok").any():
            reasons = view["reason"].value_counts().index[0]
            raise BadInput(
                f"none of {len(view)} images of {self.source.spec} can be read: {reasons}"
            )
        key = self.extraction.key
        known = self.store.features(key).arrays if key in self.store.groups() else {}
        if all(name in known for name in self.names):
            shapes = {name: (known[name].tail, known[name].dtype) for name in self.names}
            attrs: dict[str, Any] = {}
        else:
            forward = self._forward(self.names, view)
            shapes = forward.shapes
            attrs = {"tap_notes": forward.notes}
        self._check_disk(shapes, known)
        attrs |= {
            **self.extraction.to_dict(),
            "class_names": list(self.network.class_names or ()),
            "source": self.source.spec,
        }
        self.features = self.store.create_features(attrs, key, shapes)
        stored_notes: Any = self.features.attrs.get("tap_notes", {})
        self.notes += [f"{name}: {note}" for name, note in stored_notes.items()]
        self._store_classifier()

    def _store_classifier(self) -> None:
        if "classifier/weight" in self.features.constants():
            return
        classifier = self.network.classifier()
        if classifier is not None:
            weight, bias = (value.detach().float().cpu().numpy() for value in classifier)
            self.features.write_constant("classifier/weight", weight)
            self.features.write_constant("classifier/bias", bias)

    def _check_disk(
        self, shapes: Mapping[str, tuple[tuple[int, ...], str]], known: Mapping[str, object]
    ) -> None:
        root = self.store.root_path
        if root is None:
            return
        row = sum(
            int(np.prod(tail))
            * np.dtype(dtype).itemsize
            * (BEST_COMPRESSION if len(tail) > 1 else 1)
            for name, (tail, dtype) in shapes.items()
            if name not in known
        )
        needed, free = row * self.store.n_rows, shutil.disk_usage(root).free
        if needed > free:
            maps = [name for name in shapes if len(shapes[name][0]) > 1 and name != "pixels"]
            raise BadInput(
                f"features of {self.store.n_rows} images need at least {needed / 1e9:.1f} GB, "
                f"{self.store.url} has {free / 1e9:.1f} GB free: leave out {', '.join(maps)} "
                "(gap is stored anyway) or give another place"
            )

    def compute(
        self, view: pd.DataFrame, batch_size: int | None, threads: int, progress: Progress
    ) -> None:
        """Compute and commit all rows that miss any array."""
        works = self._missing(view)
        total = sum(len(work.images) for group in works.values() for work in group)
        run_id = uuid.uuid4().hex[:12]
        for names, group in works.items():
            forward = self._forward(names, view)
            size = self._size_of(view)
            pixels = BATCH_PIXELS.get(self.device.type, BATCH_PIXELS["cpu"])
            batch = batch_size or min(max(pixels // (size[0] * size[1]), 1), 512)

            def commit(unit: int, arrays: Mapping[str, np.ndarray], bad: Any) -> None:
                self.features.write_unit(unit, arrays, bad, run_id=run_id)

            def done(images: int, busy: Mapping[str, float]) -> None:
                self.n_computed += images
                progress("extract", self.n_computed, total, bound_by(busy))

            lanes = Lanes(self.source, forward, size, batch, threads, commit, done)
            lanes.run(group)
            for stage, seconds in lanes.busy.seconds.items():
                self.stages[stage] += seconds
        if not total:
            progress("extract", len(view), len(view), "nothing new: no forward pass")

    def _missing(self, view: pd.DataFrame) -> dict[tuple[str, ...], list[Work]]:
        """Work by the arrays that are missing: one group, unless a tap was added later."""
        images = view[view["row"] >= 0].drop_duplicates("row")
        ids = self.store.image_ids()
        paths = np.full(len(ids), None, dtype=object)
        paths[images["row"].to_numpy()] = images["path"].to_numpy()
        wanted: dict[int, list[str]] = {}
        for name in self.names:
            for unit in self.features.pending([name]):
                wanted.setdefault(unit, []).append(name)
        bad = self.features.bad()
        again = {int(row) // 1024 for row in bad[bad["state"].isin(RETRIED)]["row"] if row >= 0}
        works: dict[tuple[str, ...], list[Work]] = {}
        for unit in sorted(wanted.keys() | again):
            names = tuple(self.features.arrays) if unit in again else tuple(wanted[unit])
            rows = (
                self.features.unit_rows(unit) if unit in again else self.features.todo(unit, names)
            )
            self.touched.update(rows)
            work = Work(unit, tuple(Image(row, paths[row], ids[row]) for row in rows))
            works.setdefault(names, []).append(work)
        return works

    def _forward(self, names: tuple[str, ...], view: pd.DataFrame) -> Forward:
        size = self._size_of(view)
        return Forward(self.network, size, names, self.device, self.extraction.precision)

    def _size_of(self, view: pd.DataFrame) -> tuple[int, int]:
        """(height, width) of the frames: the transform's, or that of the first good image."""
        if self._size is None:
            for path in view[view["state"] == "ok"]["path"]:
                try:
                    frame = self.network.transform.frame(decode(self.source.read(path)))
                except BadImage:
                    continue
                self._size = (int(frame.shape[1]), int(frame.shape[2]))
                break
            else:
                raise BadInput(f"none of {len(view)} images of {self.source.spec} can be decoded")
        return self._size


def bound_by(seconds: Mapping[str, float]) -> str:
    """Which stage was busiest: ``decode bound: 3.1 of 3.7 s``."""
    stage = max(seconds, key=lambda name: seconds[name])
    return f"{stage} bound: {seconds[stage]:.1f} of {sum(seconds.values()):.1f} s"


def _check_counts(view: pd.DataFrame, table: pd.DataFrame, features: Features) -> None:
    """Every listed image is either usable or bad, and no row was lost or added."""
    rows = set(view[view["row"] >= 0]["row"])
    bad = features.bad()
    lost = rows - set(table["row"]) - set(bad["row"])
    if lost or not set(table["row"]) <= rows:
        raise AlikeError(
            f"{len(lost)} of {len(rows)} images have neither a feature nor a reason in "
            f"{features.key}: run `alike store verify`"
        )
