"""A whole group out of a store into one file, and back into any store, losing nothing."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from alike.extract.command import command_at, taps_again
from alike.extract.errors import AlikeError, BadInput, StoreDamaged
from alike.extract.identity import check_name, check_path, key_fault
from alike.extract.progress import Progress, silent
from alike.extract.replacing import aside, check_target
from alike.extract.store.arrays import UNIT, ArraySpec, check_free
from alike.extract.store.commit import ABSENT
from alike.extract.store.constants import FITTED
from alike.extract.store.events import Event, note
from alike.extract.store.features import Features
from alike.extract.store.files import disk_errors
from alike.extract.store.formats.carried import IMAGE_COLUMNS, OPTIONAL, Carried, RowSums
from alike.extract.store.formats.formats import FORMATS, Format
from alike.extract.store.layout import check_fits
from alike.extract.store.locks import require_writable
from alike.extract.store.store import Store

_ABSENT = (ABSENT, "not in the imported file")
_ELSEWHERE = "features made elsewhere are written to a store as docs/store.md says"


def export_group(
    features: Features, to: str | Path, *, arrays: Sequence[str] | None = None
) -> Path:
    """Write all images of the set with their features, classifier and provenance to one file.

    Args:
        features: the group.
        to: a path that ends in .h5, .npz, .parquet or .nc; written aside, then renamed.
        arrays: some of the arrays; None for all.

    Raises:
        BadInput: another ending, no such array, or no features yet.
        StoreDamaged: a row is not what was recorded.
        StoreFull: no room for the file.
    """
    check_target(to)
    target = Path(to)
    file_format = _format(target)
    names = list(features.arrays if arrays is None else arrays)
    unknown = sorted(set(names) - set(features.arrays))
    if unknown:
        raise BadInput(f"{features.key} has no {unknown[0]!r}, only {', '.join(features.arrays)}")
    carried = _carry(features, names)
    with disk_errors(str(target.parent)), aside(target) as part:
        file_format.write(part, carried)
    return target


def _format(path: Path) -> Format:
    if path.suffix not in FORMATS:
        raise BadInput(f"{path.name}: a group is exported as one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix]


def _carry(features: Features, names: list[str]) -> Carried:
    view = features.store.images()
    view = view[view["row"] >= 0].drop_duplicates("row").sort_values("row")
    view = view[features.committed(names)[view["row"].to_numpy()]].reset_index(drop=True)
    if view.empty:
        raise BadInput(
            f"{features.key} has no features to export: run `{taps_again(features)}` first; "
            f"`{command_at('store verify', features.store)}` says if some were lost"
        )
    bad = features.bad().drop_duplicates("row").set_index("row")
    bad = bad[bad.index.isin(view["row"])]
    at = view["row"].isin(bad.index)
    for column in ("state", "reason"):
        view.loc[at, column] = bad.loc[view.loc[at, "row"], column].to_numpy()
    rows = view["row"].to_numpy()
    view["labelled"] = view["label"].notna().astype(np.uint8)
    view["label"] = view["label"].fillna("")
    groups = features.store.image_groups().set_index("row")["group"]
    view["group"] = groups.reindex(rows).to_numpy(dtype=object)
    named = [name for name in OPTIONAL if view[name].notna().any()]
    view[named] = view[named].fillna("")
    return Carried(
        attrs={**features.attrs, "key": features.key},
        images=view[[*IMAGE_COLUMNS, *named]],
        specs={name: features.arrays[name] for name in names},
        constants={name: features.read_constant(name) for name in features.constants()},
        read=lambda name, lo, hi: features.read(name, rows[lo:hi]),
    )


def import_group(
    store: Store,
    source: str | Path,
    *,
    progress: Progress = silent,
    tell: Callable[[str], object] = lambda _: None,
) -> Features:
    """Bring an exported group into a store: its images join the set, its features the group.

    Images are matched by their bytes' hash, so rows need not agree; features, labels and subsets
    that the store has already are kept. So are the groups of its images; an image without one takes
    that of the file.

    Args:
        store: the store.
        source: a file that `export_group` wrote.
        progress: told of every unit.
        tell: told what is worth knowing: a file of an earlier version carries fewer checksums.

    Raises:
        BadInput: no such file, none that was exported, a damaged one, or one whose names would
            lead out of the store; the store is as it was before.
        StoreBusy: a process extracts into the group.
    """
    path = Path(source)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "is no file"
        raise BadInput(f"{path} {kind}; name a file that `alike store export` wrote; {_ELSEWHERE}")
    if path.suffix not in FORMATS:
        raise BadInput(
            f"{path.name}: an exported group ends in one of {', '.join(FORMATS)}; {_ELSEWHERE}"
        )
    with ExitStack() as stack:
        try:
            carried = stack.enter_context(_format(path).open(path))
            check_carried(carried, progress)
        except BadInput as error:
            if str(path) in str(error):
                raise
            raise BadInput(f"{path}: {error}") from error
        except AlikeError:
            raise
        # A damaged file makes the readers of its format raise anything.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadInput(f"{path} holds no exported group ({reason}); {_ELSEWHERE}") from error
        if carried.sums is None:
            tell(
                f"{path.name} carries no checksums: an earlier version exported it, or another "
                "program wrote it; only what its format itself guards was checked"
            )
        _tell_labels(store, carried, path.name, tell)
        return _take_in(store, carried, path.name, progress, tell)


def check_carried(carried: Carried, progress: Progress = silent) -> None:
    """Read all of a carried group once, before a store is touched.

    Raises:
        BadInput: something in it is not what was exported, or would lie outside of a store.
        Exception: whatever the reader of a damaged file raises.
    """
    if not isinstance(carried.attrs.get("key"), str):
        raise BadInput("it names no extraction")
    check_name(carried.attrs["key"], "extraction")
    for name, kind in _ATTRS.items():
        if name in carried.attrs and not isinstance(carried.attrs[name], kind):
            raise BadInput(f"its attribute {name} is {type(carried.attrs[name]).__name__}")
    fault = key_fault(carried.attrs["key"], carried.attrs)
    if fault:
        raise BadInput(f"its attributes are not those of {carried.attrs['key']}: {fault}")
    for name in carried.specs:
        check_free(check_name(name, "array"))
    for name in carried.constants:
        check_path(name, "constant")
    _check_images(carried.images)
    for name, length in carried.lengths.items():
        if length != len(carried.images):
            raise BadInput(
                f"array {name} has {length} rows for {len(carried.images)} images: one row for "
                "each image is expected"
            )
    sums = RowSums(carried)
    for done, name in enumerate(carried.specs, 1):
        spec = carried.specs[name]
        for lo, block in sums.blocks(name):
            wanted = (min(UNIT, len(carried.images) - lo), *spec.tail)
            if block.shape != wanted or block.dtype != np.dtype(spec.dtype):
                raise BadInput(f"array {name}: {block.dtype} {block.shape} from row {lo} on")
        progress("check", done, len(carried.specs))
    if carried.sums is not None:
        actual = sums.sums()
        names = actual.keys() | carried.sums.keys()
        differ = sorted(one for one in names if actual.get(one) != carried.sums.get(one))
        if differ:
            raise BadInput(f"{differ[0]} differs from its checksum: export the group again")


_ATTRS: dict[str, type | tuple[type, ...]] = {
    "network": str, "weights": str, "weights_hash": str, "precision": str, "transform": dict,
    "taps": list, "args": dict, "seed": int, "class_names": (list, type(None)), "source": str,
    "place": str, "code_hash": str, "constants": dict,
}  # fmt: skip
"""Types of the attributes that readers rely on."""


def _check_images(images: pd.DataFrame) -> None:
    ids = images["image_id"]
    wrong = ids[~ids.str.fullmatch(r"[0-9a-f]{64}")]
    if len(wrong):
        raise BadInput(f"image id {wrong.iloc[0]!r}: a SHA-256 in hexadecimal is expected")
    if ids.duplicated().any():
        raise BadInput(f"image id {ids[ids.duplicated()].iloc[0]!r} stands twice")
    if not images["labelled"].isin([0, 1]).all() or (images["size"] < 0).any():
        raise BadInput("the columns of its images are not what was exported")


def _tell_labels(store: Store, carried: Carried, name: str, tell: Callable[[str], object]) -> None:
    """Say of how many images the store has another label, which stays."""
    own = store.images().drop_duplicates("image_id").set_index("image_id")["label"]
    theirs = carried.images.set_index("image_id")
    theirs = theirs[theirs.index.isin(own.index)]
    labels = theirs["label"].where(theirs["labelled"] == 1, None)
    other = labels.fillna("") != own.loc[labels.index].fillna("")
    if other.any():
        tell(
            f"{int(other.sum())} of the images of {name} have another label there than in this "
            f"store, the first is {str(other.idxmax())[:12]}: the store's "
            "labels stay"
        )


def _take_in(
    store: Store, carried: Carried, name: str, progress: Progress, tell: Callable[[str], object]
) -> Features:
    attrs = dict(carried.attrs)
    key = str(attrs.pop("key"))
    require_writable(store.files)
    check_fits(store.files, key, attrs, list(carried.specs.values()))
    with store.lock(key):
        view = store.images()
        images = carried.images.rename_axis(None)
        new = images[~images["image_id"].isin(view["image_id"])].copy()
        new["label"] = new["label"].where(new["labelled"] == 1, None)
        new["state"], new["reason"] = "ok", ""
        new["subset"] = new["subset"].replace("", None) if "subset" in new else None
        columns = [column for column in IMAGE_COLUMNS if column != "labelled"] + ["subset"]
        if len(new):
            view = store.list_images(pd.concat([view[columns], new[columns]], ignore_index=True))
        _take_groups(store, images, view)
        specs = {one: (spec.tail, spec.dtype) for one, spec in carried.specs.items()}
        features = store.create_features(attrs, key, specs)
        with features.lock():
            lacking = {
                constant: value
                for constant, value in carried.constants.items()
                if not _has_constant(features, constant)
            }
            for constant, value in lacking.items():
                if constant.startswith(FITTED):
                    features.write_constant(constant, value)
            own = {one: value for one, value in lacking.items() if not one.startswith(FITTED)}
            features = store.keep_constants(features, own)
            units, without = features.pending(carried.specs), 0
            for done, unit in enumerate(units, 1):
                without += _take_unit(features, carried, unit, name)
                progress("import", done, len(units))
    if without:
        tell(
            f"{without} of the images of {name} have NaN or infinite values there: they have no "
            "features (`alike store ls --bad`)"
        )
    note(store.files, Event("imported", key, f"{len(images)} images from {name}"))
    return features


def _has_constant(features: Features, name: str) -> bool:
    try:
        features.read_constant(name)
    except (BadInput, StoreDamaged):
        return False
    return True


def _take_groups(store: Store, images: pd.DataFrame, view: pd.DataFrame) -> None:
    """Keep the groups of carried images, so that those of one group stay on one side."""
    if "group" not in images:
        return
    rows = view[view["row"] >= 0].drop_duplicates("image_id").set_index("image_id")["row"]
    carried = images.loc[images["group"] != "", ["image_id", "group"]]
    carried = carried.assign(row=carried["image_id"].map(rows))[["row", "group"]]
    # The store's own come first: of one row the first counts.
    groups = pd.concat([store.image_groups(), carried]).drop_duplicates("row")
    store.keep_image_groups(groups.astype({"row": "int64"}))
    store.assign_sides()


def _take_unit(features: Features, carried: Carried, unit: int, run: str) -> int:
    """Commit a unit: carried rows, rows that were good already, absent ones for the rest.

    Returns:
        How many images have no features here, although the file does not say so.
    """
    rows = features.todo(unit, carried.specs)
    ids = features.store.image_ids(rows.start, rows.stop)
    at = pd.Index(carried.images["image_id"]).get_indexer(ids)
    if (at < 0).all():
        return 0
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
    good_rows = [row for row in rows if row not in bad]
    broken, lost = _non_finite(arrays, good_rows, rows.start)
    # What the store has already does not change.
    broken = {row: why for row, why in broken.items() if at[row - rows.start] >= 0}
    features.write_unit(unit, arrays, {**bad, **broken}, run_id=f"import {run}", lost=lost)
    return len(broken)


def _non_finite(
    arrays: Mapping[str, np.ndarray], rows: Sequence[int], first: int
) -> tuple[dict[int, tuple[str, str]], dict[int, list[str]]]:
    """Rows with a NaN or an infinity, as an extraction treats them.

    Args:
        arrays: by name, from row `first` on.
        rows: to look at.
        first: row of the first line.

    Returns:
        Rows without a feature, with (state, reason); rows without a map, with its name: such a map
        is missing, or beyond the range of float16.
    """
    bad: dict[int, tuple[str, str]] = {}
    lost: dict[int, list[str]] = {}
    at = np.asarray(rows, dtype=np.int64) - first
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            continue
        flat = array.reshape(len(array), -1)
        for place in at[~np.isfinite(flat[at]).all(axis=1)]:
            row = first + int(place)
            if array.ndim > 2 and (array.dtype == np.float16 or np.isnan(flat[place]).all()):
                lost.setdefault(row, []).append(name)
            else:
                bad[row] = ("non-finite", f"{name} has NaN or infinite values ({array.dtype})")
    return bad, {row: names for row, names in lost.items() if row not in bad}


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
