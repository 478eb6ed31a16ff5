"""One extraction into one store: the arrays that it needs, the rows that miss them."""

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from alike.extract.errors import BadImage, BadInput, StoreDamaged
from alike.extract.forward import Forward, array_names
from alike.extract.images import ImageSource, decode
from alike.extract.lanes import UnitArrays, UnitRows
from alike.extract.loading import RETRIED, FrameLoader, Image
from alike.extract.networks import MEAN_OF, Extraction, Network, code_hash_of
from alike.extract.secrets import shown_place
from alike.extract.stages import StageClock
from alike.extract.store import UNIT, ArraySpec, Features, Store, note_lost

BATCH_PIXELS = {"cpu": 16 * 224 * 224, "cuda": 256 * 224 * 224}
"""Pixels of one forward pass by the type of the device."""
MAX_BATCH = 512
SAMPLE = 256
"""Images whose size is looked at before a run, if nothing brings all to one size."""
BAD_SHARE = 0.2
"""Largest share of images without a feature with which a run counts as done."""
TRIAL = 16
"""Images by which the types of the stored maps are chosen."""
BEST_COMPRESSION = 0.39
"""Smallest share of their size that feature maps took after zstd: 1 / 2.57."""

CLASSIFIER = ("classifier/weight", "classifier/bias")
"""Constants of a group that hold the classifier of its network."""

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Name of an array to (shape of one row, dtype)."""


@dataclass(frozen=True)
class ComputeSettings:
    """How to compute: nothing here changes a feature beyond rounding.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``…
        batch_size: images of one forward pass, None to choose by the size of the frames.
        threads: cores to use.
        bad_share: largest share of images that may turn out to be of another size.
    """

    device: str
    batch_size: int | None
    threads: int
    bad_share: float = BAD_SHARE

    def batch(self, size: tuple[int, int]) -> int:
        """Images of one forward pass for frames of (height, width)."""
        if self.batch_size is not None:
            return self.batch_size
        pixels = BATCH_PIXELS.get(torch.device(self.device).type, BATCH_PIXELS["cpu"])
        return min(max(pixels // (size[0] * size[1]), 1), MAX_BATCH)


class ExtractionRun:
    """One extraction into one store.

    Args:
        source: of the images.
        network: that gives the features.
        store: where they go.
        extraction: their description.
        settings: how to compute.

    Attributes:
        names: arrays that every image gets.
        features: the group, after `prepare`.
        run_id: in every record that the run commits.
        n_unturned: images computed whose orientation is not known.
    """

    features: Features

    def __init__(
        self,
        source: ImageSource,
        network: Network,
        store: Store,
        extraction: Extraction,
        settings: ComputeSettings,
    ) -> None:
        self.source, self.network, self.store = source, network, store
        self.extraction, self.settings = extraction, settings
        self.names = array_names(extraction.taps)
        self.run_id = uuid.uuid4().hex[:12]
        self.n_unturned = 0
        self.lost: list[str] = []
        self._size = network.transform.size
        self._repeats = False

    def prepare(self, view: pd.DataFrame) -> None:
        """Make or grow the group's arrays; no forward pass if all of them are there.

        Raises:
            BadInput: no image is readable, a tap does not exist, or the disk cannot hold it.
        """
        if not (view["state"] == "ok").any():
            reason = view["reason"].value_counts().index[0]
            raise BadInput(
                f"none of {len(view)} images of {self.source.spec} is readable: {reason}"
            )
        key = self.extraction.key
        stored = self._stored_arrays()
        attrs: dict[str, Any] = {
            **self.extraction.to_dict(),
            "class_names": list(self.network.class_names or ()),
            # As `Store.set_source` keeps it: a password of the environment by its name alone.
            "source": shown_place(self.source.spec),
            "place": self.store.shown_place,
        }
        code = code_hash_of(self.network.name)
        if code:
            attrs["code_hash"] = code
        if all(name in stored for name in self.names):
            shapes = {name: (stored[name].tail, stored[name].dtype) for name in self.names}
        else:
            size = self.frame_size(view)
            self._check_sizes(view, size)
            forward = self.forward(self.names, size)
            forward.store_as(self._types(forward, view))
            forward.store_as({n: one.dtype for n, one in stored.items() if n in self.names})
            shapes = forward.shapes
            attrs["tap_notes"] = forward.notes
            attrs["classifier"] = self.network.classifier() is not None
            attrs["packages"] = dict(self.network.packages)
            attrs["modules"] = list(self.network.modules)
            if any(name.startswith(MEAN_OF) for name in self.names):
                attrs["layers"] = list(self.network.layers)
            check_disk(self.store, {n: shape for n, shape in shapes.items() if n not in stored})
        self._check_names(shapes.get("logits"))
        self.features = self.store.create_features(attrs, key, shapes)
        self._store_classifier()

    def _stored_arrays(self) -> dict[str, ArraySpec]:
        if self.extraction.key not in self.store.groups():
            return {}
        try:
            return self.store.features(self.extraction.key).arrays
        # What describes the group is written anew by `create_features`.
        except StoreDamaged:
            return {}

    def _types(self, forward: Forward, view: pd.DataFrame) -> dict[str, str]:
        """The maps that need float32, by the values of some images of the first unit."""
        good = view[view["state"] == "ok"].drop_duplicates("row").sort_values("row").head(UNIT)
        few = np.unique(np.linspace(0, len(good) - 1, min(TRIAL, len(good))).astype(np.int64))
        images = [
            Image(int(one.row), str(one.path), str(one.image_id))
            for one in good.iloc[few].itertuples()
        ]
        load = FrameLoader(
            self.source, self.network.transform, self.frame_size(view), False, StageClock()
        )
        return forward.types_for(load(images).frames)

    def _store_classifier(self) -> None:
        # The attribute says that there is none: to look for a classifier again is a forward pass.
        if self.features.attrs.get("classifier", True) and not self.features.is_whole(CLASSIFIER):
            arrays = (one.detach().float().cpu().numpy() for one in self.network.classifier() or ())
            values = dict(zip(CLASSIFIER, arrays, strict=False))
            self.features = self.store.keep_constants(self.features, values)

    def _check_sizes(self, view: pd.DataFrame, size: tuple[int, int]) -> None:
        """Refuse before the run a set of many shapes that nothing brings to one.

        Raises:
            BadInput: more than `settings.bad_share` of a sample would be of another size.
        """
        transform = self.network.transform
        if transform.size is not None:
            return
        paths = view[view["state"] == "ok"]["path"]
        sample = [
            paths.iloc[at] for at in np.unique(np.linspace(0, len(paths) - 1, SAMPLE, dtype=int))
        ]
        sizes = []
        for path in sample:
            try:
                frame = transform.frame(decode(self.source.read(path)))
            except BadImage:
                continue
            sizes.append((int(frame.shape[1]), int(frame.shape[2])))
        others = sum(one != size for one in sizes)
        if others > self.settings.bad_share * len(sizes):
            side = transform.resize if isinstance(transform.resize, int) else min(size)
            how = f"after --resize {side}" if transform.resize else "and nothing resizes"
            raise BadInput(
                f"{others} of {len(sizes)} images looked at are not {size[0]}x{size[1]} {how}, but "
                f"a network takes one size: give --resize {side}x{side} (squeezed), or --resize "
                f"{side} --crop {side} (the middle)"
            )

    def _check_names(self, logits: tuple[tuple[int, ...], str] | None) -> None:
        names = self.network.class_names
        if names and logits and logits[0][0] != len(names):
            raise BadInput(
                f"{len(names)} class names ({names[0]}…) for the {logits[0][0]} logits of "
                f"{self.network.name}: give one for each logit, in order, or none"
            )

    def missing(self) -> dict[tuple[str, ...], list[UnitRows]]:
        """Rows to compute by the arrays that miss them: one entry, unless a tap was added later."""
        missing_arrays: dict[int, list[str]] = {}
        for name in self.names:
            for unit in self.features.pending([name]):
                missing_arrays.setdefault(unit, []).append(name)
        # Nothing that is whole is looked at twice.
        self.lost = note_lost(self.features, self.names) if missing_arrays else []
        bad = self.features.bad()
        retried = bad[(bad["row"] >= 0) & bad["state"].isin(RETRIED)]["row"]
        # Of each unit the first row to try again; `bad` is in order of paths.
        first_retried = {int(row) // UNIT: int(row) for row in sorted(retried, reverse=True)}
        workload: dict[tuple[str, ...], list[UnitRows]] = {}
        for unit in sorted(missing_arrays.keys() | first_retried):
            # A row stops being bad only when it is given for every array.
            names = tuple(self.features.arrays if unit in first_retried else missing_arrays[unit])
            todo = self.features.todo(unit, names)
            first = min(todo.start, first_retried.get(unit, todo.start))
            workload.setdefault(names, []).append(UnitRows(unit, range(first, todo.stop)))
        return workload

    def images_of(self, todo: UnitRows) -> tuple[Image, ...]:
        """The images of some rows; built when they are needed: memory holds only those."""
        rows = todo.rows
        ids = self.store.image_ids(rows.start, rows.stop)
        paths = self._paths.reindex(rows).astype(object)
        paths = paths.where(paths.notna(), None)
        signed = np.isin(np.asarray(rows), self.store.signatures.rows(todo.unit))
        return tuple(Image(*image) for image in zip(rows, paths, ids, signed, strict=True))

    @cached_property
    def _paths(self) -> pd.Series:
        """Path of every row that has an image in the set."""
        view = self.store.images()
        listed = view[view["row"] >= 0].drop_duplicates("row")
        return listed.set_index("row")["path"].sort_index()

    def forward(self, names: tuple[str, ...], size: tuple[int, int]) -> Forward:
        """The forward pass for frames of (height, width).

        Raises:
            BadInput: the network gives other features each time.
        """
        device = torch.device(self.settings.device)
        forward = Forward(self.network, size, names, device, self.extraction.precision)
        if not self._repeats:
            forward.check_repeats()
            self._repeats = True
        return forward

    def forward_into(self, names: tuple[str, ...]) -> Forward:
        """The forward pass that gives arrays of the group in the types that it stores.

        Args:
            names: of the arrays.
        """
        forward = self.forward(names, self.frame_size(None))
        forward.store_as({name: self.features.arrays[name].dtype for name in names})
        return forward

    def commit(self, unit: int, part: UnitArrays) -> None:
        """Write what a forward pass gave of a unit."""
        self.features.write_unit(unit, part.arrays, part.bad, run_id=self.run_id, lost=part.lost)

    def fix_size(self, size: tuple[int, int]) -> None:
        """Set (height, width) of the frames: all workers must use the same."""
        self._size = size

    def frame_size(self, view: pd.DataFrame | None) -> tuple[int, int]:
        """(height, width) of the frames: the transform's, or that of the first good image."""
        if self._size is None:
            view = self.store.images() if view is None else view
            for path in view[view["state"] == "ok"]["path"]:
                try:
                    frame = self.network.transform.frame(decode(self.source.read(path)))
                except BadImage:
                    continue
                self._size = (int(frame.shape[1]), int(frame.shape[2]))
                return self._size
            raise BadInput(f"none of {len(view)} images of {self.source.spec} can be decoded")
        return self._size


def check_disk(store: Store, shapes: Shapes) -> None:
    """Refuse before the run what cannot fit even if maps compress as well as they ever did.

    Args:
        store: a remote one is not checked.
        shapes: of the arrays to come.

    Raises:
        BadInput: with the size, the space, and what to leave out.
    """
    if store.root_path is None:
        return
    needed, free = disk_bytes(shapes) * store.n_rows, shutil.disk_usage(store.root_path).free
    if needed > free:
        maps = [name for name in shapes if len(shapes[name][0]) > 1 and name != "pixels"]
        raise BadInput(
            f"features of {store.n_rows} images take at least {needed / 1e9:.3g} GB, {store.url} "
            f"has {free / 1e9:.3g} GB free: leave out {', '.join(maps) or 'images'} (gap is stored "
            "anyway), free some space, or give another place"
        )


def disk_bytes(shapes: Shapes) -> float:
    """Smallest bytes of one image in the store: vectors as they are, maps after zstd."""
    return float(
        sum(
            np.prod(tail) * np.dtype(dtype).itemsize * (BEST_COMPRESSION if len(tail) > 1 else 1)
            for tail, dtype in shapes.values()
        )
    )
