"""Images in arrays: .npz (read whole: memory is that of the arrays) and HDF5 (read row by row)."""

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from alike.extract.errors import BadImage, BadInput
from alike.extract.images.labels import LabelRule
from alike.extract.images.source import Listed, Stamp, local_path, stamp_of_container

SPLITS = ("train", "val", "test", "")
PAIRS = (
    ("x_{split}", "y_{split}"),
    ("{split}_images", "{split}_labels"),
    ("{split}/images", "{split}/labels"),
    ("images", "labels"),
    ("image", "label"),
    ("x", "y"),
    ("data", "labels"),
)
"""Names of the arrays of images and labels that are found without being named, in any case."""
CLASSES = ("classes", "class_names", "label_names")


class ArraySource:
    """Rows of uint8 arrays (N, H, W, 3), (N, 3, H, W) or (N, H, W), each as one .npy image.

    A path is ``array/row``; a label is the class's name if the file has one of `CLASSES`; a subset
    is the part of the name that says ``train``, ``val`` or ``test``.

    Args:
        spec: the file.
        split: ``train``, ``val`` or ``test``: only the arrays of that name.
        images: name of the array of images, if it is none of `PAIRS`.
        labels: name of its array of labels.
        classes: name of the array of class names.
        scale: for arrays that are not uint8: what a value is multiplied by before it is rounded to
            0..255, 255 for values from 0 to 1.
        label: as `labels`.
        first_label: what to do with several labels of one image; see `LabelRule`.
    """

    def __init__(
        self,
        spec: str,
        split: str = "",
        images: str = "",
        labels: str = "",
        classes: str = "",
        scale: float | None = None,
        label: str = "",
        first_label: bool | None = None,
    ) -> None:
        file = local_path(spec)
        if file is None:
            raise BadInput(f"arrays {spec}: these are read from a local file; copy it first")
        path = file.resolve()
        self.spec = str(path)
        labels = labels or label
        if scale is not None and not (isinstance(scale, int | float) and 0 < scale < inf):
            raise BadInput(f"option scale {scale!r}: a number above 0 expected, such as 255")
        given = {"split": split, "images": images, "labels": labels, "classes": classes}
        self.options: dict[str, Any] = {name: value for name, value in given.items() if value}
        self.options |= {"scale": scale} if scale is not None else {}
        self.options |= {} if first_label is None else {"first_label": first_label}
        self._scale = scale
        stamp = stamp_of_container(self.spec)
        self._arrays = _open(path)
        self._by_lower = {name.lower(): name for name in reversed(list(self._arrays))}
        self._pairs = self._pairs_of(split, images, labels)
        self._check_types()
        elsewhere = any(_lies_elsewhere(self._arrays[name]) for name, _, _ in self._pairs)
        self._stamp = None if elsewhere else stamp
        if classes and classes not in self._arrays:
            raise BadInput(
                f"{self.spec}: no array {classes!r} of class names; it has "
                f"{', '.join(self._arrays)}"
            )
        self._rule = LabelRule(self.spec, first_label, self._class_names(classes))
        self.notes: list[str] = []
        # HDF5 handles serve one thread at a time.
        self._lock = threading.Lock()

    def _pairs_of(self, split: str, images: str, labels: str) -> list[tuple[str, str | None, str]]:
        if images:
            pairs: list[tuple[str, str | None, str]] = [(images, labels or None, split)]
        else:
            every = [
                (a.format(split=part), b.format(split=part), part)
                for part in ((split,) if split else SPLITS)
                for a, b in PAIRS
                if ("{split}" in a) == bool(part)
            ]
            named = [(self._by_lower.get(a.lower()), b, part) for a, b, part in every]
            pairs = [
                (a, labels or self._by_lower.get(b.lower()), part)
                for a, b, part in named
                if a is not None and self._arrays[a].ndim >= 3
            ]
            # Two rows of `PAIRS` may find one array: the first that also finds labels counts.
            best = {
                a: (a, b, part) for a, b, part in sorted(pairs, key=lambda one: not one[1])[::-1]
            }
            pairs = [best[a] for a in dict.fromkeys(a for a, _, _ in pairs)]
        unknown = {
            name for a, b, _ in pairs for name in (a, b) if name and name not in self._arrays
        }
        if not pairs or unknown:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in self._arrays.items())
            missing = ", ".join(sorted(unknown)) or f"of images {split}".strip()
            raise BadInput(
                f"{self.spec}: no array {missing} found; it has {shapes}; name them with "
                "--source-option images=NAME and --source-option labels=NAME"
            )
        return pairs

    def _class_names(self, classes: str) -> list[str] | None:
        """Names of integer labels: of an array of names, or of the type of the labels."""
        place = classes or next((one for one in CLASSES if one in self._arrays), "")
        if place:
            try:
                names = np.asarray(self._arrays[place][()]).ravel()
            # Damage makes HDF5 raise errors of any type.
            except Exception as error:
                raise _unreadable(self.spec, error) from error
            texts = LabelRule(self.spec, first=False)
            return [texts(name) or "" for name in names]
        for _, labels, _ in self._pairs:
            members = None if labels is None else _members(self._arrays[labels].dtype)
            if members:
                return members
        return None

    def _check_types(self) -> None:
        """Refuse what could not be decoded image by image.

        Raises:
            BadInput: an array of other numbers than uint8, and no `scale`.
        """
        for name, _, _ in self._pairs:
            array = self._arrays[name]
            if array.dtype == np.uint8 or self._scale is not None:
                continue
            if array.dtype.kind not in "fiub":
                raise BadInput(f"{self.spec}: {name} holds {array.dtype}: uint8 expected")
            first = np.asarray(array[:64])
            if np.isnan(first).any():
                raise BadInput(
                    f"{self.spec}: {name} holds {array.dtype} with NaN, uint8 from 0 to 255 is "
                    "expected: write the array so; NaN has no place among them"
                )
            low, high = (first.min(), first.max()) if first.size else (0, 0)
            raise BadInput(
                f"{self.spec}: {name} holds {array.dtype} from {low:.3g} to {high:.3g}, uint8 from "
                f"0 to 255 is expected: {_way_to_uint8(array.dtype, float(low), float(high))}"
            )

    def __iter__(self) -> Iterator[Listed]:
        """Array by array, row by row."""
        notes: list[str] = []
        for name, labels, part in self._pairs:
            n_images = len(self._arrays[name])
            truth = None if labels is None else self._truth(labels)
            if truth is not None and truth.ndim > 1 and truth.shape[1:] == (1,) * (truth.ndim - 1):
                truth = truth.ravel()
            if truth is not None and truth.shape[:1] != (n_images,):
                raise BadInput(
                    f"{self.spec}: {n_images} images in {name}, {len(np.atleast_1d(truth))} labels "
                    f"in {labels}: they must be of one length"
                )
            if truth is None:
                notes.append(self._unlabelled(name, n_images))
            values = None if truth is None else _without_ones(truth, str(labels), notes)
            for row in range(n_images):
                label = None if values is None else self._rule(values[row])
                yield Listed(f"{name}/{row:07d}", label, part or None)
        self.notes = [*notes, *self._left_out(), *self._rule.notes]

    def _truth(self, labels: str) -> np.ndarray:
        try:
            return np.asarray(self._arrays[labels][()])
        # Damage makes HDF5 raise errors of any type.
        except Exception as error:
            raise _unreadable(self.spec, error) from error

    def _left_out(self) -> list[str]:
        """One line on arrays that might be images and are not taken."""
        if "images" in self.options:
            return []
        taken = {name for name, _, _ in self._pairs}
        others = [
            f"{name} {array.shape}"
            for name, array in self._arrays.items()
            if name not in taken and array.dtype == np.uint8 and array.ndim >= 3
        ]
        return (
            [
                f"arrays that may hold images are left out: {', '.join(others)}; --source-option "
                "images=NAME takes one of them instead"
            ]
            if others and not self.options.get("split")
            else []
        )

    def _unlabelled(self, name: str, n_images: int) -> str:
        fitting = [
            other
            for other, array in self._arrays.items()
            if other != name and array.shape[:1] == (n_images,) and array.ndim <= 2
        ]
        way = f"; --label-column {fitting[0]} takes those of {fitting[0]}" if fitting else ""
        return f"no labels were found for the images in {name}{way}"

    def stamp(self, _path: str) -> Stamp | None:
        """Says whether the file is as it was; None where its arrays lie in other files."""
        return self._stamp

    def read(self, path: str) -> bytes:
        """One row in .npy form."""
        name, _, row = path.rpartition("/")
        try:
            with self._lock:
                image = np.asarray(self._arrays[name][int(row)])
        # Damage makes HDF5 raise errors of any type.
        except Exception as error:
            raise BadImage("unreadable", f"no row {path}: {error}") from error
        if self._scale is not None:
            image = _scaled(image, self._scale)
        written = io.BytesIO()
        np.save(written, np.ascontiguousarray(image), allow_pickle=False)
        return written.getvalue()


