"""The user's network file and the modules beside it, loaded as a package of their own.

A file ``nets.py`` with ``import models`` means the ``models.py`` beside it. With its folder on
`sys.path` that fails in three ways: a `models` that another project loaded earlier in the process
is taken, a module of ours with that name is taken, and the folder stays visible to everybody else.
So each file gets a package with a name that nobody else has, below this module, and its modules are
compiled with an ``__import__`` that looks into that package first. Because the function belongs to
the code and not to the moment, an import that runs later, in the factory or in a forward pass,
finds the same modules. The package's name holds the file's path, so that a process which unpickles
an object of such a class finds the code, too.
"""

import builtins
import hashlib
import importlib
import os
import re
import site
import sys
import sysconfig
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from alike.extract.identity import file_hash
from alike.extract.networks.reading import reading
from alike.extract.networks.statements import import_statements
from alike.extract.networks.trust import covered_files, require_module_trust

__path__: list[str] = []
"""Makes a package of this module: the user's packages are its submodules."""

_OURS = Path(__file__).resolve().parents[2]
_INSTALLED = tuple(
    {
        Path(place).resolve()
        for place in (
            *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib")),
            *(sysconfig.get_paths()[name] for name in ("platlib",)),
            *site.getsitepackages(),
            site.getusersitepackages(),
        )
    }
)
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}
"""Names of the folders of packages: PYTHONPATH or a .pth file may add those of any environment."""
_LOCK = threading.RLock()
_IMPORTED: ContextVar[set[str] | None] = ContextVar("imported", default=None)
"""Names of the modules that the running load or factory imported."""


@dataclass(frozen=True)
class Uses:
    """What code imported and read.

    Attributes:
        imported: names of modules.
        read: absolute names of files that are no code.
    """

    imported: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)

    def __or__(self, other: "Uses") -> "Uses":
        """What either uses."""
        return Uses(self.imported | other.imported, self.read | other.read)


