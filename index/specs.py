"""What an index is, in words that go to JSON: wish, specification, measured points, card."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.identity import seal_of

SCHEMA = "alike-index/1"


@dataclass(frozen=True)
class Wish:
    """What the user asks of an index.

    Attributes:
        recall: share of the true `at` nearest neighbours to find, in (0, 1]; 1 asks for exact.
        at: how many neighbours recall is counted over.
        memory: most bytes that the index may hold while it answers; None: no bound.
        latency: most seconds that one call of `batch` queries may take; None: no bound.
        batch: queries that come at once.
        threads: of the search; None: as many as FAISS takes.
    """

    recall: float = 0.95
    at: int = 10
    memory: int | None = None
    latency: float | None = None
    batch: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.recall <= 1.0:
            raise BadInput(f"recall {self.recall}: a share in (0, 1] expected, such as 0.95")
        for name in ("at", "batch", "memory", "latency", "threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInput(f"{name} {value}: must be above 0")

    def __str__(self) -> str:
        words = self._words()
        parts = [f"recall {words.pop('recall')} at {words.pop('at')}"]
        parts += [f"{name} {words[name]}" for name in words if getattr(self, name) is not None]
        return ", ".join(parts)

    def changes(self, other: "Wish") -> list[str]:
        """What another wish asks otherwise, such as `recall 0.95 -> 0.99`."""
        ours, theirs = self._words(), other._words()
        return [
            f"{name} {ours[name]} -> {theirs[name]}"
            for name in ours
            if getattr(self, name) != getattr(other, name)
        ]

    def _words(self) -> dict[str, str]:
        words = {
            name: "any" if value is None else str(value)
            for name, value in dataclasses.asdict(self).items()
        }
        if self.memory is not None:
            words["memory"] = f"{self.memory:,} bytes"
        if self.latency is not None:
            words["latency"] = f"{1000 * self.latency:g} ms"
        return words


@dataclass(frozen=True)
class IndexSpec:
    """An index that can be built, and how it is searched.

    Attributes:
        kind: row of `INDEX_KINDS`.
        factory: FAISS factory string, without the `IDMap` that maps positions to rows.
        search: search parameter to value: `nprobe`, `efSearch`, `k_factor`.
    """

    kind: str
    factory: str
    search: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        search = ", ".join(f"{name}={value:g}" for name, value in self.search.items())
        return f"{self.factory} ({search})" if search else self.factory


@dataclass(frozen=True)
class Point:
    """One specification as measured: a point of the recall/speed curve.

    Attributes:
        spec: what was measured.
        recall: mean share of true neighbours found, with its 95 % interval `low` to `high`.
        low: lower end (see `truth.recall_interval`).
        high: upper end.
        queries_per_second: at the wish's batch size and threads.
        latency: seconds of one call at that batch size.
        build_seconds: training and adding.
        bytes: of the serialised index: what it holds in memory, the held-out rows counted.
        n: vectors in the index that was measured.
    """

    spec: IndexSpec
    recall: float
    low: float
    high: float
    queries_per_second: float
    latency: float
    build_seconds: float
    bytes: int
    n: int


@dataclass(frozen=True)
class Card:
    """The JSON sidecar of an index file: all that a reader must know of it.

    Attributes:
        key: extraction whose features are in it.
        measure: whose vectors are in it.
        measure_digest: changes with the fitted arrays of the measure.
        weights_hash: of the network; vectors of another are refused.
        metric: `l2` (the file answers squared distances) or `inner`.
        dimension: of the vectors.
        spec: kind, factory string and search parameters.
        wish: what it was chosen for.
        n_rows: vectors in it, those of `tail` among them.
        n_built: vectors that were in it when it was built; later ones were added.
        digest: of the features that it was made from.
        file: name of the FAISS file beside this card.
        size: bytes of that file.
        checksum: crc32c of that file, hexadecimal.
        tail: name of a flat FAISS file of rows that were added since, which readers add to the
            index in memory; empty if there are none.
        tail_rows: how many.
        tail_checksum: crc32c of that file.
        lists: name of the file of the inverted lists if they stay on disk, else empty.
        lists_size: bytes of that file, which is all that is checked of it: reading it whole would
            take what the lists on disk are to save.
        ranges: rows in such an index, as [first, last + 1] pairs; its file need not be read.
        why: the choice in one sentence.
        curve: what was measured.
        recall: as measured last on this very index, with its interval, or None if exact.
        stale: why it should be rebuilt; empty while it holds what was asked.
        removed: rows of it that had been removed from the set when that was measured.
        trained_on: how many rows, from how many classes, and how they were drawn.
        versions: of faiss, numpy and this schema.
    """

    key: str
    measure: str
    measure_digest: str
    weights_hash: str
    metric: str
    dimension: int
    spec: IndexSpec
    wish: Wish
    n_rows: int
    n_built: int
    digest: str
    file: str
    size: int
    checksum: str
    tail: str = ""
    tail_rows: int = 0
    tail_checksum: str = ""
    lists: str = ""
    lists_size: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    why: str = ""
    curve: tuple[Point, ...] = ()
    recall: tuple[float, float, float] | None = None
    stale: str = ""
    removed: int = 0
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        facts = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return {**facts, "seal": seal_of(facts)}

    def __post_init__(self) -> None:
        for name in (self.file, self.tail, self.lists):
            if "/" in name or name.startswith("."):
                raise BadInput(f"index file {name!r}: a name beside the card is expected")

    @staticmethod
    def check_stored(stored: Mapping[str, Any]) -> None:
        """Raise `BadInput` if a card is of another schema or differs from its seal."""
        if stored.get("schema") != SCHEMA:
            raise BadInput(f"index card of schema {stored.get('schema')!r}, expected {SCHEMA!r}")
        facts = {name: value for name, value in stored.items() if name != "seal"}
        # Cards of earlier versions have none.
        if stored.get("seal", seal_of(facts)) != seal_of(facts):
            raise BadInput("it differs from its own seal")