def _open(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix.lower() == ".npz":
            with _opened(path) as stored:
                return {name: _array(stored[name], name) for name in stored.files}
        return _datasets(path)
    # What is damaged makes the readers of ZIP files, headers and HDF5 raise errors of any type.
    except Exception as error:
        raise _unreadable(str(path), error) from error


def _opened(path: Path) -> Any:
    stored = np.load(path, allow_pickle=False)
    if isinstance(stored, np.ndarray):
        raise ValueError("one .npy array, and no .npz file of named ones")
    return stored


def _array(value: Any, name: str) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"its member {name} is no array")
    return value


def _unreadable(place: str, error: Exception) -> BadInput:
    reason = str(error).split("\n")[0] or type(error).__name__
    return BadInput(f"{place} cannot be read as arrays ({reason}); no pickled objects")


def _members(dtype: np.dtype) -> list[str] | None:
    """Names of numbers from 0 on in an HDF5 type that enumerates them; None for any other."""
    described: Mapping[str, int] | None = (dtype.metadata or {}).get("enum")  # type: ignore[call-overload]
    if not described or sorted(described.values()) != list(range(len(described))):
        return None
    return [str(name) for name, _ in sorted(described.items(), key=lambda one: one[1])]


def _datasets(path: Path) -> dict[str, Any]:
    import h5py

    datasets: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[name] = item

    h5py.File(path, "r").visititems(keep)
    return datasets


