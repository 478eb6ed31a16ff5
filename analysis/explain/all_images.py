"""Explanations of all images of a store, in the store: part files that a second run keeps.

`explanations/<key>/<method>/<hash of the images>.npz` holds, for up to `PART` images: rows (n,),
target (n,), score (n,), probability (n,), relevance (n, h, w) float32. What has its file is
not computed again; `alike explain --all` says how many were.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from alike.analysis.explain.explain import explain_batch, explainer
from alike.analysis.explain.inputs import class_name, network_for, turns_in_classes, worker_network
from alike.extract.documents import read_npz
from alike.extract.embedding import MapBlocks
from alike.extract.errors import BadInput
from alike.extract.frames import StoredImages
from alike.extract.identity import is_name
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from alike.extract.networks import Network
    from alike.extract.store import Features

PART = 256
_WAY_OUT = "delete it and run `alike explain --all` again"
# Raise it when a method gives other maps than before, so that stored ones are not taken for them.
VERSION = "3"


@dataclass(frozen=True)
class SetReport:
    """What a run over a store did.

    Attributes:
        table: one row a method and image: method, row, path, label, target, target_name, score,
            probability, relevance_sum.
        n_computed: images explained in this run, counted once a method.
        n_reused: found in the store.
        folder: where the arrays are, in the store.
        left_out: a line for each image that is gone or has changed since its features were
            computed; it is in no part, and the next run asks for it again.
    """

    table: pd.DataFrame
    n_computed: int
    n_reused: int
    folder: str
    left_out: tuple[str, ...] = ()


def explain_set(
    features: "Features",
    network: "Network | None" = None,
    *,
    methods: Sequence[str] = ("gradcam",),
    split: str | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    map_parts: MapBlocks = map,
    progress: Progress = silent,
) -> SetReport:
    """Explain the stored images, each for the class that the network predicts.

    Args:
        features: whose images, and whose network where none is given.
        network: from `load_network`; its weights must be those of the features.
        methods: names of `EXPLAINERS`.
        split: `train`, `held_out` or None for both.
        limit: only so many, spread evenly over the classes by the ids of their images.
        batch_size: images explained at a time.
        map_parts: explains parts of up to `PART` images: `map`, or the like of it on workers, which
            load the network that made the features.
        progress: told after every part.

    Raises:
        BadInput: an unknown method, weights that are not those of the features, a method that
            does not fit the network, or images of which all are gone.
    """
    for method in methods:
        explainer(method)
    features.store.require_writable()
    network = network_for(features, network)
    table = _limited(features.table(split), limit)
    parts = [table.iloc[lo : lo + PART] for lo in range(0, len(table), PART)]
    folder = f"explanations/{features.key}"
    asked = [(method, part) for method in methods for part in parts]
    names = [f"{folder}/{method}/{_hash(part['image_id'])}.npz" for method, part in asked]
    absent = {name for name in names if features.store.files.size(name) is None}
    todo = [one for one, name in zip(asked, names, strict=True) if name in absent]
    made = iter(map_parts(_PartExplanations(features, network, batch_size), todo))
    tables, n_computed = [], 0
    gone: dict[int, str] = {}
    for number, ((method, part), name) in enumerate(zip(asked, names, strict=True)):
        if name in absent:
            archive, lost = next(made)
            gone |= lost
            part = part[~part["row"].isin(list(lost))]
            if len(part):
                place = f"{folder}/{method}/{_hash(part['image_id'])}.npz"
                features.store.write_file(place, archive)
            n_computed += len(part)
        else:
            archive = features.store.read_file(name)
        if len(part):
            tables.append(_listed(method, part, archive, network))
        progress("explain", number + 1, len(asked), method)
    if gone and not tables:
        raise BadInput(f"no image can be explained: {next(iter(gone.values()))}")
    table_of_all = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    n_reused = len(table_of_all) - n_computed
    return SetReport(table_of_all, n_computed, n_reused, folder, tuple(gone.values()))


def stored_relevance(features: "Features", method: str) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Read what `explain_set` wrote for one method, part by part, as a dict of arrays.

    Every image that is in the set comes once, though runs with other limits or splits have written
    it into several parts. Parts of an earlier version of the maps do not come.
    """
    folder = f"explanations/{features.key}/{method}"
    ids, wanted = features.store.image_ids(), set(features.table()["row"].tolist())
    for name in sorted(features.store.files.listing(folder)):
        if not (name.endswith(".npz") and is_name(name)):
            continue
        place = f"{folder}/{name}"
        part = read_npz(features.store.read_file(place), place, _WAY_OUT)
        rows = part["rows"]
        if rows.max(initial=0) >= len(ids) or name != f"{_hash(ids[rows])}.npz":
            continue
        new = np.isin(rows, list(wanted))
        if new.any():
            wanted.difference_update(rows[new].tolist())
            yield {key: values[new] for key, values in part.items()}


def _limited(table: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    if limit is None or limit >= len(table):
        return table
    order = np.lexsort((table["image_id"], turns_in_classes(table)))
    return table.iloc[order[:limit]].sort_values("row")


def _hash(image_ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join([VERSION, *image_ids]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _PartExplanations:
    """Explains parts of the images; it travels to a worker by the place of the store."""

    features: "Features"
    network: "Network"
    batch_size: int

    def __call__(self, asked: tuple[str, pd.DataFrame]) -> tuple[bytes, dict[int, str]]:
        """The archive of a method and a part, and why images of which rows are not in it."""
        method, part = asked
        stored = StoredImages.of(self.features.store, part)
        images, rows, gone = [], [], {}
        for row in part["row"].tolist():
            try:
                images.append(stored.read(row))
            except BadInput as error:
                gone[row] = str(error)
            else:
                rows.append(row)
        if not rows:
            return b"", gone
        explained = explain_batch(images, self.network, method, batch_size=self.batch_size)
        explanations = list(explained)
        archive = io.BytesIO()
        np.savez_compressed(
            archive,
            rows=np.array(rows, np.int64),
            target=np.array([one.target for one in explanations], np.int64),
            score=np.array([one.score for one in explanations], np.float32),
            probability=np.array([one.probability for one in explanations], np.float32),
            relevance=np.stack([one.relevance for one in explanations]).astype(np.float32),
        )
        return archive.getvalue(), gone

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without weights and open files."""
        return _opened, (self.features.store.place, self.features.key, self.batch_size)


def _opened(place: str, key: str, batch_size: int) -> _PartExplanations:
    from alike.extract.store import Store

    features = Store.open(place).features(key)
    return _PartExplanations(features, worker_network(features), batch_size)


def _listed(method: str, part: pd.DataFrame, archive: bytes, network: "Network") -> pd.DataFrame:
    arrays = read_npz(archive, f"the explanations of {method}", _WAY_OUT)
    table = pd.DataFrame({"method": method, "row": arrays["rows"]})
    table["path"], table["label"] = part["path"].to_numpy(), part["label"].to_numpy()
    table["target"] = arrays["target"]
    table["target_name"] = [class_name(network, int(index)) for index in arrays["target"]]
    table["score"], table["probability"] = arrays["score"], arrays["probability"]
    table["relevance_sum"] = arrays["relevance"].sum(axis=(1, 2))
    return table
