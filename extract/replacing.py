"""Write a file or folder aside, so that one that fails leaves what was there before."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from alike.extract.errors import AlikeError, BadInput, StoreFull

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_STEM = 100
"""Bytes of a name that begin that of the folder beside it."""
HTML = (".html", ".htm")
"""Endings of a page."""


def check_target(
    target: str | Path, *, folder: bool = False, endings: Collection[str] = ()
) -> None:
    """Refuse a place where nothing can be written, before anything is computed for it.

    Args:
        target: a file that is to be written; folders above it need not be there.
        folder: it is to be a folder of files instead.
        endings: that name the format which is written, in small letters; none for any.

    Raises:
        BadInput: it has another ending, is of the other kind, a device or a pipe, or lies where
            one may not write.
    """
    if not str(target).strip():
        raise BadInput(f"an empty name: name a {'folder' if folder else 'file'} to write")
    if _URL.match(str(target)):
        raise BadInput(
            f"{target} is a URL: name a {'folder' if folder else 'file'} on this machine"
        )
    target = Path(target)
    if target.is_dir() and not folder:
        raise BadInput(f"{target} is a folder: name a file in it")
    if target.exists() and not (target.is_dir() if folder else target.is_file()):
        kind = "no folder" if folder else "no plain file"
        raise BadInput(f"{target} is {kind}: name another place")
    above = next(one for one in (target.absolute(), *target.absolute().parents) if _is_there(one))
    if not above.exists() and (folder or above != target.absolute()):
        raise BadInput(
            f"{above} is a link to nothing, so {target} cannot be written: mend the link"
        )
    if above.is_file() and above != target.absolute():
        raise BadInput(f"{above} is a file, so {target} cannot be written: name another place")
    _check_writable(above if above.is_dir() else above.parent)
    if endings and target.suffix.lower() not in endings:
        raise BadInput(
            f"{target} is written as {' or '.join(endings)}: give it a name that ends so"
        )


def _is_there(place: Path) -> bool:
    return place.exists() or place.is_symlink()


def _check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be made.

    The permission alone does not tell: the system's own folders have it, and hold nothing of ours.
    """
    reason = os.strerror(errno.EACCES)
    if os.access(folder, os.W_OK | os.X_OK):
        try:
            Path(tempfile.mkdtemp(dir=folder, prefix=".alike.")).rmdir()
            return
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise
            reason = error.strerror or str(error)
    raise BadInput(
        f"{folder} cannot be written ({reason}): ask for the permission, or name another place"
    )


def refusal(named: str, error: OSError) -> AlikeError:
    """Why a folder that was named cannot be made or written: no room there, or a wrong place.

    Args:
        named: the folder, with the setting that names it.
        error: of the system.
    """
    if error.errno in _NO_ROOM:
        return StoreFull(
            f"{named} has no room for more ({error.strerror}): make room there, then run the same "
            "command again, or name another place"
        )
    return BadInput(
        f"{named} cannot be written ({error.strerror}): ask for the permission, or name another "
        "place"
    )


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A path beside the target that takes its place if the block ends well, and goes if not.

    Args:
        target: a file or a folder; the folder that holds it is made.

    Raises:
        OSError: a disk without room, with the name of the target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # With all of a long name it would be longer than the system takes.
    start = target.name.encode()[:_STEM].decode(errors="ignore")
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{start}."))
    part = folder / target.name
    try:
        yield part
        if target.is_dir() and not target.is_symlink():
            # A folder cannot be replaced in one step; the old one goes only now.
            target.rename(folder / "old")
        part.replace(target)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        # A library says it in its own words, of a file that is gone already.
        raise OSError(error.errno, os.strerror(error.errno), str(target)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
