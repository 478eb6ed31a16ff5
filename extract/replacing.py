"""Write a file or folder aside, so that one that fails leaves what was there before."""

import errno
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from alike.extract.errors import BadInput

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
    target = Path(target)
    if target.is_dir() and not folder:
        raise BadInput(f"{target} is a folder: name a file in it")
    if target.exists() and not (target.is_dir() if folder else target.is_file()):
        kind = "no folder" if folder else "no plain file"
        raise BadInput(f"{target} is {kind}: name another place")
    above = next(one for one in (target.absolute(), *target.absolute().parents) if one.exists())
    if above.is_file() and above != target.absolute():
        raise BadInput(f"{above} is a file, so {target} cannot be written: name another place")
    held_by = above.parent if above.is_file() else above
    if not os.access(held_by, os.W_OK | os.X_OK):
        raise BadInput(
            f"{held_by} cannot be written: ask for the permission, or name another place"
        )
    if endings and target.suffix.lower() not in endings:
        raise BadInput(
            f"{target} is written as {' or '.join(endings)}: give it a name that ends so"
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
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
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
