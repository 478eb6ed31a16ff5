"""Where images come from: an ordered list of (path, label), and the bytes of each."""

import glob
import inspect
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from extract.errors import BadImage, BadInput

_PLAIN = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "ppm", "pgm")
SUFFIXES = frozenset(f".{name}" for name in (*_PLAIN, "tif", "tiff", "avif", "npy"))
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Listed:
    """One image as its source lists it.

    Attributes:
        path: what `ImageSource.read` takes; ``/`` separates its parts.
        label: name of its class, None where there is none.
    """

    path: str
    label: str | None


class ImageSource(Protocol):
    """A set of images, in an order that is the same every time.

    Attributes:
        spec: what `open_source` opens again, absolute.
        options: keyword arguments that belong to it.
    """

    spec: str
    options: dict[str, Any]

    def __iter__(self) -> Iterator[Listed]:
        """All images, bad ones too: whether one can be read is found when it is read."""

    def read(self, path: str) -> bytes:
        """The file's bytes, or for arrays the image in .npy form; safe to call from threads.

        Raises:
            BadImage: it cannot be read, or is larger than `MAX_BYTES`.
        """


class FolderSource:
    """A folder of class folders: the label is the first folder's name, None for loose files.

    Hidden files and files without an image's suffix are left out. Symbolic links are followed.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.spec = str(self.root)
        self.options: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Listed]:
        """In order of names, folder by folder."""
        yield from self._walk(self.root, None, "", frozenset({self.root}))

    def _walk(
        self, folder: Path, label: str | None, prefix: str, above: frozenset[Path]
    ) -> Iterator[Listed]:
        # Entries know whether they are folders; asking every file costs as much as hashing it.
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            raise BadInput(
                f"folder {folder} cannot be listed ({error.strerror}): ask for the permission, or "
                "move it out of the set"
            ) from error
        for name, is_folder in found:
            if name.startswith("."):
                continue
            if is_folder:
                real = (folder / name).resolve()
                # A link to a folder above would be walked for ever.
                if real not in above:
                    inside = folder / name
                    within, shown = label or _shown(name), f"{prefix}{_shown(name)}/"
                    yield from self._walk(inside, within, shown, above | {real})
            elif "." + name.rpartition(".")[2].lower() in SUFFIXES:
                yield Listed(prefix + _shown(name), label)

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        file = self.root / path
        if "\\x" in path and not file.exists():
            file = self.root / _hidden(path)
        return read_local(file)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    # A link to itself: as a file it becomes a bad image with this reason.
    except OSError:
        return False


def _shown(name: str) -> str:
    r"""A file's name as text: bytes that are not UTF-8 become ``\xe9``."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _hidden(path: str) -> str:
    """The name that `_shown` gave for."""
    return os.fsdecode(
        re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), os.fsencode(path))
    )


def read_local(file: Path) -> bytes:
    """Bytes of a local file; a pipe or device is refused, it could block for ever.

    Raises:
        BadImage: not there, not a regular file, or larger than `MAX_BYTES`.
    """
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BadImage("unreadable", "not a regular file")
        check_bytes(found.st_size)
        return file.read_bytes()
    except OSError as error:
        raise BadImage("unreadable", error.strerror or str(error)) from error


def check_bytes(size: int) -> None:
    """Refuse a file that is larger than `MAX_BYTES`, before it is read.

    Raises:
        BadImage: state ``too large``.
    """
    if size > MAX_BYTES:
        raise BadImage("too large", f"{size} bytes, at most {MAX_BYTES} are read")


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
    from extract.source_tar import TarSource

    return TarSource(spec)


def _arrays(
    spec: str, split: str = "", images: str = "", labels: str = "", classes: str = ""
) -> ImageSource:
    from extract.source_arrays import ArraySource

    return ArraySource(spec, split=split, images=images, labels=labels, classes=classes)


def _manifest(
    spec: str, path: str = "path", label: str = "label", root: str = "", image: str = "image"
) -> ImageSource:
    from extract.source_tables import open_table

    return open_table(spec, path=path, label=label, root=root, image=image)


def _saved(spec: str, split: str = "", image: str = "image", label: str = "label") -> ImageSource:
    from extract.source_saved import open_saved

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
