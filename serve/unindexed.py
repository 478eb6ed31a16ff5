"""An extraction without an index of a measure: all but its neighbours is answered."""

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.extract.command import taps_again
from alike.extract.errors import BadInput
from alike.extract.measures import (
    MEASURES,
    Measure,
    cannot_measure,
    embed_rows,
    fitted_measure,
    measure_named,
)
from alike.index.encode import Encoder
from alike.index.places import card_of, index_command
from alike.index.query import NeighbourIndex


class Unindexed:
    """What an index says of its images, without the index: their vectors are those of the store.

    Attributes:
        features: the extraction.
        measure: with its fitted arrays.
        why: an index that is there and cannot be used, in a line; empty if there is none.
    """

    def __init__(self, features: Any, measure: Measure, why: str = "") -> None:
        self.features = features
        self.measure = measure
        self.why = why
        self._stamp = features.stamp()
        self._card = card_of(features.store, features.key, measure.name)

    @cached_property
    def images(self) -> pd.DataFrame:
        """Usable images by store row, as those of `NeighbourIndex`."""
        table: pd.DataFrame = self.features.lookup().table().set_index("row")
        return table

    @property
    def needs(self) -> str:
        """What neighbours need, with the command that makes it."""
        if self.images.empty:
            return f"images with features: run `{taps_again(self.features)}`"
        return index_needs(self.features, self.measure.name)

    def refreshed(self) -> "NeighbourIndex | Unindexed":
        """The index if one was built since; else the images as they are now."""
        features, name = self.features, self.measure.name
        if card_of(features.store, features.key, name) != self._card:
            return open_extraction(features.store, features.key, name)
        if features.stamp() == self._stamp:
            return self
        return Unindexed(features, fitted_measure(features, name), self.why)

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (n, D) of stored rows."""
        return embed_rows(self.features, self.measure, rows)

    def encoder(self, network: Any = None) -> Encoder:
        """The network of the store, or a given one, which is checked."""
        return Encoder(self.features, self.measure, network)


def index_needs(features: Any, measure: str) -> str:
    """What neighbours by a measure need, with the command that makes it."""
    command = index_command(features.store, features.key, measure)
    return f"an index of {measure}: run `{command}`"


def open_extraction(store: Any, key: str, measure: str) -> NeighbourIndex | Unindexed:
    """The index of an extraction, or what answers without one.

    Raises:
        BadInput: no such extraction or measure, or features that the measure cannot compare.
        StoreDamaged: the index file is not what was written.
    """
    try:
        return NeighbourIndex.open(store, key, measure)
    except BadInput as error:
        features = store.features(key)
        there = card_of(store, key, measure) is not None
        try:
            ready = fitted_measure(features, measure)
        except BadInput as lacking:
            if not measure_named(measure).needs_fit:
                raise
            reason = cannot_measure(features, measure)
            if reason:
                raise BadInput(reason) from error
            command = index_command(store, key, measure)
            raise BadInput(f"{lacking}: `{command}` fits it") from error
        return Unindexed(features, ready, str(error) if there else "")


def usual_measure(features: Any, wanted: str) -> str:
    """The measure that answers for an extraction without an index, if none is named.

    Args:
        features: the extraction.
        wanted: taken if the extraction has what it compares, else the first that it has.

    Raises:
        BadInput: no measure is called `wanted`.
    """
    measure_named(wanted)
    for name in (wanted, *MEASURES):
        try:
            return fitted_measure(features, name).name
        except BadInput:
            continue
    return wanted