class UserCode:
    """One network file with the modules that it imports from its own folder.

    Attributes:
        file: the network file.
        package: dotted name of the private package.
        roots: folders that siblings are looked for in: the file's own, and those that the user's
            code put on `sys.path`.
        hashes: file to SHA-256 (hex) of what was executed, or is to be when it is imported.
        module: the executed file.
        uses: what executing it imported and read.
        covered: files that may run if only a store named the file; None if the user did.
    """

    module: ModuleType

    def __init__(self, file: Path, package: str) -> None:
        self.file = file
        self.package = package
        self.roots = [str(file.parent)]
        self.hashes: dict[str, str] = {}
        self.uses = Uses()
        self.started = False
        self.covered = covered_files()
        self._sys_path: list[str] | None = None
        self._siblings: dict[str, bool] = {}
        self._importlib = _Importlib(self)
        self._builtins = {**vars(builtins), "__import__": self._import}

    @property
    def entry(self) -> str:
        """Full name of the network file's module."""
        stem = self.file.stem
        return f"{self.package}.{stem if stem.isidentifier() else '_file'}"

    def load(self) -> None:
        """Execute the network file; once."""
        if self.started:
            return
        self.started = True
        with self.using() as uses:
            try:
                self.module = importlib.import_module(self.entry)
            except (Exception, SystemExit) as error:
                error.add_note(self.shadows())
                raise
        self.uses = uses

    @contextmanager
    def using(self) -> Iterator["Uses"]:
        """Collect what is imported and read meanwhile, and leave `sys.path` as it was."""
        imported: set[str] = set()
        with _LOCK, reading() as read:
            token = _IMPORTED.set(imported)
            outer, self._sys_path = self._sys_path, list(sys.path)
            try:
                yield Uses(imported, read)
            finally:
                self._adopt_folders()
                self._sys_path = outer
                _IMPORTED.reset(token)

    def _adopt_folders(self) -> None:
        """Make folders that the user's code put on `sys.path` roots of this package alone."""
        if self._sys_path is None:
            return
        places = [place for place in sys.path if place not in self._sys_path]
        for place in places:
            folder = Path(place or ".").resolve()
            if is_installed(folder):
                # Packages such as setuptools put folders of their own there, for everybody.
                continue
            sys.path.remove(place)
            if folder != _OURS and str(folder) not in self.roots:
                self.roots.append(str(folder))
                self._siblings.clear()

    def has(self, name: str) -> bool:
        """Whether a top-level name is a module of the user's folders."""
        if name not in self._siblings:
            self._siblings[name] = self._is_sibling(name)
        return self._siblings[name]

    def _is_sibling(self, name: str) -> bool:
        if name in sys.builtin_module_names:
            return False
        if f"{self.package}.{name}" == self.entry:
            return True
        spec = find_file(f"{self.package}.{name}", self.roots)
        # As everywhere in Python: a folder without __init__.py comes after real modules.
        return spec is not None and (spec.loader is not None or _ordinary_spec(name) is None)

    def _import(
        self,
        name: str,
        scope: Mapping[str, Any] | None = None,
        local: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """``__import__`` of the user's modules."""
        self._adopt_folders()
        if level:
            return builtins.__import__(name, scope, local, fromlist or (), level)
        top = name.partition(".")[0]
        self._note(name)
        if self.has(top):
            private = f"{self.package}.{name}"
            if fromlist:
                return builtins.__import__(private, scope, local, fromlist, 0)
            importlib.import_module(private)
            return sys.modules[f"{self.package}.{top}"]
        _refuse_ours(top)
        module = builtins.__import__(name, scope, local, fromlist or (), 0)
        return self._importlib if module is importlib else module

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """`importlib.import_module` for the user's modules."""
        self._adopt_folders()
        if name.startswith("."):
            return importlib.import_module(name, package)
        self._note(name)
        top = name.partition(".")[0]
        if self.has(top):
            return importlib.import_module(f"{self.package}.{name}")
        _refuse_ours(top)
        return importlib.import_module(name)

    def _note(self, name: str) -> None:
        imported = _IMPORTED.get()
        if imported is not None:
            imported.add(name)

    def spec(self, name: str, path: Sequence[str]) -> ModuleSpec | None:
        """Where a module of this package is, by its full name."""
        if name == self.entry:
            spec = spec_from_file_location(
                name, self.file, loader=_SourceLoader(name, str(self.file))
            )
        else:
            spec = find_file(name, path)
            if spec is None and not self.started:
                # In a process that unpickles, before the file told which folders it needs.
                self.load()
                spec = find_file(name, self.roots if name.count(".") == _DEPTH else path)
        if spec is not None and isinstance(spec.loader, _SourceLoader):
            spec.loader.code = self
        elif spec is not None and isinstance(spec.loader, ExtensionFileLoader):
            file = Path(spec.loader.path)
            require_module_trust(file, _hash_of(file), self.covered)
        return spec

    def run(self, loader: "_SourceLoader", module: ModuleType) -> None:
        """Execute a module's source with this package's imports, and remember its hash."""
        data = loader.get_data(loader.path)
        text = hashlib.sha256(data).hexdigest()
        if self.hashes.setdefault(loader.path, text) != text:
            raise ImportError(
                f"{loader.path} changed after the network was loaded: start again",
                name=module.__name__,
                path=loader.path,
            )
        require_module_trust(Path(loader.path), text, self.covered)
        vars(module)["__builtins__"] = self._builtins
        exec(loader.source_to_code(data, loader.path), vars(module))

    def unchanged(self) -> bool:
        """Whether every file that was executed, or is to be, is still the same."""
        try:
            return all(_hash_of(Path(file)) == digest for file, digest in self.hashes.items())
        except OSError:
            return False

    def files(self, imported: Iterable[str] = ()) -> tuple[dict[str, Path], set[str]]:
        """Modules of the user that a network can reach, and packages that it imports.

        Imports are read from the source, so that one inside a function counts before it ran; those
        that only ran (`importlib.import_module`) are told.

        Args:
            imported: names imported by the load and by the factory.

        Returns:
            Module name to file, without the network file itself; top-level names of other packages.
        """
        files: dict[str, Path] = {}
        outside: set[str] = set()
        entry = self.entry.removeprefix(f"{self.package}.")
        waiting = [*sorted(imported), entry]
        visited: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in visited:
                continue
            visited.add(name)
            top = name.partition(".")[0]
            if not self.has(top):
                outside.add(top)
                continue
            for part, file in self._chain(name):
                if part not in files:
                    files[part] = file
                    waiting += _imports_of(part, file)
        files.pop(entry, None)
        return files, outside

    def modules(self, uses: "Uses") -> tuple[tuple[str, ...], str, dict[str, str]]:
        """Names of the user's modules, their hash, and versions of installed packages.

        A package that is imported the ordinary way without being installed (found by PYTHONPATH, or
        installed for editing) counts with all its source files. Files beside the modules that the
        factory read count as they are.

        Args:
            uses: what the load and the factory imported and read.

        Returns:
            Sorted names; SHA-256 (hex) of names and texts, "" if there are none; versions.
        """
        files, outside = self.files(uses.imported)
        hashes = {name: self._expected(file) for name, file in files.items()}
        data = self.data(uses.read)
        hashes |= {name: file_hash(file) for name, file in data.items()}
        for top in outside:
            for name, file in _editable_files(top).items():
                hashes[name] = _EDITABLE.setdefault(file, _hash_of(file))
        text = "\n".join(f"{name} {digest}" for name, digest in sorted(hashes.items()))
        hashed = hashlib.sha256(text.encode()).hexdigest() if hashes else ""
        return (*sorted(files), *sorted(data)), hashed, versions_of(outside)

    def data(self, read: Iterable[str]) -> dict[str, Path]:
        """Those of the files that were read that lie in the user's folders, by their places there.

        Hidden folders hold caches of packages, not the user's files.
        """
        inside: dict[str, Path] = {}
        for name in read:
            for root in self.roots:
                place = Path(name)
                parts = place.relative_to(root).parts if place.is_relative_to(root) else (".",)
                hidden = any(part.startswith(".") for part in parts)
                if not hidden and not is_installed(place) and place.is_file():
                    inside.setdefault("/".join(parts), place)
        return inside

    def _expected(self, file: Path) -> str:
        return self.hashes.setdefault(str(file), _hash_of(file))

    def _chain(self, name: str) -> Iterator[tuple[str, Path]]:
        """The files of ``a``, ``a.b``, ``a.b.c`` as far as they exist."""
        path: Sequence[str] = self.roots
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            part = ".".join(parts[:count])
            if f"{self.package}.{part}" == self.entry:
                yield part, self.file
                return
            spec = find_file(part, path)
            if spec is None:
                return
            if spec.loader is not None and spec.origin is not None:
                yield part, Path(spec.origin)
            path = spec.submodule_search_locations or []

    def shadows(self) -> str:
        """A hint if modules beside the file bear the name of an installed package, else ""."""
        names = {
            Path(file).relative_to(root).parts[0].removesuffix(".py")
            for root in self.roots
            for file in self.hashes
            if Path(file).is_relative_to(root) and Path(file) != self.file
        }
        hidden = sorted(name for name in names if _ordinary_spec(name) is not None)
        if not hidden:
            return ""
        shown = ", ".join(f"{name}.py" for name in hidden)
        return (
            f"; {shown} in {self.roots[0]} hides the installed module of that name from the "
            "network file: rename it if the installed one is wanted"
        )


class _Importlib(ModuleType):
    """`importlib` as the user's modules see it: `import_module` finds their siblings."""

    def __init__(self, code: UserCode) -> None:
        super().__init__("importlib", importlib.__doc__)
        self.import_module = code.import_module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)


