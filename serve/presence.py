"""Whether a store is still there: nothing is answered from, or written to, one that was deleted."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from alike.extract.store.settings import COPY, SETTINGS
from alike.serve.opened import EVERY
from alike.serve.pictures import StoreGone

Answer = TypeVar("Answer")


class Presence:
    """Looks for the settings of a store, or for their copy; in a remote one once a second.

    Args:
        store: opened.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._looked = float("-inf")

    def require(self) -> None:
        """Refuse a store that is gone.

        Raises:
            StoreGone: says what to do.
        """
        now = time.monotonic()
        if self._store.root_path is None and now - self._looked < EVERY:
            return
        if not self._is_there():
            place = self._store.shown_place
            raise StoreGone(
                f"the store {place} is not there any more: bring it back, or start the server anew"
            )
        self._looked = now

    def _is_there(self) -> bool:
        files = self._store.files
        try:
            return any(files.size(name) is not None for name in (SETTINGS, COPY))
        except NotADirectoryError:
            return False

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
