"""Questions about a store, answered for the page: plain values in, plain values out."""

import hashlib
import io
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.explain import AGAINST, FOR, difference, likeness, position_pairs
from alike.extract.errors import BadImage, BadInput
from alike.extract.images import decode, open_source
from alike.index.filters import Among
from alike.index.query import NeighbourIndex

KEPT = 64
"""Images that were brought and are remembered, the latest ones; older ones have to come again."""
MAX_NEIGHBOURS = 200
SIDES = (16, 1024)
"""Smallest and largest side of a picture, in pixels."""
MAX_PAIRS = 2**16
"""Pairs of positions beyond which they are not told: they would be megabytes of text."""
TAP = "last_conv"


class NeighbourService:
    """Answers for one extraction and one measure of a store.

    An image is named by its row, or by the sha256 of its bytes where it was brought by `bring`.

    Attributes:
        index: the index that answers now; a new one on the disk takes its place.
    """

    def __init__(self, store: Any, key: str | None = None, measure: str = "gap_cosine") -> None:
        """Open the index.

        Args:
            store: a `Store`, or the place of one.
            key: extraction; None for the one that the store serves.
            measure: whose index.

        Raises:
            BadInput: as `NeighbourIndex.open`, and where the store does not know its images.
        """
        self.index = NeighbourIndex.open(store, key, measure)
        spec, options = self.index.features.store.source()
        self._source = open_source(spec, **options)
        self._brought: OrderedDict[str, bytes] = OrderedDict()
        self._brought_lock = threading.Lock()
        # one forward pass at a time: more would only share the same cores or the same GPU
        self._network_lock = threading.Lock()

    def facts(self) -> dict[str, Any]:
        """What is served: the set, the network, the index."""
        index = self.index
        attrs, card = index.features.attrs, index.card
        labels = index.images["label"].dropna().astype(str)
        return {
            "key": index.features.key,
            "network": str(attrs["network"]),
            "weights": str(attrs["weights_hash"])[:8],
            "measure": index.measure.name,
            "about": index.measure.about,
            "images": len(index),
            "classes": labels.value_counts().sort_index().to_dict(),
            "index": {"kind": card.spec.kind, "rows": len(index)},
            "maps": TAP in index.features.arrays,
            "colours": {"for": FOR, "against": AGAINST},
        }

    def some(self, count: int, seed: int, label: str | None = None) -> list[dict[str, Any]]:
        """Stored images drawn at random, of one class or of all.

        Raises:
            BadInput: no image has the label.
        """
        images = self.index.images
        if label is not None:
            Among("any", (label,)).check(sorted(images["label"].dropna().astype(str).unique()))
            images = images[images["label"] == label]
        drawn = np.random.default_rng(seed).permutation(len(images))[: max(count, 0)]
        return [self.about(str(row)) for row in images.index[drawn]]

    def bring(self, data: bytes) -> dict[str, Any]:
        """Take an image that somebody brings; refuse what cannot be decoded.

        Raises:
            BadInput: no readable image; says why.
        """
        try:
            decode(data)
        except BadImage as error:
            raise BadInput(f"this is no image that can be used: {error}") from error
        name = hashlib.sha256(data).hexdigest()
        with self._brought_lock:
            self._brought[name] = data
            self._brought.move_to_end(name)
            while len(self._brought) > KEPT:
                self._brought.popitem(last=False)
        return self.about(name)

    def about(self, image: str) -> dict[str, Any]:
        """Name, row (-1: not stored), path and label of an image."""
        row, _ = self._find(image)
        if row < 0:
            return {"image": image, "row": -1, "path": "", "label": None, "split": None}
        path, label, split = self.index.images.loc[row, ["path", "label", "split"]]
        told = {"path": str(path), "label": None if pd.isna(label) else str(label)}
        return {"image": str(row), "row": row, **told, "split": str(split)}

    def neighbours(
        self, image: str, k: int, relation: str = "any", labels: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The k nearest stored images.

        Raises:
            BadInput: an unknown image or class, k out of range, a class that is not known.
        """
        if not 1 <= k <= MAX_NEIGHBOURS:
            raise BadInput(f"k {k}: from 1 to {MAX_NEIGHBOURS} neighbours expected")
        self.index = self.index.refreshed()
        row, data = self._find(image)
        asked: int | bytes = row if data is None else data
        with self._network_lock:
            found = self.index.query([asked], k, among=Among(relation, labels))
        query = self.about(image)
        near = [
            {**self.about(str(other)), "distance": float(distance)}
            for other, distance in zip(found.rows[0], found.distances[0], strict=True)
            if other >= 0
        ]
        return {"query": query, "neighbours": near, "exact": bool(found.exact[0])}

    def picture(self, image: str, side: int) -> bytes:
        """A PNG no larger than `side` pixels; small images keep their size.

        Raises:
            BadInput: an unknown image, one that is no longer there, a side out of range.
        """
        if not SIDES[0] <= side <= SIDES[1]:
            raise BadInput(f"side {side}: from {SIDES[0]} to {SIDES[1]} pixels expected")
        return _png(self._pixels(image), side)

    def seen(self, image: str) -> bytes:
        """A PNG of what the network sees of an image, before normalisation."""
        frame = self._transform.frame(decode(self._bytes(image)))
        return _png(frame.permute(1, 2, 0).contiguous().numpy(), SIDES[1])

    def alike(self, first: str, second: str) -> dict[str, Any]:
        """Where two images are alike: shares of the cosine of their pooled maps, by position.

        Returns:
            `value`, the cosine; `likeness` and `difference`, each two maps, (h, w) lists; `pairs`
            (P, Q): what every pair of positions adds to the cosine, None where they are too many.

        Raises:
            BadInput: the network pools no map, a pooled map is zero.
        """
        a, b = self._map(first), self._map(second)
        found, apart = likeness(a, b), difference(a, b)
        few = found.on_a.size * found.on_b.size <= MAX_PAIRS
        return {
            "first": self.about(first),
            "second": self.about(second),
            "value": found.value,
            "likeness": [_rounded(found.on_a), _rounded(found.on_b)],
            "difference": [_rounded(apart.on_a), _rounded(apart.on_b)],
            "pairs": _rounded(position_pairs(a, b)) if few else None,
        }

    def _find(self, image: str) -> tuple[int, bytes | None]:
        """Row, or -1 and the bytes."""
        if image.isdecimal():
            row = int(image)
            if row not in self.index.images.index:
                raise BadInput(f"row {row} is not stored; rows come from the answers of this page")
            return row, None
        with self._brought_lock:
            data = self._brought.get(image)
        if data is None:
            raise BadInput(f"image {image[:12]}… is not remembered any more: bring it again")
        known = self.index.images.index[self.index.images["image_id"] == image]
        return (int(known[0]), None) if len(known) else (-1, data)

    def _bytes(self, image: str) -> bytes:
        row, data = self._find(image)
        if data is not None:
            return data
        path = str(self.index.images.at[row, "path"])
        try:
            return self._source.read(path)
        except (BadImage, OSError) as error:
            raise BadInput(f"{path} cannot be read any more: {error}") from error

    def _pixels(self, image: str) -> NDArray[np.uint8]:
        return decode(self._bytes(image)).permute(1, 2, 0).contiguous().numpy()

    @property
    def _transform(self) -> Any:
        from alike.extract.networks import Transform

        return Transform.from_dict(dict(self.index.features.attrs["transform"]))

    def _map(self, image: str) -> NDArray[Any]:
        """(C, H, W), from the store where it is kept there."""
        row, data = self._find(image)
        features = self.index.features
        if data is None and TAP in features.arrays:
            stored: NDArray[Any] = features.read(TAP, np.array([row]))[0]
            return stored
        with self._network_lock:
            taps = self.index.encoder().taps([self._bytes(image)], [TAP], [image])
        return np.asarray(taps[TAP][0])


def _png(pixels: NDArray[np.uint8], side: int) -> bytes:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    held = io.BytesIO()
    picture.save(held, "PNG")
    return held.getvalue()


def _rounded(values: NDArray[np.floating]) -> list[Any]:
    """Numbers for JSON, five significant digits: what a colour or a label can show."""
    scale = float(np.abs(values).max(initial=0.0)) or 1.0
    digits = max(0, 5 - int(np.floor(np.log10(scale))))
    rounded: list[Any] = np.round(values.astype(np.float64), digits).tolist()
    return rounded
