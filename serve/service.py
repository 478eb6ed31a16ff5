"""Questions about a store, answered for the page and the API: plain values in, plain values out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike import __version__
from alike.analysis.explain import (
    AGAINST,
    FOR,
    in_measure,
)
from alike.extract.command import command_of
from alike.extract.errors import BadImage, BadInput
from alike.extract.frames import NamedImage, transform_of
from alike.extract.identity import network_titles, settings_hash, weights_name
from alike.extract.measures import measure_named
from alike.extract.store import change_tags, read_tags
from alike.index.filters import Among
from alike.index.places import indexed_measures
from alike.serve.analysed import StoredAnalyses
from alike.serve.budgets import DEFAULTS, Budgets, ByteCache
from alike.serve.network import NeedsNetwork, Networks, Vectors
from alike.serve.notes import fewer, in_blocks, others_split, too_many_pairs
from alike.serve.opened import HASH_LENGTH, OpenIndex, OpenIndexes, check_key, check_measure
from alike.serve.pictures import (
    NotThere,
    StoredPictures,
    StoreGone,
    Thumbnails,
    pixels_of,
    png,
    thumbnail,
)
from alike.serve.presence import Presence
from alike.serve.unindexed import index_needs, usual_measure

MAX_PAIRS = 2**16
"""Pairs of positions up to which they are answered: more would be megabytes of text."""
MAX_CELLS = 64
"""Most cells a side of an explanation; of larger maps, blocks of cells are summed."""
TAP = "last_conv"
HELD_OUT = "held_out"
HEADLINE = "gap_cosine"
UPLOADED = "uploaded image"
SEND = "send another image file"


class NeighbourService:
    """Answers for a store; if nothing else is named, for one extraction and one measure.

    An image is named by its row, or by the SHA-256 of its bytes; one that is not stored has to be
    uploaded first, or be stored in another store of the same server.

    Attributes:
        key: extraction that answers if none is named.
        measure: that answers if none is named.
        budgets: what may be spent.
        uploads: images that are not stored, by the hash of their bytes.
        thumbnails: pictures that were made.
        networks: those that were asked.
        analyses: tables of the store.
        presence: whether the store is there.
    """

    uploads: ByteCache
    thumbnails: Thumbnails
    networks: Networks

    def __init__(
        self,
        store: Any,
        key: str | None = None,
        measure: str = HEADLINE,
        *,
        budgets: Budgets = DEFAULTS,
        thumbnails: Path | None = None,
        beside: "NeighbourService | None" = None,
    ) -> None:
        """Open the index.

        Args:
            store: a `Store`, or the place of one.
            key: extraction; None for the one that the store serves.
            measure: whose index.
            budgets: what may be spent.
            thumbnails: folder in which pictures of stored images are kept; None for memory only.
            beside: of another store of the same server: uploaded images, pictures and networks
                are those of both, so that one image can be asked in each.

        An extraction without any index is served too: only neighbours need one.

        Raises:
            BadInput: no such store, extraction or measure, an extraction that has indexes, but none
                of this measure, or a store that does not know its images.
        """
        from alike.extract.store import Store

        self.store = Store.open(store) if isinstance(store, str | Path) else store
        self.store.source()
        self.key, self.budgets = self.store.features(key).key, budgets
        self.uploads = beside.uploads if beside else ByteCache(budgets.uploads)
        self.thumbnails = (
            beside.thumbnails if beside
            else Thumbnails(budgets.thumbnails, thumbnails, budgets.disk)
        )  # fmt: skip
        self.networks = beside.networks if beside else Networks(budgets.vectors)
        # One list of all stores of the server, this one's included.
        self._every: list[StoredPictures] = beside._every if beside else []
        there = indexed_measures(self.store, self.key)
        self._take(measure, there)
        if there:
            # Not without neighbours, where another measure would answer.
            self._open.get(self.key, measure).searched()
        self._every.append(self._pictures)
        self.presence = Presence(self.store, self._reopen)

    def _take(self, measure: str, there: Sequence[str]) -> None:
        """Take what the answers need of the store; `there` are the measures with an index."""
        features = self.store.features(self.key)
        self.measure = measure if there else usual_measure(features, measure)
        self.analyses = StoredAnalyses(self.store)
        self._pictures = StoredPictures(self.store)
        self._open = OpenIndexes(self.store)

    def _reopen(self) -> None:
        """Answer from the store that was put in the place of the one that was opened.

        Raises:
            StoreGone: it has other extractions.
        """
        store = type(self.store)(self.store.files, self.store.tree)
        if self.key not in store.groups():
            keys = ", ".join(store.groups()) or "no features"
            raise StoreGone(
                f"the store {store.shown_place} was replaced by another one, without {self.key}: "
                f"it has {keys}; start the server anew"
            )
        there, before = indexed_measures(store, self.key), self._pictures
        self.store = store
        self._take(self.measure if self.measure in there or not there else there[0], there)
        self._every[self._every.index(before)] = self._pictures

    @property
    def version(self) -> str:
        """Of Alike."""
        return __version__

    def opened(self, key: str | None = None, measure: str | None = None) -> OpenIndex:
        """The index that answers now; an answer takes it once.

        Args:
            key: of the extraction; None: the one that is served.
            measure: None: the one that is served, or if the extraction has no index of it, the
                first that it has; if it has none at all, one that its features can be compared by.

        Raises:
            NotThere: no such extraction, or features that the measure cannot compare.
        """
        chosen = self.chosen_key(key)
        if measure is None:
            measure = self._usual_measure(chosen)
        check_measure(measure)
        return self._open.get(chosen, measure)

    def map_measure(self, opened: OpenIndex) -> str:
        """The measure of the map if none is named: that of the index, if there is a map by it."""
        name, there = opened.index.measure.name, self.analyses.maps(opened.index.features.key)
        return next((one for one in (name, self.measure, *there) if one in there), name)

    def _usual_measure(self, key: str) -> str:
        """The measure by which an extraction answers if none is named."""
        there = [self.measure] if key == self.key else indexed_measures(self.store, key)
        if there:
            return self.measure if self.measure in there else there[0]
        return usual_measure(self.store.features(key), self.measure)

    def chosen_key(self, key: str | None) -> str:
        """The extraction that is meant; `NotThere` if there is none of this name."""
        if key is None or key == self.key:
            return self.key
        check_key(self.store, key)
        return key

    # The set

    def facts(self, key: str | None = None, measure: str | None = None) -> dict[str, Any]:
        """Fields of `SetFacts`."""
        opened = self.opened(key, measure)
        index = opened.index
        attrs = index.features.attrs
        return {
            "version": self.version,
            "key": index.features.key,
            "network": str(attrs["network"]),
            "weights": str(attrs["weights_hash"])[:8],
            "weights_name": weights_name(attrs),
            "title": self._titles()[index.features.key],
            "transform": transform_name(index.features),
            "measure": index.measure.name,
            "measure_form": index.measure.form,
            "about": index.measure.about,
            "images": len(opened.rows),
            "classes": opened.classes,
            "unlabelled": len(opened.rows) - sum(opened.classes.values()),
            "index": index_facts(opened),
            "needs": opened.needs,
            "analysis_needs": self.analyses.analysis_needs(index.features.key),
            "map_needs": self.analyses.map_needs(
                index.features.key, measure or self.map_measure(opened)
            ),
            "measure_needs": self.analyses.measure_needs(index.features.key, index.measure.name),
            "compare": self._compare(opened),
            "maps": TAP in index.features.arrays,
            "colours": {"for": FOR, "against": AGAINST},
            "extractions": self.extractions(),
            "notes": [
                *opened.notes,
                *filter(None, [self.analyses.outdated(index.features.key)]),
            ],
        }

    def summary(self) -> dict[str, Any]:
        """Fields of `StoreFacts`, besides its name."""
        opened = self.opened()
        attrs = opened.index.features.attrs
        return {
            "network": str(attrs["network"]),
            "weights": str(attrs["weights_hash"])[:8],
            "images": len(opened.rows),
            "classes": len(opened.classes),
        }

    def extractions(self) -> list[dict[str, Any]]:
        """Fields of `Extraction`, of every one of the store."""
        parts, titles = [], self._titles()
        for key in self.store.groups():
            features = self.store.features(key)
            parts.append({
                "key": key,
                "network": str(features.attrs["network"]),
                "weights": str(features.attrs["weights_hash"])[:8],
                "weights_name": weights_name(features.attrs),
                "title": titles[key],
                "arrays": list(features.arrays),
                "indexes": indexed_measures(self.store, key),
                "analysed": self.analyses.stamp(key) is not None,
                "measures": self.analyses.measures(key),
                "maps": self.analyses.maps(key),
                **self._lacks(features),
            })  # fmt: skip
        return parts

    def _titles(self) -> dict[str, str]:
        return network_titles({key: self.store.features(key).attrs for key in self.store.groups()})

    def _lacks(self, features: Any) -> dict[str, str]:
        """What an extraction needs before it has any index, and any map."""
        indexed = indexed_measures(self.store, features.key)
        mapped = self.analyses.maps(features.key)
        if indexed and mapped:
            return {"needs": "", "map_needs": ""}
        measure = self._usual_measure(features.key)
        return {
            "needs": "" if indexed else index_needs(features, measure),
            "map_needs": "" if mapped else self.analyses.map_needs(features.key, measure),
        }

    def _compare(self, opened: OpenIndex) -> str:
        """The command that compares all networks of the store; empty if there is but one."""
        if len(self.store.groups()) < 2:
            return ""
        # Of a set that was used for training alone, no image is held out.
        words = () if HELD_OUT in opened.splits else ("--split", "all")
        name = opened.index.measure.name
        measure = () if name == HEADLINE else ("--measure", name)
        return command_of("compare", self.store, "", "--all", *measure, *words)

    def sample(
        self, count: int, seed: int, label: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Fields of `Sample`: stored images drawn at random, of one class or of all.

        Raises:
            NotThere: no image has the label.
        """
        opened = self.opened(key)
        rows = opened.rows
        if label is not None:
            opened.check_classes((label,))
            rows = rows[opened.labels == label]
        drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
        return {
            "images": opened.about_many(rows[drawn]),
            "n_images": len(rows),
            "notes": fewer(count, len(drawn), "images are there"),
        }

    # One image

    def upload(self, data: bytes) -> dict[str, Any]:
        """Take an image that somebody sends; refuse what cannot be decoded.

        Raises:
            BadInput: no readable image, or too many pixels; says why.
        """
        image = NamedImage(UPLOADED, data, SEND)
        height, width = image.pixels().shape[-2:]
        try:
            transform_of(self.store.features(self.key)).check_size(height, width)
        except BadImage as error:
            raise BadInput(f"the network cannot take the image ({error}): {SEND}") from error
        self.uploads.put(image.image_id, image, len(data))
        return self.about(image.image_id)

    def check_pixels(self, data: bytes) -> int:
        """Pixels of an image that somebody sends, by its header; refuse too many.

        Raises:
            BadInput: no readable image, or more pixels than may be decoded at once.
        """
        pixels = pixels_of(NamedImage(UPLOADED, data, SEND))
        if pixels > self.budgets.pixels:
            most = f"at most {self.budgets.pixels} are decoded here"
            raise BadInput(f"the image has {pixels} pixels, {most}: make it smaller")
        return pixels

    def about(self, name: str, opened: OpenIndex | None = None) -> dict[str, Any]:
        """Fields of `Image`.

        Raises:
            NotThere: neither stored nor uploaded.
        """
        opened = opened or self.opened()
        row = opened.row(name)
        if row >= 0:
            return opened.about(row)
        self._require(name)
        return {
            "image": name, "row": -1, "path": "", "label": None, "subset": None, "split": None
        }  # fmt: skip

    def image(self, name: str) -> NamedImage:
        """The bytes of an image.

        Raises:
            NotThere: neither stored nor uploaded, or not as it was any more.
        """
        uploaded: NamedImage | None = self.uploads.get(name)
        if uploaded is not None:
            return uploaded
        if len(name) != HASH_LENGTH:
            opened = self.opened()
            name = str(opened.images[opened.places(np.array([opened.row(name)]))[0]])
        return self._holder(name).image(name)

    def _holder(self, name: str) -> StoredPictures:
        """The pictures that have an image: those of this store before those of others."""
        if len(self._every) == 1 or self._pictures.has(name):
            return self._pictures
        return next((one for one in self._every if one.has(name)), self._pictures)

    def small_picture(self, name: str, side: int) -> bytes | None:
        """A WebP that was made before, of an image that is still there; None if there is none."""
        data = self.thumbnails.get(name, side)
        if data is None or self.uploads.get(name) is not None:
            return data
        return data if self._holder(name).has(name, unknown=True) else None

    def thumbnail(self, image: NamedImage, side: int) -> bytes:
        """A WebP no larger than `side` pixels, made and kept.

        Raises:
            BadInput: it cannot be decoded.
        """
        data, name = thumbnail(image, side), image.image_id
        # What somebody uploads leaves no trace on the disk.
        self.thumbnails.keep(name, side, data, on_disk=self.uploads.get(name) is None)
        return data

    def network_input(self, image: NamedImage, transform: str, key: str | None = None) -> bytes:
        """A PNG of what the network sees of an image, before normalisation.

        Raises:
            NotThere: other preprocessing than that of the extraction.
            BadInput: it cannot be decoded, or is too large once resized.
        """
        features = self.store.features(self.chosen_key(key))
        now = transform_name(features)
        if transform != now:
            raise NotThere(f"preprocessing {transform}: {features.key} has {now}")
        frame = image.frame(transform_of(features))
        return png(frame.permute(1, 2, 0).contiguous().numpy())

    def _require(self, name: str) -> None:
        """Refuse an image of which only the name is known."""
        if self.uploads.get(name) is None and not self._holder(name).has(name):
            raise NotThere(f"image {name[:12]}… is not stored, and not remembered: upload it again")

    # Neighbours

    def not_stored(self, names: Sequence[str], opened: OpenIndex) -> list[str]:
        """The names of images whose vectors only a network gives, or gave.

        Raises:
            NotThere: an image that is neither stored nor uploaded.
        """
        others = [name for name in names if opened.row(name) < 0]
        for name in others:
            self._require(name)
        return others

    def embed(self, names: Sequence[str], opened: OpenIndex) -> Vectors:
        """The vectors (1, D) of images that are not stored.

        The network is asked, in one pass, about those of which it is not held what it said.
        """
        held = {}
        for name in names:
            vector = self.networks.vector(name, opened)
            if vector is not None:
                held[name] = vector
        images = [self.image(name) for name in names if name not in held]
        if not images:
            return held
        return {**held, **self.networks.ask(images, opened.index.measure.taps, opened)}

    def neighbours(
        self,
        name: str,
        k: int,
        relation: str = "any",
        labels: tuple[str, ...] = (),
        opened: OpenIndex | None = None,
        number: int = 0,
        *,
        vectors: Vectors | None = None,
    ) -> dict[str, Any]:
        """Fields of `Neighbours`: the k nearest stored images.

        Args:
            name: row or hash of the image.
            k: neighbours.
            relation: `any`, `same` or `other` class.
            labels: only these classes; empty: all.
            opened: the index that answers; None: as it is now.
            number: of the query among several.
            vectors: of images that are not stored; with them the network is not asked.

        Raises:
            NotThere: no index, an unknown image or class.
            BadInput: the query's class matters and is not known.
            NeedsNetwork: the vector of an image is neither among these nor held.
        """
        opened = opened or self.opened()
        query = self.about(name, opened)
        opened.check_classes(labels)
        if relation != "any" and query["label"] is None:
            raise BadInput(
                f"the image has no class, and relation={relation} compares with it: "
                "ask by relation=any, or name classes by label"
            )
        among = Among(relation, labels)
        row, index = query["row"], opened.searched()
        answer = index.query_vectors(
            self._vector(name, row, opened, vectors),
            k,
            weights_hash=index.card.weights_hash,
            rows=np.array([row]),
            among=among,
            label=query["label"],
        )
        there = answer.rows[0] >= 0
        rows, distances = answer.rows[0][there], answer.distances[0][there]
        title = query["path"] or UPLOADED
        at = opened.places(rows)
        columns = (opened.paths, opened.labels, opened.images, opened.splits)
        near = [
            {
                "number": number, "query": title, "query_row": query["row"], "rank": rank,
                "row": row, "distance": distance, "path": path, "label": label, "image": image,
                "split": split,
            }
            for rank, (row, distance, path, label, image, split) in enumerate(
                zip(
                    rows.tolist(), distances.tolist(),
                    *(column[at].tolist() for column in columns), strict=True,
                ), 1
            )
        ]  # fmt: skip
        return {
            "query": query, "neighbours": near, "measure": index.measure.name,
            "exact": bool(answer.exact[0]), "missing": opened.missing,
            "notes": fewer(k, len(near), "images may answer"),
        }  # fmt: skip

    def _vector(
        self,
        name: str,
        row: int,
        opened: OpenIndex,
        vectors: Vectors | None,
    ) -> NDArray[np.float32]:
        """The vector (1, D) of an image; see `neighbours`."""
        if row >= 0:
            return opened.index.of_rows(np.array([row]))
        if vectors is None:
            return self.embed([name], opened)[name]
        vector = vectors.get(name)
        if vector is None:
            vector = self.networks.vector(name, opened)
        if vector is None:
            raise NeedsNetwork
        return vector

    # Where two are alike, and why

    def alike(
        self, first: str, second: str, opened: OpenIndex | None = None, *, network: bool = True
    ) -> dict[str, Any]:
        """Fields of `Alike`: what the measure says of two images, split over their positions.

        A measure that is no sum over positions is explained by the cosine of the pooled maps.

        Raises:
            NotThere: an unknown image.
            BadInput: the network pools no map, a pooled map is zero.
            NeedsNetwork: as `tap`.
        """
        opened = opened or self.opened()
        a, b = (self.tap(name, TAP, opened, network=network) for name in (first, second))
        measure = opened.index.measure
        distance = self._distance(first, second, opened, None if network else {})
        split = in_measure(measure, a, b)
        # Not so for a network that pools something else than its last map.
        own = split is not None and bool(np.isclose(split.distance, distance, rtol=0.02, atol=1e-3))
        if split is None:
            measure = measure_named(HEADLINE)
            split = in_measure(measure, a, b)
        assert split is not None
        return {
            "first": self.about(first, opened),
            "second": self.about(second, opened),
            "distance": distance,
            "measure": measure.name,
            "measure_form": measure.form,
            "value": split.likeness.value,
            "apart": split.difference.value,
            "likeness": [_rounded(split.likeness.on_a), _rounded(split.likeness.on_b)],
            "difference": [_rounded(split.difference.on_a), _rounded(split.difference.on_b)],
            "pairs": _rounded(split.pairs) if split.pairs.size <= MAX_PAIRS else None,
            "in_measure": own,
            "notes": [
                *([] if own else others_split(measure.name, opened.index.measure.name)),
                *too_many_pairs(split.pairs.size, MAX_PAIRS),
            ],
        }

    def pixel_likeness(
        self, first: str, second: str, method: str, opened: OpenIndex | None = None
    ) -> dict[str, Any]:
        """Fields of `PixelLikeness`: which pixels make two images alike, by the index's measure.

        Raises:
            NotThere: an unknown image.
        """
        # Here, because it loads torch, which a question of a stored row is answered without.
        from alike.analysis.explain import explain_images

        opened = opened or self.opened()
        images, measure = [self.image(name) for name in (first, second)], opened.index.measure.name
        with self.networks.lock:
            result = explain_images(
                images, opened.index.features, methods=(method,), measure=measure,
                network=self.networks.encoder(opened).network,
            )  # fmt: skip
        pixels = result.pixels[0] if result.pixels else None
        maps = (pixels.on_a, pixels.on_b) if pixels else ()
        return {
            "first": self.about(first, opened),
            "second": self.about(second, opened),
            "method": method,
            "measure": measure,
            "value": pixels.value if pixels else None,
            "maps": [_rounded(_coarse(one)) for one in maps],
            "conserved": list(pixels.conserved) if pixels else [],
            "left_out": "" if pixels else "; ".join(result.notes),
            "notes": list(
                dict.fromkeys(
                    note for one in maps for note in in_blocks(method, one.shape, _steps(one))
                )
            ),
        }

    def _distance(
        self,
        first: str,
        second: str,
        opened: OpenIndex,
        vectors: Vectors | None,
    ) -> float:
        """The distance of two images by the measure of the index; vectors as of `neighbours`."""
        a, b = (
            self._vector(name, opened.row(name), opened, vectors)[0].astype(np.float64)
            for name in (first, second)
        )
        measure = opened.index.measure
        return float(measure.own(a @ b if measure.form == "inner" else np.square(a - b).sum()))

    def tap(self, name: str, tap: str, opened: OpenIndex, *, network: bool = True) -> NDArray[Any]:
        """What a tap gives for an image, from the store if it is there.

        Raises:
            NotThere: an unknown image.
            BadInput: the network has no such tap.
            NeedsNetwork: it is neither stored nor held, and the network may not be asked.
        """
        features = opened.index.features
        row = opened.row(name)
        if row >= 0 and tap in features.arrays:
            stored: NDArray[Any] = features.read(tap, np.array([row]))[0]
            return stored
        held = self.networks.tap(name, tap, opened)
        if held is not None:
            return held
        if not network:
            raise NeedsNetwork
        image = self.image(name)
        with self.networks.lock:
            taps = self.networks.encoder(opened).taps([image], [tap])
        return np.asarray(taps[tap][0])

    def explain(
        self, name: str, method: str, target: str | None = None, opened: OpenIndex | None = None
    ) -> dict[str, Any]:
        """Fields of `Explanations`: what speaks for a class in an image, by one method.

        Raises:
            NotThere: an unknown image, or no such class of the network.
        """
        # Here, because it loads torch, which a question of a stored row is answered without.
        from alike.analysis.explain import explain_images

        opened = opened or self.opened()
        features, row = opened.index.features, opened.row(name)
        # A row by its number, so that the answer is that of the command.
        image = self.image(name) if row < 0 or len(name) == HASH_LENGTH else row
        with self.networks.lock:
            network = self.networks.encoder(opened).network
            try:
                result = explain_images(
                    [image], features, methods=(method,), target=target, network=network
                )
            except BadInput as error:
                # The methods are those of the table, the image was read: the class is left.
                raise (error if target is None else NotThere(str(error))) from error
        arrays = {
            key.partition("/")[2]: _rounded(_coarse(one)) for key, one in result.arrays.items()
        }
        images = {
            "maps": result.table.to_dict(orient="records"), "cosine": None,
            "left_out": list(result.notes), "files": [],
        }  # fmt: skip
        notes = [result.target_note] if result.target_note else []
        notes += [
            note for key, one in result.arrays.items()
            for note in in_blocks(key.partition("/")[2], one.shape, _steps(one))
        ]  # fmt: skip
        return {"images": images, "arrays": arrays, "notes": notes}

    # Tags

    def tags(self) -> dict[str, Any]:
        """Fields of `Tags`."""
        return _tags_of(read_tags(self.store))

    def change_tags(self, names: Sequence[str], tag: str, present: bool) -> dict[str, Any]:
        """Give stored images a tag, or take it away; fields of `Tags` afterwards.

        Raises:
            NotThere: an image that is not stored.
            BadInput: a store that cannot be written.
        """
        opened = self.opened()
        images = [self.about(name, opened) for name in names]
        # By the store itself: one that could not be decoded has no features and is stored all the
        # same, and one with features may have been forgotten since.
        outside = [one["image"] for one in images if not self._pictures.has(one["image"])]
        if outside:
            raise NotThere(f"image {outside[0][:12]}… is not stored: only stored images have tags")
        return _tags_of(
            change_tags(self.store, [one["image"] for one in images], tag, present=present)
        )


