"""Whether a store is still there, and the same: nothing is answered from, or written to, another.

A store is told from another by the time at which it was created. One that was put in its place is
opened anew if it has the extraction that is served.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from alike.extract.errors import AlikeError
from alike.extract.store.settings import COPY, SETTINGS, read_settings
from alike.serve.opened import EVERY
from alike.serve.pictures import StoreGone

Answer = TypeVar("Answer")


class Presence:
    """Looks for the settings of a store, or for their copy; in a remote one once a second.

    Args:
        store: opened.
        reopen: opens the store that lies at the same place now; raises `StoreGone` if it cannot be
            served.
    """

    def __init__(self, store: Any, reopen: Callable[[], None]) -> None:
        self._store, self._reopen = store, reopen
        self._looked = float("-inf")
        self._lock = threading.Lock()
        self._stamp = self._settings_stamp()
        self._created = self._creation()

    def require(self) -> None:
        """Refuse a store that is gone, or was replaced by one without the served extraction.

        Raises:
            StoreGone: says what to do.
        """
        now = time.monotonic()
        if self._store.root_path is None and now - self._looked < EVERY:
            return
        stamp = self._settings_stamp()
        if stamp is None and not self._has_copy():
            place = self._store.shown_place
            raise StoreGone(
                f"the store {place} is not there any more: bring it back, or start the server anew"
            )
        if stamp != self._stamp:
            self._compare(stamp)
        self._looked = now

    def _compare(self, stamp: Any) -> None:
        """Open the store anew if it is not the one that was opened."""
        with self._lock:
            if stamp == self._stamp:
                return
            created = self._creation()
            if created != self._created:
                self._reopen()
            self._stamp, self._created = stamp, created

    def _settings_stamp(self) -> Any:
        """Changes with every change of the settings; None if they are gone."""
        try:
            return self._store.files.listing("").get(SETTINGS)
        except NotADirectoryError:
            return None

    def _has_copy(self) -> bool:
        try:
            return self._store.files.size(COPY) is not None
        except NotADirectoryError:
            return False

    def _creation(self) -> Any:
        """When the store was created; as before if that cannot be read."""
        try:
            return read_settings(self._store.files).get("created")
        except (AlikeError, OSError):
            return getattr(self, "_created", None)

    def asking(self, question: Callable[[], Answer]) -> Callable[[], Answer]:
        """A question that is refused if the store is gone before it, or meanwhile."""

        def asked() -> Answer:
            self.require()
            try:
                return question()
            except Exception:
                self._looked = float("-inf")
                self.require()
                raise

        return asked
