"""Networks of a server, and what they said of images that are not stored."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.frames import NamedImage
from alike.extract.measures import constants_of
from alike.serve.budgets import ByteCache
from alike.serve.opened import OpenIndex

Vectors = Mapping[str, NDArray[np.float32]]
"""Vectors (1, D) of images, by their hashes."""
MOST = 4
"""Networks that are held at once; the one that was asked longest ago is let go."""
ANYWAY = ("last_conv", "logits")
"""Taps that a pass gives besides, if they are stored: other measures and the views need them."""


class NeedsNetwork(Exception):
    """What a network said of an image is not held, and a search does not ask it."""


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

    def ask(self, images: Sequence[NamedImage], taps: Iterable[str], opened: OpenIndex) -> Vectors:
        """Compute taps of images, and hold them, and the vectors that the index compares.

        Returns:
            the vectors, by the hashes of the images: others may need the room at once.
        """
        arrays = opened.index.features.arrays
        wanted = list(dict.fromkeys([*taps, *(tap for tap in ANYWAY if tap in arrays)]))
        with self.lock:
            said = self.encoder(opened).taps(images, wanted)
        vectors = {}
        for number, image in enumerate(images):
            # Copies: a part of a batch would hold all of it.
            own = {tap: said[tap][number].copy() for tap in wanted}
            for tap, value in own.items():
                self._said.put(_name(image.image_id, tap, opened), value, value.nbytes)
            vectors[image.image_id] = self._embed(image.image_id, own, opened)
        return vectors

    def tap(self, image: str, tap: str, opened: OpenIndex) -> NDArray[Any] | None:
        """What a tap gave for an image; None if that is not held."""
        said: NDArray[Any] | None = self._said.get(_name(image, tap, opened))
        return said

    def vector(self, image: str, opened: OpenIndex) -> NDArray[np.float32] | None:
        """The vector (1, D) of an image by the measure of an index; None if it takes a pass."""
        held: NDArray[np.float32] | None = self._vectors.get(_vector_name(image, opened))
        if held is not None:
            return held
        taps = {}
        for tap in opened.index.measure.taps:
            said = self.tap(image, tap, opened)
            if said is None:
                return None
            taps[tap] = said
        return self._embed(image, taps, opened)

    def _embed(
        self, image: str, taps: Mapping[str, NDArray[Any]], opened: OpenIndex
    ) -> NDArray[np.float32]:
        """The vector (1, D) of an image, from what its taps gave; it is held."""
        measure = opened.index.measure
        vector: NDArray[np.float32] = measure.embed(
            {tap: taps[tap][None] for tap in measure.taps},
            constants_of(opened.index.features, measure),
        )
        self._vectors.put(_vector_name(image, opened), vector, vector.nbytes)
        return vector


def _name(image: str, tap: str, opened: OpenIndex) -> tuple[str, ...]:
    features = opened.index.features
    return image, features.key, str(features.attrs["weights_hash"]), tap


def _vector_name(image: str, opened: OpenIndex) -> tuple[str, ...]:
    measure = opened.index.measure
    # The digest changes with what the measure has fitted.
    return (*_name(image, measure.name, opened), measure.digest)
