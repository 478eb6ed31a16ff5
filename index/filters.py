"""Which rows may answer a query: of its own class, of others, of named classes or subsets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.errors import BadInput
from alike.extract.images import Where

if TYPE_CHECKING:
    import pandas as pd

RELATIONS = ("any", "same", "other")


@dataclass(frozen=True)
class Among:
    """The rows that may answer.

    Attributes:
        relation: `any`; `same`: only the query's class; `other`: only other classes.
        labels: only these classes; empty: all.
        where: ``subset=val`` or ``label=cat,dog``: only these images; "" for all.
    """

    relation: str = "any"
    labels: tuple[str, ...] = ()
    where: str = ""

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise BadInput(f"relation {self.relation!r}: one of {', '.join(RELATIONS)} expected")
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.where:
            Where.parse(self.where)

    @property
    def all(self) -> bool:
        """Whether every row may answer."""
        return self.relation == "any" and not self.labels and not self.where

    def check(self, classes: Sequence[str]) -> None:
        """Refuse a class that no row has.

        Raises:
            BadInput: names it and the classes that there are.
        """
        for label in self.labels:
            if label not in classes:
                some = ", ".join(classes[:20]) + (" …" if len(classes) > 20 else "")
                raise BadInput(
                    f"no image has the label {label[:120]!r}; there are: {some or 'none'}"
                )

    def selected(self, images: "pd.DataFrame") -> NDArray[np.bool_]:
        """Which of the indexed images `where` names, (n,).

        Args:
            images: subset and label of each position; missing for one that left the set.

        Raises:
            BadInput: it names what no image has.
        """
        if not self.where:
            return np.ones(len(images), dtype=bool)
        where = Where.parse(self.where)
        where.check(images[where.field].dropna().unique(), "the index")
        return where.mask(images)

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
