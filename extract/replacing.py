"""Write a file or folder aside, so that one that fails leaves what was there before."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A path beside the target that takes its place if the block ends well, and goes if not.

    Args:
        target: a file or a folder; the folder that holds it exists.
    """
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    part = folder / target.name
    try:
        yield part
        if target.is_dir() and not target.is_symlink():
            # A folder cannot be replaced in one step; the old one goes only now.
            target.rename(folder / "old")
        part.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
