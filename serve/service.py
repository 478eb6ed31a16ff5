"""Questions about a store, answered for the page: plain values in, plain values out."""

import io
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.explain import AGAINST, FOR, difference, likeness, position_pairs
from alike.extract.errors import BadInput
from alike.extract.frames import NamedImage, StoredImages, transform_of
from alike.extract.images import open_source
from alike.index.filters import Among
from alike.index.query import NeighbourIndex

KEPT = 64
"""Images that were brought and are remembered, the latest ones; older ones have to come again."""
MAX_NEIGHBOURS = 200
SIDES = (16, 1024)
"""Smallest and largest side of a picture, in pixels."""
MAX_PAIRS = 2**16
"""Pairs of positions up to which they are answered: more would be megabytes of text."""
TAP = "last_conv"


class NeighbourService:
    """Answers for one extraction and one measure of a store.

    An image is named by its row, or by the sha256 of its bytes if it was brought by `bring`.

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
            BadInput: as `NeighbourIndex.open`, and if the store does not know its images.
        """
        self.index = NeighbourIndex.open(store, key, measure)
        spec, options = self.index.features.store.source()
        self._source = open_source(spec, **options)
        self._brought: OrderedDict[str, NamedImage] = OrderedDict()
        self._brought_lock = threading.Lock()
        # One forward pass at a time: more would only share the same cores or the same GPU
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

    def sample(self, count: int, seed: int, label: str | None = None) -> list[dict[str, Any]]:
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
        image = NamedImage("brought", data)
        image.pixels()
        name = image.image_id
        with self._brought_lock:
            self._brought[name] = image
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
        name = None if pd.isna(label) else str(label)
        return {
            "image": str(row), "row": row, "path": str(path), "label": name, "split": str(split)
        }  # fmt: skip

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
        row, brought = self._find(image)
        with self._network_lock:
            asked = row if brought is None else brought
            answer = self.index.query([asked], k, among=Among(relation, labels))
        query = self.about(image)
        near = [
            {**self.about(str(other)), "distance": float(distance)}
            for other, distance in zip(answer.rows[0], answer.distances[0], strict=True)
            if other >= 0
        ]
        return {"query": query, "neighbours": near, "exact": bool(answer.exact[0])}

    def picture(self, image: str, side: int) -> bytes:
        """A PNG no larger than `side` pixels; small images keep their size.

        Raises:
            BadInput: an unknown image, one that is no longer there, a side out of range.
        """
        if not SIDES[0] <= side <= SIDES[1]:
            raise BadInput(f"side {side}: from {SIDES[0]} to {SIDES[1]} pixels expected")
        pixels = self._image(image).pixels()
        return _png(pixels.permute(1, 2, 0).contiguous().numpy(), side)

    def seen(self, image: str) -> bytes:
        """A PNG of what the network sees of an image, before normalisation."""
        frame = self._image(image).frame(transform_of(self.index.features))
        return _png(frame.permute(1, 2, 0).contiguous().numpy(), SIDES[1])

    def alike(self, first: str, second: str) -> dict[str, Any]:
        """Where two images are alike: shares of the cosine of their pooled maps, by position.

        Returns:
            `value`, the cosine; `likeness` and `difference`, each two maps, (h, w) lists; `pairs`
            (P, Q): what every pair of positions adds to the cosine, None if they are too many.

        Raises:
            BadInput: the network pools no map, a pooled map is zero.
        """
        a, b = self._map(first), self._map(second)
        shared, apart = likeness(a, b), difference(a, b)
        few = shared.on_a.size * shared.on_b.size <= MAX_PAIRS
        return {
            "first": self.about(first),
            "second": self.about(second),
            "value": shared.value,
            "likeness": [_rounded(shared.on_a), _rounded(shared.on_b)],
            "difference": [_rounded(apart.on_a), _rounded(apart.on_b)],
            "pairs": _rounded(position_pairs(a, b)) if few else None,
        }

    def _find(self, image: str) -> tuple[int, NamedImage | None]:
        """Row and None of a stored image, else -1 and the image that was brought."""
        if image.isdecimal():
            row = int(image)
            if row not in self.index.images.index:
                raise BadInput(f"row {row} is not stored; rows come from the answers of this page")
            return row, None
        with self._brought_lock:
            brought = self._brought.get(image)
        if brought is None:
            raise BadInput(f"image {image[:12]}… is not remembered any more: bring it again")
        rows = self.index.images.index[self.index.images["image_id"] == image]
        return (int(rows[0]), None) if len(rows) else (-1, brought)

    def _image(self, image: str) -> NamedImage:
        row, brought = self._find(image)
        if brought is not None:
            return brought
        index = self.index
        return StoredImages(self._source, index.images, index.features.store.url).read(row)

    def _map(self, image: str) -> NDArray[Any]:
        """(C, H, W), from the store if it is kept there."""
        row, brought = self._find(image)
        features = self.index.features
        if brought is None and TAP in features.arrays:
            stored: NDArray[Any] = features.read(TAP, np.array([row]))[0]
            return stored
        with self._network_lock:
            taps = self.index.encoder().taps([self._image(image)], [TAP])
        return np.asarray(taps[TAP][0])


def _png(pixels: NDArray[np.uint8], side: int) -> bytes:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def _rounded(values: NDArray[np.floating]) -> list[Any]:
    """Numbers for JSON, five significant digits: what a colour or a label can show."""
    scale = float(np.abs(values).max(initial=0.0)) or 1.0
    digits = max(0, 5 - int(np.floor(np.log10(scale))))
    rounded: list[Any] = np.round(values.astype(np.float64), digits).tolist()
    return rounded
