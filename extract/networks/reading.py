"""Files that the user's code reads while it is loaded or builds a network.

A factory may take its strides from a `config.json` beside it, or its first weights from a file:
what they hold is part of the network as much as its code is. Python tells its audit hooks of every
file that it opens (PEP 578), but not of those that a library opens by itself, as safetensors does.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.machinery import all_suffixes
from typing import Any

_READ: ContextVar[set[str] | None] = ContextVar("read", default=None)
_EVERY: set[str] = set()
_CODE = tuple(all_suffixes())
_NO_FILES = ("/proc/", "/sys/", "/dev/")
_WRITING = os.O_WRONLY | os.O_RDWR
_hooked = False


@contextmanager
def reading() -> Iterator[set[str]]:
    """Collect the files that are opened to be read meanwhile, in this thread: absolute names.

    Files of code are left out.
    """
    global _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    files: set[str] = set()
    token = _READ.set(files)
    try:
        yield files
    finally:
        _READ.reset(token)
        _EVERY.update(files)
        outer = _READ.get()
        if outer is not None:
            outer.update(files)


def every_file_read() -> list[str]:
    """All files that were collected in this process."""
    return sorted(_EVERY)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    """Note a file; whatever is raised here would be raised where the file is opened."""
    files = _READ.get() if event == "open" else None
    if files is None:
        return
    with suppress(OSError, TypeError, ValueError):
        place, _mode, flags = args
        name = os.path.abspath(os.fsdecode(place))  # noqa: PTH100
        if not flags & _WRITING and not name.endswith(_CODE) and not name.startswith(_NO_FILES):
            files.add(name)
