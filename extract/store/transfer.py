"""A whole group out of a store into one file, and back into any store, losing nothing."""

import uuid
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from alike.extract.errors import BadInput
from alike.extract.progress import Progress, silent
from alike.extract.replacing import check_target
from alike.extract.store.arrays import ArraySpec
from alike.extract.store.commit import ABSENT
from alike.extract.store.events import Event, note
from alike.extract.store.features import Features
from alike.extract.store.files import PARTIAL, disk_errors
from alike.extract.store.formats.carried import IMAGE_COLUMNS, Carried
from alike.extract.store.formats.formats import FORMATS, Format
from alike.extract.store.store import Store

_ABSENT = (ABSENT, "not in the imported file")


def export_group(
    features: Features, to: str | Path, *, arrays: Sequence[str] | None = None
) -> Path:
    """Write all images of the set with their features, classifier and provenance to one file.

    Args:
        features: the group.
        to: a path that ends in .h5, .npz, .parquet or .nc; written aside, then renamed.
        arrays: some of the arrays; None for all.

    Raises:
        BadInput: another ending, or no such array.
        StoreDamaged: a row is not what was recorded.
        StoreFull: no room for the file.
    """
    target = Path(to)
    file_format = _format(target)
    names = list(features.arrays if arrays is None else arrays)
    unknown = sorted(set(names) - set(features.arrays))
    if unknown:
        raise BadInput(f"{features.key} has no {unknown[0]!r}, only {', '.join(features.arrays)}")
    check_target(target)
    carried = _carry(features, names)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with disk_errors(str(target.parent)):
            file_format.write(aside, carried)
            aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def _format(path: Path) -> Format:
    if path.suffix not in FORMATS:
        raise BadInput(f"{path.name}: a group is exported as one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix]


def _carry(features: Features, names: list[str]) -> Carried:
    view = features.store.images()
    view = view[view["row"] >= 0].drop_duplicates("row").sort_values("row")
    view = view[features.committed(names)[view["row"].to_numpy()]].reset_index(drop=True)
    bad = features.bad().drop_duplicates("row").set_index("row")
    bad = bad[bad.index.isin(view["row"])]
    at = view["row"].isin(bad.index)
    for column in ("state", "reason"):
        view.loc[at, column] = bad.loc[view.loc[at, "row"], column].to_numpy()
    rows = view["row"].to_numpy()
    view["labelled"] = view["label"].notna().astype(np.uint8)
    view["label"] = view["label"].fillna("")
    return Carried(
        attrs={**features.attrs, "key": features.key},
        images=view[list(IMAGE_COLUMNS)],
        specs={name: features.arrays[name] for name in names},
        constants={name: features.read_constant(name) for name in features.constants()},
        read=lambda name, lo, hi: features.read(name, rows[lo:hi]),
    )


def import_group(store: Store, source: str | Path, *, progress: Progress = silent) -> Features:
    """Bring an exported group into a store: its images join the set, its features the group.

    Images are matched by their bytes' hash, so rows need not agree; features that the store has
    already are kept.

    Args:
        store: the store.
        source: a file that `export_group` wrote.
        progress: told of every unit.

    Raises:
        BadInput: no such file, or none that was exported.
        StoreBusy: a process extracts into the group.
    """
    path = Path(source)
    if not path.is_file():
        raise BadInput(f"no file {path}; name one that `alike store export` wrote")
    with ExitStack() as stack:
        try:
            carried = stack.enter_context(_format(path).open(path))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BadInput(f"{path} holds no exported group ({error})") from error
        return _take_in(store, carried, path.name, progress)


def _take_in(store: Store, carried: Carried, name: str, progress: Progress) -> Features:
    attrs = dict(carried.attrs)
    key = str(attrs.pop("key"))
    with store.lock(key):
        view = store.images()
        images = carried.images.rename_axis(None)
        new = images[~images["image_id"].isin(view["image_id"])].copy()
        new["label"] = new["label"].where(new["labelled"] == 1, None)
        new["state"], new["reason"] = "ok", ""
        columns = [column for column in IMAGE_COLUMNS if column != "labelled"]
        if len(new):
            store.list_images(pd.concat([view[columns], new[columns]], ignore_index=True))
        specs = {one: (spec.tail, spec.dtype) for one, spec in carried.specs.items()}
        features = store.create_features(attrs, key, specs)
        with features.lock():
            stored = set(features.constants())
            for constant, value in carried.constants.items():
                if constant not in stored:
                    features.write_constant(constant, value)
            units = features.pending(carried.specs)
            for done, unit in enumerate(units, 1):
                _take_unit(features, carried, unit, name)
                progress("import", done, len(units))
    note(store.files, Event("imported", key, f"{len(images)} images from {name}"))
    return features


def _take_unit(features: Features, carried: Carried, unit: int, run: str) -> None:
    """Commit a unit: carried rows, rows that were good already, absent ones for the rest."""
    rows = features.todo(unit, carried.specs)
    ids = features.store.image_ids(rows.start, rows.stop)
    at = pd.Index(carried.images["image_id"]).get_indexer(ids)
    if (at < 0).all():
        return
    states = carried.images[["state", "reason"]].to_numpy()
    bad = {
        row: _ABSENT if position < 0 else (str(states[position][0]), str(states[position][1]))
        for row, position in zip(rows, at, strict=True)
        if position < 0 or states[position][0] != "ok"
    }
    arrays = {name: _rows_at(carried, spec, at) for name, spec in carried.specs.items()}
    good = features.committed(list(carried.specs), good=True)[rows.start : rows.stop]
    stored = np.flatnonzero(good & (at < 0))
    for offset in stored:
        del bad[rows.start + int(offset)]
    for name, array in arrays.items():
        if len(stored):
            array[stored] = features.read(name, stored + rows.start)
    features.write_unit(unit, arrays, bad, run_id=f"import {run}")


def _rows_at(carried: Carried, spec: ArraySpec, at: np.ndarray) -> np.ndarray:
    """Read carried rows in any order: the range that holds them, if it is not much more."""
    out = spec.empty(len(at))
    positions = np.sort(at[at >= 0])
    for part in np.split(positions, np.flatnonzero(np.diff(positions) > len(at)) + 1):
        lo, hi = int(part[0]), int(part[-1]) + 1
        inside = np.flatnonzero((at >= lo) & (at < hi))
        out[inside] = carried.read(spec.name, lo, hi)[at[inside] - lo]
    return out


def export_formats() -> Mapping[str, str]:
    """Give the endings that can be exported, and how others read each."""
    return {ending: one.reader for ending, one in FORMATS.items()}
