"""Images in arrays: .npz (read whole: memory is that of the arrays) and HDF5 (read row by row)."""

import io
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alike.extract.errors import BadImage, BadInput
from alike.extract.images.source import Listed, local_path

SPLITS = ("train", "val", "test", "")
PAIRS = (
    ("x_{split}", "y_{split}"),
    ("{split}_images", "{split}_labels"),
    ("{split}/images", "{split}/labels"),
    ("images", "labels"),
    ("image", "label"),
    ("x", "y"),
    ("X", "y"),
    ("data", "labels"),
)
"""Names of the arrays of images and labels that are found without being named."""
CLASSES = ("classes", "class_names", "label_names")


class ArraySource:
    """Rows of uint8 arrays (N, H, W, 3), (N, 3, H, W) or (N, H, W), each as one .npy image.

    A path is ``array/row``; a label is the class's name if the file has one of `CLASSES`.

    Args:
        spec: the file.
        split: ``train``, ``val`` or ``test``: only the arrays of that name.
        images: name of the array of images, if it is none of `PAIRS`.
        labels: name of its array of labels.
        classes: name of the array of class names.
    """

    def __init__(
        self, spec: str, split: str = "", images: str = "", labels: str = "", classes: str = ""
    ) -> None:
        file = local_path(spec)
        if file is None:
            raise BadInput(f"arrays {spec}: these are read from a local file; copy it first")
        path = file.resolve()
        self.spec = str(path)
        given = {"split": split, "images": images, "labels": labels, "classes": classes}
        self.options = {name: value for name, value in given.items() if value}
        self._arrays = _open(path)
        self._pairs = self._pairs_of(split, images, labels)
        names = self._arrays.get(classes or next((c for c in CLASSES if c in self._arrays), ""))
        self._classes = None if names is None else [_text(name) for name in names[()]]
        # HDF5 handles serve one thread at a time.
        self._lock = threading.Lock()

    def _pairs_of(self, split: str, images: str, labels: str) -> list[tuple[str, str | None]]:
        if images:
            pairs = [(images, labels or None)]
        else:
            formats = [(a, b, s) for s in ((split,) if split else SPLITS) for a, b in PAIRS]
            every = [
                (a.format(split=s), b.format(split=s))
                for a, b, s in formats
                if ("{split}" in a) == bool(s)
            ]
            pairs = [
                (a, b if b in self._arrays else None)
                for a, b in dict.fromkeys(every)
                if a in self._arrays and self._arrays[a].ndim >= 3
            ]
        if not pairs or any(name not in self._arrays for name, _ in pairs):
            shapes = ", ".join(f"{name} {array.shape}" for name, array in self._arrays.items())
            raise BadInput(
                f"{self.spec}: no array of images {images or split or ''} found; it has {shapes}; "
                "name them with the options images and labels"
            )
        return pairs

    def __iter__(self) -> Iterator[Listed]:
        """Array by array, row by row."""
        for name, labels in self._pairs:
            truth = None if labels is None else np.asarray(self._arrays[labels][()]).ravel()
            if truth is not None and len(truth) != len(self._arrays[name]):
                raise BadInput(
                    f"{self.spec}: {len(self._arrays[name])} images in {name}, {len(truth)} labels "
                    f"in {labels}: they must be of one length"
                )
            for row in range(len(self._arrays[name])):
                yield Listed(
                    f"{name}/{row:07d}", None if truth is None else self._label(truth[row])
                )

    def _label(self, value: Any) -> str:
        if self._classes is None or not isinstance(value, int | np.integer):
            return _text(value)
        if not 0 <= value < len(self._classes):
            raise BadInput(
                f"{self.spec}: label {value}, but there are {len(self._classes)} classes"
            )
        return self._classes[int(value)]

    def read(self, path: str) -> bytes:
        """One row in .npy form."""
        name, _, row = path.rpartition("/")
        try:
            with self._lock:
                image = np.asarray(self._arrays[name][int(row)])
        except (KeyError, IndexError, ValueError, OSError) as error:
            raise BadImage("unreadable", f"no row {path}: {error}") from error
        written = io.BytesIO()
        np.save(written, np.ascontiguousarray(image), allow_pickle=False)
        return written.getvalue()


def _open(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        return _datasets(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0]
        raise BadInput(f"{path} cannot be read as arrays ({reason}); no pickled objects") from error


def _datasets(path: Path) -> dict[str, Any]:
    import h5py

    datasets: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[name] = item

    h5py.File(path, "r").visititems(keep)
    return datasets


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
