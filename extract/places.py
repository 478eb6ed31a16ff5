"""Places that a user names on the command line or in settings, and where copies are kept."""

import hashlib
import os
from pathlib import Path

from alike.extract.errors import BadInput


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

    Raises:
        BadInput: the user has no home, and the variable is not set.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "alike"
    except RuntimeError as error:
        raise BadInput("the user has no home folder: name one by XDG_CACHE_HOME") from error


def copies_folder(store: str) -> Path:
    """Where copies of the indexes of a remote store, named by its place, lie on this machine."""
    return cache_folder() / "stores" / hashlib.sha256(store.encode()).hexdigest()[:16]
