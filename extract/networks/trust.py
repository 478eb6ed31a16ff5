"""Whose code may run: a store names the file of its network, and a store may come from anywhere.

A network's file that the user names (`--network`, a settings file, `load_network`) is agreed to by
that. One that only a store names runs if it is the file that the store recorded, and if the user
agreed to it once: to its content, and to that of the modules beside it that it imports. Modules
that only show when they are imported, by a computed name or from a folder that the code adds, are
agreed to one by one, each before it runs. Agreements are kept per user, one small file each, in the
folder of `agreements()`.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path

from alike.extract.errors import BadInput
from alike.extract.networks.statements import import_statements

Ask = Callable[[str], bool]
"""Puts a question to the user; whether the answer is yes."""

_OURS = Path(__file__).resolve().parents[2]
_COVERED: ContextVar[frozenset[Path] | None] = ContextVar("covered", default=None)


def _nobody(_question: str) -> bool:
    return False


_ask: Ask = _nobody


def ask_by(ask: Ask) -> None:
    """Ask the user by this function about files that a store names; until then nobody is asked."""
    global _ask
    _ask = ask


def accept_any() -> None:
    """Agree to every file that a store names from now on, in this process: `--trust`."""
    ask_by(lambda _question: True)


@contextlib.contextmanager
def accepting(agreed: bool) -> Iterator[None]:
    """Agree to what a store names within this block only, as `trust=True` of a call does.

    Args:
        agreed: whether to agree; if not, it is asked as before.
    """
    before = _ask
    if agreed:
        accept_any()
    try:
        yield
    finally:
        ask_by(before)


def agreements() -> Path:
    """The folder with what the user agreed to; `XDG_CONFIG_HOME` names another place for it.

    One that is no absolute path counts as unset: a folder that is worked in must not agree.

    Raises:
        RuntimeError: the user has no home, and the variable is not set.
    """
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if given.is_absolute():
        base = given
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home())
    else:
        base = Path.home() / ".config"
    return base / "alike" / "trusted"


def code_hash_of(name: str) -> str:
    """SHA-256 of a network's own file and the modules beside it that it imports.

    Args:
        name: of a network; nothing is returned for one that is no file.
    """
    path = _file_of(name)
    if path is None or not path.is_file():
        return ""
    digest = hashlib.sha256()
    for file in _imported_beside(path):
        place = os.path.relpath(file, path.parent)
        digest.update(f"{'' if file == path else place}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def agree(name: str) -> None:
    """Keep that the user agreed to run a network's file; one that cannot be kept is asked again."""
    digest = code_hash_of(name)
    if digest and not _is_ours(name):
        _keep(digest, name)


def _keep(digest: str, name: str) -> None:
    # Who has no home is asked again.
    with contextlib.suppress(OSError, RuntimeError):
        place = agreements() / digest
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"{name}\n", encoding="utf-8", errors="replace")


def _is_kept(digest: str) -> bool:
    with contextlib.suppress(OSError, RuntimeError):
        return (agreements() / digest).exists()
    return False


@contextlib.contextmanager
def named_by_a_store(name: str) -> Iterator[None]:
    """Hold modules that are loaded within this block to what the user agreed to.

    Args:
        name: of the network, which `require_trust` let pass.
    """
    path = _file_of(name)
    files = _imported_beside(path) if path is not None and path.is_file() else []
    token = _COVERED.set(frozenset(files))
    try:
        yield
    finally:
        _COVERED.reset(token)


def covered_files() -> frozenset[Path] | None:
    """Files whose content `require_trust` compared; None if the user named the network."""
    return _COVERED.get()


def require_module_trust(file: Path, digest: str, covered: frozenset[Path] | None) -> None:
    """Refuse to run a module that shows only now and that the user did not agree to.

    Args:
        file: of the module.
        digest: SHA-256 of its content.
        covered: `covered_files` of when the network was loaded; None keeps the agreement.

    Raises:
        BadInput: the user did not agree to run it.
    """
    if covered is not None and file.resolve() not in covered and not _is_kept(digest):
        question = f"the store's network imports {file} (hash {digest[:8]}), which would be run"
        if not _ask(question):
            raise BadInput(_REFUSAL.format(question))
    if covered is None or file.resolve() not in covered:
        _keep(digest, str(file))


def require_trust(name: str, recorded: str = "") -> None:
    """Refuse to run a network's file that a store names and that the user did not agree to.

    Args:
        name: of the network, as the store gives it; one that is no file is no code.
        recorded: hash that the store recorded of the file; nothing in stores of earlier versions.

    Raises:
        BadInput: the file is not the recorded one, or the user did not agree to run it.
    """
    path = _file_of(name)
    # What is not there does not run: loading says that it is gone.
    if path is None or not path.is_file() or _is_ours(name):
        return
    digest = code_hash_of(name)
    if recorded and digest != recorded:
        raise BadInput(
            f"network file {path}, or a module beside it, has hash {digest[:8]}, the features were "
            f"made with {recorded[:8]}: bring the old file back, or extract again; it was not run"
        )
    if _is_kept(digest):
        return
    question = f"the store names the network file {path} (hash {digest[:8]}), which would be run"
    if not _ask(question):
        raise BadInput(_REFUSAL.format(question))
    agree(name)


_REFUSAL = (
    "{}, and you have not agreed to it: read it, then give --trust, or name the network by "
    "--network once"
)


def _file_of(name: str) -> Path | None:
    file, _, _ = name.rpartition(":")
    if ".py:" not in name:
        return None
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        return Path(file).expanduser().resolve()
    return None


def _is_ours(name: str) -> bool:
    """Say whether a file is of this very program, such as the demo's."""
    path = _file_of(name)
    return path is not None and path.is_relative_to(_OURS / "flows")


def _imported_beside(path: Path) -> list[Path]:
    """Give a file and all modules in its folder that it imports, itself first; not run, parsed."""
    files, todo = [path], [path]
    while todo:
        file = todo.pop()
        for near in sorted(_named_in(file, path.parent)):
            if near not in files:
                files.append(near)
                todo.append(near)
    return files[:1] + sorted(files[1:])


def _named_in(file: Path, top: Path) -> Iterator[Path]:
    for level, parts in import_statements(file):
        base = file.parents[level - 1] if 0 < level <= len(file.parents) else top
        yield from _modules(base, parts)


def _modules(base: Path, parts: list[str]) -> Iterator[Path]:
    """Give the files of a dotted name: packages on the way are run as well."""
    at = base
    for part in parts:
        at = at / part
        for ending in (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES):
            for file in (at.with_name(f"{at.name}{ending}"), at / f"__init__{ending}"):
                with contextlib.suppress(OSError):
                    if file.is_file():
                        yield file.resolve()