class _SourceLoader(SourceFileLoader):
    """Compiles what the file holds now.

    A compiled file in ``__pycache__`` counts as fresh for a whole second and the same size: `relu`
    changed to `gelu` would go unnoticed.
    """

    code: UserCode

    def exec_module(self, module: ModuleType) -> None:
        """Execute the source."""
        self.code.run(self, module)

    def get_code(self, fullname: str) -> CodeType:
        """The code, never from ``__pycache__``."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


_LOADERS: dict[str, type[SourceFileLoader] | type[ExtensionFileLoader]] = {
    **dict.fromkeys(EXTENSION_SUFFIXES, ExtensionFileLoader),
    **dict.fromkeys(SOURCE_SUFFIXES, _SourceLoader),
}


class _PackageLoader(Loader):
    """Makes the private package itself, which has no code."""

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to execute."""


class _Finder(MetaPathFinder):
    """Finds the private packages and their modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(f"{__name__}."):
            return None
        package = ".".join(name.split(".")[:_DEPTH])
        code = _CODES.get(package) or _decoded(package)
        if code is None:
            return None
        if name != package:
            return code.spec(name, path or ())
        spec = ModuleSpec(name, _PackageLoader(), is_package=True)
        # The list itself: a folder that is added later is seen.
        spec.submodule_search_locations = code.roots
        return spec


_PRIVATE = re.compile(re.escape(__name__) + r"\.p[0-9a-f]{8}_[0-9a-f]+\.?")
_DEPTH = __name__.count(".") + 2
_CODES: dict[str, UserCode] = {}
_LATEST: dict[Path, UserCode] = {}
_EDITABLE: dict[Path, str] = {}
"""Hash of each module that is not private, when it was first met: a process runs what it loaded."""

sys.meta_path.insert(0, _Finder())


def load_user_file(file: Path) -> UserCode:
    """The code of a network file; executed again only if it or a module that it loaded changed.

    Args:
        file: absolute path.

    Raises:
        Exception: whatever the user's code raises.
    """
    with _LOCK:
        code = _LATEST.get(file)
        if code is None or not code.unchanged():
            code = _new(file)
        if covered_files() is None:
            # The user named it, whoever did before.
            code.covered = None
        code.load()
        _LATEST[file] = code
        return code


def _new(file: Path) -> UserCode:
    package = f"{__name__}.p{uuid.uuid4().hex[:8]}_{os.fsencode(file).hex()}"
    _CODES[package] = UserCode(file, package)
    return _CODES[package]


def plain_names(text: str) -> str:
    """A message with the user's own names of modules, without those of private packages."""
    return _PRIVATE.sub("", text)