def _lies_elsewhere(array: Any) -> bool:
    """Whether an HDF5 dataset names other files for its values."""
    return bool(getattr(array, "is_virtual", False) or getattr(array, "external", None))


def _without_ones(labels: np.ndarray, name: str, notes: list[str]) -> Sequence[Any]:
    """The classes of rows of zeros and ones, with a note; other labels as they are."""
    if is_one_hot(labels):
        kind, how = "one-hot", "place of the 1 is the class"
    elif is_multi_hot(labels):
        kind, how = "multi-hot", "places of the 1s are the classes"
    else:
        return list(labels)
    notes.append(f"the labels in {name} are {kind} ({len(labels)} x {labels.shape[1]}): the {how}")
    return [np.flatnonzero(row) for row in labels]


def is_multi_hot(labels: np.ndarray) -> bool:
    """Whether labels (N, K) are rows of zeros and ones.

    Example:
        >>> is_multi_hot(np.array([[1, 1, 0], [0, 1, 0]])), is_multi_hot(np.array([[3, 1], [2, 0]]))
        (True, False)
    """
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "fiub":
        return False
    return bool(((labels == 0) | (labels == 1)).all())


def is_one_hot(labels: np.ndarray) -> bool:
    """Whether labels (N, K) are rows of one 1 among zeros.

    Example:
        >>> is_one_hot(np.eye(3)), is_one_hot(np.array([[3, 1], [2, 0]]))
        (True, False)
    """
    return is_multi_hot(labels) and bool(((labels == 1).sum(axis=1) == 1).all())


def _way_to_uint8(dtype: np.dtype, low: float, high: float) -> str:
    """What to do about an array of other numbers, of which some lie between two values."""
    if not low >= 0:
        return "write the array so; values below 0 have no fixed meaning"
    if high > 255 and dtype.kind == "f":
        return "write the array so; values beyond 255 have no fixed meaning"
    whole = 1 if high <= 1 else 255 if high <= 255 else np.iinfo(dtype).max
    return f"--source-option scale={255 / whole:.10g} multiplies and rounds"


def _scaled(image: np.ndarray, scale: float) -> np.ndarray:
    values = np.rint(np.asarray(image, np.float64) * scale)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    # Not >: NaN must not pass.
    if not (low >= 0 and high <= 255):
        raise BadImage("wrong mode", f"values from {low:g} to {high:g} after scale, not 0 to 255")
    return values.astype(np.uint8)
