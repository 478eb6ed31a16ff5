"""Networks of a server, and what they said of images that are not stored."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.frames import NamedImage
from alike.extract.measures import constants_of
from alike.serve.budgets import ByteCache
from alike.serve.opened import OpenIndex

MOST = 4
"""Networks that are held at once; the one that was asked longest ago is let go."""
ANYWAY = ("last_conv", "logits")
"""Taps that a pass gives besides, if they are stored: other measures and the views need them."""


class Networks:
    """Networks, each loaded at its first image and held once, whatever measures ask it.

    What a network said of an image stays: another measure of the same network, the prediction and
    the pair need no second pass.
    """

    def __init__(self, budget: int) -> None:
        """Hold none yet.

        Args:
            budget: bytes of what was said of images.
        """
        # One forward pass at a time: more would only share the same cores or the same GPU.
        self.lock = threading.Lock()
        # Apart, or the maps of many images would push out vectors, which are a hundredth of them.
        self._vectors = ByteCache(budget // 8)
        self._said = ByteCache(budget - budget // 8)
        self._networks: OrderedDict[tuple[str, str, str], Any] = OrderedDict()

    def encoder(self, opened: OpenIndex) -> Any:
        """An `Encoder` of an index; call it with the lock held."""
        features = opened.index.features
        attrs = features.attrs
        name = features.key, str(attrs["weights_hash"]), str(attrs.get("code_hash", ""))
        encoder = opened.index.encoder(self._networks.get(name))
        self._networks[name] = encoder.network
        self._networks.move_to_end(name)
        while len(self._networks) > MOST:
            self._networks.popitem(last=False)
        return encoder

    def ask(self, images: Sequence[NamedImage], taps: Iterable[str], opened: OpenIndex) -> None:
        """Compute taps of images, and hold them, and the vectors that the index compares."""
        arrays = opened.index.features.arrays
        wanted = list(dict.fromkeys([*taps, *(tap for tap in ANYWAY if tap in arrays)]))
        with self.lock:
            said = self.encoder(opened).taps(images, wanted)
        for number, image in enumerate(images):
            for tap in wanted:
                # A copy: a part of a batch would hold all of it.
                value = said[tap][number].copy()
                self._said.put(_name(image.image_id, tap, opened), value, value.nbytes)
            self.vector(image.image_id, opened)

    def tap(self, image: str, tap: str, opened: OpenIndex) -> NDArray[Any] | None:
        """What a tap gave for an image; None if that is not held."""
        said: NDArray[Any] | None = self._said.get(_name(image, tap, opened))
        return said

    def vector(self, image: str, opened: OpenIndex) -> NDArray[np.float32] | None:
        """The vector (1, D) of an image by the measure of an index; None if it takes a pass."""
        measure, taps = opened.index.measure, {}
        # The digest changes with what the measure has fitted.
        name = (*_name(image, measure.name, opened), opened.index.card.measure_digest)
        held: NDArray[np.float32] | None = self._vectors.get(name)
        if held is not None:
            return held
        for tap in measure.taps:
            said = self.tap(image, tap, opened)
            if said is None:
                return None
            taps[tap] = said[None]
        vector: NDArray[np.float32] = measure.embed(
            taps, constants_of(opened.index.features, measure)
        )
        self._vectors.put(name, vector, vector.nbytes)
        return vector


def _name(image: str, tap: str, opened: OpenIndex) -> tuple[str, ...]:
    features = opened.index.features
    return image, features.key, str(features.attrs["weights_hash"]), tap
