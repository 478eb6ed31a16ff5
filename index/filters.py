"""Which rows may answer a query: its own class only, other classes only, or named classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.errors import BadInput

RELATIONS = ("any", "same", "other")


@dataclass(frozen=True)
class Among:
    """The rows that may answer.

    Attributes:
        relation: `any`; `same`: only the query's class; `other`: only other classes.
        labels: only these classes; empty: all.
    """

    relation: str = "any"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise BadInput(f"relation {self.relation!r}: one of {', '.join(RELATIONS)} expected")
        object.__setattr__(self, "labels", tuple(self.labels))

    @property
    def all(self) -> bool:
        """Whether every row may answer."""
        return self.relation == "any" and not self.labels

    def check(self, classes: Sequence[str]) -> None:
        """Refuse a class that no row has.

        Raises:
            BadInput: names it and the classes that there are.
        """
        for label in self.labels:
            if label not in classes:
                some = ", ".join(classes[:20]) + (" …" if len(classes) > 20 else "")
                raise BadInput(f"no image has the label {label!r}; there are: {some or 'none'}")

    def groups(
        self, queries: Sequence[str | None], labels: NDArray[Any]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Queries that share a mask, and the mask.

        Args:
            queries: class of each query.
            labels: (n,) class of each position.

        Yields:
            Numbers of queries, and (n,) the positions that may answer them.

        Raises:
            BadInput: the class of a query matters and is not known.
        """
        has_label = np.isin(labels.astype(str), self.labels) if self.labels else None
        if self.relation == "any":
            everything = np.ones(len(labels), dtype=bool) if has_label is None else has_label
            yield np.arange(len(queries)), everything
            return
        if any(label is None for label in queries):
            place = next(i for i, label in enumerate(queries) if label is None)
            msg = f"the class of query {place} is not known, and --{self.relation}-class needs it"
            raise BadInput(f"{msg}: give it by --label")
        query_labels = np.array(queries, dtype=object)
        for label in dict.fromkeys(queries):
            mask = labels == label if self.relation == "same" else labels != label
            if has_label is not None:
                mask = mask & has_label
            yield np.flatnonzero(query_labels == label), mask
