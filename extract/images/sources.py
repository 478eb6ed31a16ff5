"""The table of sources: every kind of image set, and the one way to open it."""

import glob
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.images.folder import FolderSource
from alike.extract.images.source import ImageSource


def open_source(spec: str, **options: Any) -> ImageSource:
    """Open a set of images.

    Args:
        spec: any kind of `SOURCES`: a path, or a URL of fsspec where the kind says so.
        options: of that kind: see the functions in `SOURCES`.

    Raises:
        BadInput: nothing there, a kind that is not read, or options that it does not take.
    """
    local = "://" not in spec
    if local and not glob.has_magic(spec) and "{" not in spec and not _local(spec).exists():
        raise BadInput(f"images {spec} do not exist; give {_kinds()}")
    for row in SOURCES.values():
        if row.fits(spec):
            unknown = sorted(set(options) - set(inspect.signature(row.open).parameters))
            if unknown:
                raise BadInput(f"images {spec}: no option {', '.join(unknown)} for {row.about}")
            return row.open(spec, **options)
    raise BadInput(f"images {spec}: not a kind that is read; give {_kinds()}")


@dataclass(frozen=True)
class SourceKind:
    """One kind of source.

    Attributes:
        about: what it is, for `alike list datasets` and for errors.
        fits: whether a spec is of this kind; asked in the table's order.
        open: opens it; its keyword arguments are the kind's options.
    """

    about: str
    fits: Callable[[str], bool]
    open: Callable[..., ImageSource]


def _local(spec: str) -> Path:
    return Path(spec.removeprefix("file://")).expanduser()


def _kinds() -> str:
    return "; ".join(row.about for row in SOURCES.values() if not row.about.startswith("refused"))


def _ends(*suffixes: str) -> Callable[[str], bool]:
    return lambda spec: spec.lower().endswith(suffixes)


def _holds(*names: str) -> Callable[[str], bool]:
    """Whether the spec is a local folder with a file of one of these names."""
    return lambda spec: any((_local(spec) / name).is_file() for name in names)


def _is_pickle(spec: str) -> bool:
    path = _local(spec)
    children = path.iterdir() if path.is_dir() else ()
    names = [path.name, *(child.name for child in children)]
    marks = ("data_batch", "test_batch", "batches.meta")
    return path.suffix in (".pkl", ".pickle") or any(name.startswith(marks) for name in names)


def _refuse_pickle(spec: str) -> ImageSource:
    raise BadInput(
        f"images {spec} are pickles, and reading a pickle runs the code in it: save the arrays as "
        ".npz (x_train, y_train, classes) and give that"
    )


def _folder(spec: str) -> ImageSource:
    return FolderSource(_local(spec))


def _tar(spec: str) -> ImageSource:
    from alike.extract.images.tar import TarSource

    return TarSource(spec)


def _arrays(
    spec: str, split: str = "", images: str = "", labels: str = "", classes: str = ""
) -> ImageSource:
    from alike.extract.images.arrays import ArraySource

    return ArraySource(spec, split=split, images=images, labels=labels, classes=classes)


def _manifest(
    spec: str, path: str = "path", label: str = "label", root: str = "", image: str = "image"
) -> ImageSource:
    from alike.extract.images.tables import open_table

    return open_table(spec, path=path, label=label, root=root, image=image)


def _saved(spec: str, split: str = "", image: str = "image", label: str = "label") -> ImageSource:
    from alike.extract.images.saved import open_saved

    return open_saved(_local(spec), split=split, image=image, label=label)


SOURCES: Mapping[str, SourceKind] = {
    "pickle": SourceKind("refused: CIFAR-style pickles", _is_pickle, _refuse_pickle),
    "manifest": SourceKind(
        "a .csv or .parquet manifest (path, label), or .parquet with images in it, also by URL",
        _ends(".csv", ".parquet"),
        _manifest,
    ),
    "arrays": SourceKind(
        "an .npz or .h5 file of uint8 arrays (x_test, y_test, classes)",
        _ends(".npz", ".h5", ".hdf5"),
        _arrays,
    ),
    "tar": SourceKind(
        "WebDataset tar shards (name-{0000..0009}.tar, name-*.tar), also by URL",
        _ends(".tar"),
        _tar,
    ),
    "saved": SourceKind(
        "a folder saved by Hugging Face datasets",
        _holds("dataset_info.json", "dataset_dict.json"),
        _saved,
    ),
    "folder": SourceKind("a folder of class folders", lambda spec: _local(spec).is_dir(), _folder),
}
