"""Rows of a remote store that were read a moment ago: an analysis asks for the same ones often.

They are remembered by the hash of their content, which the ledger's record names: rows that are
committed anew are read anew. Damage to an object that was read before is found by `verify`, which
reads all.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import numpy as np

MOST = 256 << 20
"""Bytes of rows that are remembered; the least recently used go first."""


class RecentRows:
    """Units of arrays, decoded.

    Example:
        >>> recent = RecentRows(most=64)
        >>> recent.get("hash", lambda: np.ones(4)).sum(), recent.get("hash", lambda: 1 / 0).sum()
        (np.float64(4.0), np.float64(4.0))
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._rows: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, content: Hashable) -> bool:
        """Whether `get` would read nothing."""
        return content in self._rows

    def get(self, content: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Give the rows of this content, not to be written to; `read` gives them the first time."""
        with self._lock:
            if content in self._rows:
                self._rows.move_to_end(content)
                return self._rows[content]
        rows = read()
        if rows.nbytes <= self._most:
            with self._lock:
                self._rows[content] = rows
                while sum(one.nbytes for one in self._rows.values()) > self._most:
                    self._rows.popitem(last=False)
        return rows
