"""Places that a user names on the command line or in settings, and where copies are kept."""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from alike.extract.errors import BadInput

KEPT_DAYS = 90
"""Days after its last use for which a file of the cache is kept."""
_OURS = re.compile(r"[0-9a-f]{32}|\.[0-9a-f]{32}\..*")
"""A file that is named by a hash, and the folder in which it is written."""


def expanded(place: str | Path) -> Path:
    """A path with `~` and `~user` replaced by the home folder.

    Raises:
        BadInput: there is no such user, or the user has no home.

    Example:
        >>> expanded("data/images").as_posix()
        'data/images'
    """
    path = Path(place)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise BadInput(f"{path}: no such user's home; write the path out") from error


def cache_folder() -> Path:
    """The user's folder for what can be made again; `XDG_CACHE_HOME` names another base.

    A base that is no absolute path counts as unset, as the XDG specification has it: it would be
    another folder wherever a command is started.

    Raises:
        BadInput: the user has no home, and the variable is not set.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "alike"
    except RuntimeError as error:
        raise BadInput("the user has no home folder: name one by XDG_CACHE_HOME") from error


def copies_folder(store: str) -> Path:
    """Where copies of the indexes of a remote store, named by its place, lie on this machine."""
    return cache_folder() / "stores" / hashlib.sha256(store.encode()).hexdigest()[:16]


def touch(path: Path) -> None:
    """Note that something of the cache is used now, if it may be written."""
    with suppress(OSError):
        os.utime(path)


def unused(paths: Iterable[Path]) -> Iterator[Path]:
    """Those that were neither written nor touched for `KEPT_DAYS`."""
    oldest = time.time() - KEPT_DAYS * 86400
    for path in paths:
        # Another process may delete it first.
        with suppress(OSError):
            if path.lstat().st_mtime < oldest:
                yield path


def delete_unused(folder: Path) -> None:
    """Delete what of a folder of the cache nobody used for `KEPT_DAYS`.

    What killed writers left goes too. What another than us put there stays.

    Args:
        folder: of files that are touched when they are read. Their names are digits of a hash.
    """
    with suppress(OSError):
        for path in unused(folder.iterdir()):
            if not _OURS.fullmatch(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
