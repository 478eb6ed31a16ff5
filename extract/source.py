"""Where images come from: an ordered list of (path, label), and the bytes of each."""

import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from extract.errors import BadImage, BadInput

_PLAIN = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "ppm", "pgm")
SUFFIXES = frozenset(f".{name}" for name in (*_PLAIN, "tif", "tiff", "avif", "npy"))
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
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
        for entry in sorted(folder.iterdir(), key=lambda path: path.name):
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir():
                real = entry.resolve()
                # A link to a folder above would be walked for ever.
                if real not in above:
                    yield from self._walk(entry, label or name, f"{prefix}{name}/", above | {real})
            elif entry.suffix.lower() in SUFFIXES:
                yield Listed(prefix + name, label)

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        return read_local(self.root / path)


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
        spec: a folder of class folders; a .csv or .parquet manifest (path, label), also by URL; an
            .npz or .h5 file of arrays; .tar shards (WebDataset, ``name-{0000..0009}.tar``); a
            folder saved by Hugging Face `datasets`.
        options: of that kind, see `source_tables`, `source_arrays` and `source_tar`.

    Raises:
        BadInput: nothing there, a kind that is not read, or options that it does not take.
    """
    for row in KINDS:
        if row.fits(spec):
            try:
                return row.open(spec, **options)
            except TypeError as error:
                raise BadInput(f"images {spec}: {row.name} does not take {options}") from error
    kinds = "; ".join(row.name for row in KINDS if row.name)
    if "://" not in spec and not Path(spec).expanduser().exists():
        raise BadInput(f"images {spec} do not exist; give one of: {kinds}")
    raise BadInput(f"images {spec}: not a kind that is read; give one of: {kinds}")


@dataclass(frozen=True)
class SourceKind:
    """One kind of source: how to tell it, how to open it."""

    name: str
    fits: Callable[[str], bool]
    open: Callable[..., ImageSource]


def _is_folder(spec: str) -> bool:
    return "://" not in spec and Path(spec).expanduser().is_dir()


def _ends(*suffixes: str) -> Callable[[str], bool]:
    return lambda spec: spec.lower().endswith(suffixes)


def _is_pickle(spec: str) -> bool:
    path = Path(spec)
    names = [path.name] + ([child.name for child in path.iterdir()] if path.is_dir() else [])
    marks = ("data_batch", "test_batch", "batches.meta")
    return path.suffix in (".pkl", ".pickle") or any(name.startswith(marks) for name in names)


def _refuse_pickle(spec: str, **_options: Any) -> ImageSource:
    raise BadInput(
        f"images {spec} are pickles, and reading a pickle runs code that it contains: save the "
        "arrays as .npz (x_train, y_train, classes) and give that"
    )


def _folder(spec: str) -> ImageSource:
    return FolderSource(Path(spec))


KINDS: Sequence[SourceKind] = (
    SourceKind("", lambda spec: "://" not in spec and _is_pickle(spec), _refuse_pickle),
    SourceKind("folder of class folders", _is_folder, _folder),
)
