"""Who works on what: a lock is a file that names its holder's host and process.

A holder on this host is dead when its process is gone (the start time tells a reused number from
the same process); one on another host when its file was not touched for two minutes, by the
clock of the storage itself. A dead holder's lock is taken over.
"""

import json
import os
import socket
import threading
import time
import uuid
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from alike.extract.documents import read_json
from alike.extract.errors import BadInput, StoreBusy, StoreDamaged
from alike.extract.store.files import Files

BEAT = 15.0
"""Seconds between two signs of life."""
SILENCE = 120.0
"""Seconds without one after which a holder on another host counts as dead."""
_POLL = 0.2
_SAME_START = 2.5
"""Seconds by which two readings of one process's start may differ: boot time is rounded."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        host: name of its machine.
        pid: its process number there.
        boot: tells the machine's run from any other, if the system gives it.
        started: when that process began, seconds since the boot: setting the clock moves it not.
        token: tells this lock from any other.
        since: when the lock was taken, seconds since 1970.
    """

    host: str
    pid: int
    boot: str
    started: float
    token: str
    since: float

    @staticmethod
    def me() -> "Holder":
        """Describe this process, for one more lock."""
        pid = os.getpid()
        return Holder(
            socket.gethostname(), pid, _boot(), _started(pid), uuid.uuid4().hex, time.time()
        )

    def alive_here(self) -> bool:
        """Say whether the process still runs, for a holder on this host."""
        try:
            return self.boot == _boot() and abs(_started(self.pid) - self.started) < _SAME_START
        # A number that no process can have raises OverflowError or ValueError.
        except (psutil.NoSuchProcess, OverflowError, ValueError):
            return False
        except psutil.AccessDenied:
            return True


_NOBODY = Holder("an unknown host (its lock cannot be read)", 0, "", 0.0, "", 0.0)


def _boot() -> str:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.is_file() else ""


def _started(pid: int) -> float:
    return float(psutil.Process(pid).create_time()) - float(psutil.boot_time())


def holder_of(files: Files, name: str) -> Holder | None:
    """Read who holds a lock, None if nobody does."""
    try:
        return read_json(files.read(name), Holder, name, "delete it if nobody extracts")
    except FileNotFoundError:
        return None
    except StoreDamaged:
        # What a power cut may leave: it counts as silent, so that it is taken over in time.
        return _NOBODY


def is_dead(files: Files, name: str, holder: Holder) -> bool:
    """Say whether the holder can no longer be working."""
    if holder.host == socket.gethostname():
        return not holder.alive_here()
    age = files.age(name)
    return age is not None and age > SILENCE


class Lock:
    """One lock, for `with`; `StoreBusy` if a living process holds it.

    Args:
        files: the store's files.
        name: the lock's file.
        what: what it protects, for the message.
        wait: seconds to wait for its holder before giving up.
    """

    def __init__(self, files: Files, name: str, what: str, wait: float = 0.0) -> None:
        self._files = files
        self._name = name
        self._what = what
        self._wait = wait
        self._me: Holder | None = None
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        """Take the lock, from a dead holder too."""
        me = Holder.me()
        until = time.monotonic() + self._wait
        while not self._files.create(self._name, json.dumps(asdict(me)).encode(), durable=False):
            holder = holder_of(self._files, self._name)
            if holder is None:
                continue
            if is_dead(self._files, self._name, holder):
                self._evict(holder)
            elif time.monotonic() >= until:
                raise StoreBusy(
                    f"{self._what} in {self._files.url} is held by process {holder.pid} on "
                    f"{holder.host}; wait for it to end, or stop it and try again"
                )
            else:
                time.sleep(_POLL)
        self._me = me
        self._stop.clear()
        threading.Thread(target=self._beat, name=f"lock {self._what}", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Give the lock back, unless another process took it over meanwhile."""
        self._stop.set()
        holder = holder_of(self._files, self._name)
        if self._me is not None and holder is not None and holder.token == self._me.token:
            self._files.remove(self._name)
        self._me = None

    def check(self) -> None:
        """Raise `StoreBusy` if the lock is no longer this one's."""
        holder = holder_of(self._files, self._name)
        if self._me is None or holder is None or holder.token != self._me.token:
            who = f"process {holder.pid} on {holder.host}" if holder else "nobody"
            raise StoreBusy(f"{self._what} was taken over by {who}; this run must stop")

    def _evict(self, dead: Holder) -> None:
        # Two that saw the same dead holder must not remove each other's new lock.
        with _guard(self._files):
            holder = holder_of(self._files, self._name)
            if holder is not None and holder.token == dead.token:
                self._files.remove(self._name)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                self._files.touch(self._name)
            except FileNotFoundError:
                return
            except OSError:
                # One missed sign of life is no death: eight in a row are.
                continue


def _guard(files: Files) -> Any:
    """Give a lock of the operating system on a local store; remote ones rely on tokens alone."""
    if files.root is None:
        return nullcontext()
    from filelock import FileLock

    (files.root / "locks").mkdir(exist_ok=True)
    return FileLock(files.root / "locks" / ".guard")


def require_writable(files: Files) -> None:
    """Raise `BadInput` if a local store's folder cannot be written."""
    if files.root is not None and files.root.exists() and not os.access(files.root, os.W_OK):
        raise BadInput(f"{files.url} cannot be written; copy it or ask for the permission")