def transform_name(features: Any) -> str:
    """Names the preprocessing of an extraction, in the addresses of what the network sees."""
    return settings_hash(dict(features.attrs["transform"]), "")


def index_facts(opened: OpenIndex) -> dict[str, Any] | None:
    """Fields of `IndexFacts`; None without an index."""
    if opened.needs:
        return None
    index = opened.searched()
    return {"kind": index.card.spec.kind, "rows": len(index), "missing": opened.missing}


def usual_methods() -> tuple[str, ...]:
    """Methods by which one image is explained if none is named."""
    # Here, because it loads torch, which a question of a stored row is answered without.
    from alike.analysis.explain import LIKENESS, METHODS

    return tuple(method for method in METHODS if method != LIKENESS)


def all_explanations(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fields of `Explanations` by several methods, from those by each."""
    every: dict[str, Any] = {
        "images": {"maps": [], "cosine": None, "left_out": [], "files": []}, "arrays": {},
        "notes": [],
    }  # fmt: skip
    for part in parts:
        for name in ("maps", "left_out"):
            every["images"][name] += part["images"][name]
        every["arrays"] |= part["arrays"]
        every["notes"] = list(dict.fromkeys([*every["notes"], *part["notes"]]))
    return every


def _tags_of(table: Any) -> dict[str, Any]:
    counts = table["tag"].value_counts().sort_index()
    images = table.groupby("image_id")["tag"].agg(list)
    return {"counts": counts.to_dict(), "images": images.to_dict()}


def _coarse(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """A map of at most `MAX_CELLS` cells a side, with the same sum."""
    sums = values.astype(np.float64)
    for axis, step in enumerate(_steps(values)):
        if step > 1:
            sums = np.add.reduceat(sums, np.arange(0, sums.shape[axis], step), axis=axis)
    return sums


def _steps(values: NDArray[np.floating]) -> list[int]:
    """Cells that are summed to one, along each axis."""
    return [-(-length // MAX_CELLS) for length in values.shape]


def _rounded(values: NDArray[np.floating]) -> list[Any]:
    """Numbers for JSON, five significant digits: what a colour or a label can show."""
    scale = float(np.abs(values).max(initial=0.0)) or 1.0
    digits = max(0, 5 - int(np.floor(np.log10(scale))))
    rounded: list[Any] = np.round(values.astype(np.float64), digits).tolist()
    return rounded