def _decoded(package: str) -> UserCode | None:
    """The code of a package that another process named."""
    try:
        file = Path(os.fsdecode(bytes.fromhex(package.rpartition("_")[2])))
    except ValueError:
        return None
    if not file.is_file():
        raise ModuleNotFoundError(f"the network file {file} is gone", name=package)
    return _CODES.setdefault(package, UserCode(file, package))


def find_file(name: str, folders: Sequence[str]) -> ModuleSpec | None:
    """Where the module with the last part of `name` lies in some folders, as Python looks for it.

    By asking for its few possible names: Python's own finder lists the folder, in which a hundred
    thousand images may lie.
    """
    portions = []
    for folder in folders:
        base = os.path.join(folder, name.rpartition(".")[2])  # noqa: PTH118
        for place, inside in ((os.path.join(base, "__init__"), [base]), (base, None)):  # noqa: PTH118
            for suffix, loader in _LOADERS.items():
                if Path(place + suffix).is_file():
                    return spec_from_file_location(
                        name,
                        place + suffix,
                        loader=loader(name, place + suffix),
                        submodule_search_locations=inside,
                    )
        if Path(base).is_dir():
            portions.append(base)
    if not portions:
        return None
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def _imports_of(name: str, file: Path) -> Iterator[str]:
    """Names that a file's import statements may load, as absolute names in its package."""
    package = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    for level, parts in import_statements(file):
        above = package[: len(package) + 1 - level] if level else []
        if above or parts:
            yield ".".join([*above, *parts])


def versions_of(outside: Iterable[str]) -> dict[str, str]:
    """Versions of the installed packages among some top-level names."""
    versions = {}
    for top in sorted(outside):
        if top in sys.stdlib_module_names:
            continue
        try:
            versions[top] = version(top)
        except (PackageNotFoundError, ValueError):
            text = getattr(sys.modules.get(top), "__version__", None)
            if isinstance(text, str):
                versions[top] = text
    return versions


def _editable_files(top: str) -> dict[str, Path]:
    """Source files of a package that is not installed, by the names that they count under."""
    if top == "alike" or top in sys.stdlib_module_names:
        return {}
    origin = _origin(top)
    if not origin.is_file() or is_installed(origin) or origin.is_relative_to(_OURS):
        return {}
    folder = origin.parent
    home = folder.parent if origin.stem == "__init__" else folder
    if any(home.glob("*.dist-info")):
        # What `pip install --target` made: an installer's folder under a name of the user's.
        return {}
    if home == folder:
        return {origin.name: origin}
    return {f.relative_to(folder.parent).as_posix(): f for f in sorted(folder.rglob("*.py"))}


def _origin(top: str) -> Path:
    spec = _ordinary_spec(top)
    place = Path(spec.origin or "") if spec is not None else Path()
    # Of the file itself no link is followed: some installers link every file to a store of theirs.
    return place.parent.resolve() / place.name


def _ordinary_spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ImportError, ValueError):
        return None


def _refuse_ours(top: str) -> None:
    """Our folders are importable by their bare names in a checkout; no user means them."""
    if top != "alike" and (_OURS / top).is_dir() and _origin(top).is_relative_to(_OURS / top):
        raise ModuleNotFoundError(f"No module named {top!r}", name=top)


def is_installed(place: Path) -> bool:
    """Whether an installer put a file there: in a folder of this Python or of another environment.

    Args:
        place: absolute, links resolved.
    """
    if not _PACKAGE_FOLDERS.isdisjoint(place.parts):
        return True
    return any(place.is_relative_to(folder) for folder in _INSTALLED)


def _hash_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
