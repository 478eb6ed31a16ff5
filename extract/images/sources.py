"""The table of sources: every kind of image set, and the one way to open it.

>>> SOURCES["tar"].fits("s3://bucket/train-{0000..0009}.tar")
True
>>> SOURCES["folder"].about
'a folder of class folders'
"""

import glob
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.images.arrays import ArraySource
from alike.extract.images.folder import FolderSource
from alike.extract.images.remote_folder import RemoteFolderSource
from alike.extract.images.saved import open_saved
from alike.extract.images.selection import Selection
from alike.extract.images.source import ImageSource, local_path
from alike.extract.images.tables import open_table
from alike.extract.images.tar import TarSource
from alike.extract.secrets import filled


def open_source(spec: str, *, where: str = "", **options: Any) -> ImageSource:
    """Open a set of images.

    Args:
        spec: any kind of `SOURCES`: a path, or a URL of fsspec if the kind says so. `${NAME}` in a
            URL is a variable of the environment.
        where: ``subset=val`` or ``label=cat``: only those images; names may be joined by commas.
        options: of that kind: see the functions in `SOURCES`.

    Raises:
        BadInput: nothing there, a kind that is not read, or options that it does not take.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> (folder / "cat").mkdir()
        >>> _ = (folder / "cat" / "tom.png").write_bytes(b"the bytes of an image")
        >>> source = open_source(str(folder))
        >>> list(source)
        [Listed(path='cat/tom.png', label='cat')]
        >>> source.read("cat/tom.png")
        b'the bytes of an image'
    """
    if not spec:
        # As of a variable that is not set: it would be the folder that the process is in.
        raise BadInput(f"an empty name of images: give {_kinds()}")
    if "://" in spec:
        spec = filled(spec, "images")
    if where:
        return Selection(open_source(spec, **options), where)
    path = local_path(spec)
    is_pattern = glob.has_magic(spec) or "{" in spec
    if path is not None and not is_pattern and not path.exists():
        raise BadInput(f"images {spec} do not exist; give {_kinds()}")
    rows = SOURCES.values()
    for row in rows:
        if row.fits(spec):
            unknown = sorted(set(options) - set(inspect.signature(row.open).parameters))
            if unknown:
                option_names = sorted(set(inspect.signature(row.open).parameters) - {"spec"})
                raise BadInput(
                    f"images {spec}: no option {', '.join(unknown)} for {row.about}; options are "
                    f"{', '.join(option_names)}"
                )
            return row.open(spec, **_as_named(spec, row, options))
    if "://" in spec and "?" in spec and any(row.fits(spec.partition("?")[0]) for row in rows):
        raise BadInput(
            f"images {spec}: a URL with a query, such as a signed one, is another one every day; "
            "give the URL of the bucket, such as s3://bucket/list.csv, and credentials for it"
        )
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


def _kinds() -> str:
    return "; ".join(row.about for row in SOURCES.values() if not row.about.startswith("refused"))


def _as_named(spec: str, row: SourceKind, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with names as texts: a command line reads the name of column 0 as a number.

    Raises:
        BadInput: another type where a name is expected.
    """
    named = dict(options)
    for name, value in options.items():
        if inspect.signature(row.open).parameters[name].annotation is not str:
            continue
        if isinstance(value, bool | int | float):
            named[name] = str(value).lower() if isinstance(value, bool) else str(value)
        elif not isinstance(value, str):
            raise BadInput(f"images {spec}: option {name} {value!r}: a name expected")
    return named


def _ends(*suffixes: str) -> Callable[[str], bool]:
    return lambda spec: spec.lower().endswith(suffixes)


def _holds(*names: str) -> Callable[[str], bool]:
    """Whether the spec is a local folder with a file of one of these names."""

    def fits(spec: str) -> bool:
        path = local_path(spec)
        return path is not None and any((path / name).is_file() for name in names)

    return fits


def _is_folder(spec: str) -> bool:
    path = local_path(spec)
    return path is not None and path.is_dir()


def _is_remote_folder(spec: str) -> bool:
    # What answers by HTTP lists no folders.
    return "://" in spec and local_path(spec) is None and not spec.startswith(("http:", "https:"))


def _is_pickle(spec: str) -> bool:
    path = local_path(spec)
    if path is None:
        return False
    children = path.iterdir() if path.is_dir() else ()
    names = [path.name, *(child.name for child in children)]
    marks = ("data_batch", "test_batch", "batches.meta")
    return path.suffix in (".pkl", ".pickle") or any(name.startswith(marks) for name in names)


def _refuse_pickle(spec: str) -> ImageSource:
    raise BadInput(
        f"images {spec} are pickles, and reading a pickle runs the code in it: save the arrays as "
        ".npz (x_train, y_train, classes) and give that"
    )


SOURCES: Mapping[str, SourceKind] = {
    "pickle": SourceKind("refused: CIFAR-style pickles", _is_pickle, _refuse_pickle),
    "manifest": SourceKind(
        "a .csv or .parquet manifest (path, label), or .parquet with images in it, also by URL",
        _ends(".csv", ".parquet"),
        open_table,
    ),
    "arrays": SourceKind(
        "an .npz or .h5 file of uint8 arrays (x_test, y_test, classes)",
        _ends(".npz", ".h5", ".hdf5"),
        ArraySource,
    ),
    "tar": SourceKind(
        "WebDataset tar shards (name-{0000..0009}.tar, name-*.tar), also by URL",
        _ends(".tar"),
        TarSource,
    ),
    "saved": SourceKind(
        "a folder saved by Hugging Face datasets",
        _holds("dataset_info.json", "dataset_dict.json"),
        open_saved,
    ),
    "folder": SourceKind("a folder of class folders", _is_folder, FolderSource),
    "remote folder": SourceKind(
        "a folder of class folders by URL, such as s3://bucket/photos/",
        _is_remote_folder,
        RemoteFolderSource,
    ),
}
"""Kinds of image sets by name, in the order in which `open_source` asks them."""
