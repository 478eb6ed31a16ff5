"""The store: features of images that can be trusted for years; the only door to Zarr.

A store is a folder (or an S3-like URL): plain Zarr v3 arrays, and beside them a ledger of what is
committed, a manifest of which image a row belongs to, and what later steps make (`tables/`,
`index/`, `runs/`). See docs/store.md for the layout and the promises.
"""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alike.extract.display import Displayed, Summary
from alike.extract.documents import damaged
from alike.extract.errors import BadInput, NoStore, StoreDamaged
from alike.extract.identity import check_name, is_name
from alike.extract.store.arrays import TREE, VALID, new_spec
from alike.extract.store.base import StoreBase
from alike.extract.store.constants import SEALED, hash_of, sealed_in
from alike.extract.store.events import Event, note
from alike.extract.store.features import Features
from alike.extract.store.files import Files
from alike.extract.store.layout import answering, lay_out, moved_along, open_place
from alike.extract.store.metadata import META, lost_arrays, read_group
from alike.extract.store.settings import SETTINGS, read_settings

SCHEMA = "alike-store/1"
OF_A_RUN = "store"
"""Name of the store in the output folder of a run."""


class Store(Displayed, StoreBase):
    """A folder or URL with features of one set of images.

    Attributes:
        url: where it lies.
        files: its files; with `tree` and `manifest` for the modules of `alike.extract.store` only.
        tree: its Zarr store.
        manifest: rows and the current view.
    """

    @staticmethod
    def open(url: str | Path, *, create: bool = False, **options: Any) -> "Store":
        """Open a store.

        Args:
            url: a folder, or any URL of fsspec such as `s3://bucket/place`.
            create: make an empty store if there is none.
            options: given to fsspec, for a URL (endpoint, credentials).

        Raises:
            NoStore: there is none.
            BadInput: it has another layout.
            StoreDamaged: its settings and their copy are lost.
            StoreUnreachable: the storage of a URL does not answer, or lets nobody in.
        """
        try:
            with answering(str(url)):
                files, tree = open_place(str(url), options)
                schema = read_settings(files).get("schema")
        except FileNotFoundError:
            schema = None
            with answering(str(url)):
                _refuse_headless(files)
        except NotADirectoryError:
            raise BadInput(f"{url} is no folder; name a store, or a place for a new one") from None
        if schema is None and not create:
            advice = "name one that exists, or make it with `alike extract`"
            if files.size(f"{OF_A_RUN}/{SETTINGS}") is not None:
                advice = f"it holds one: name {str(url).rstrip('/')}/{OF_A_RUN}"
            raise NoStore(f"no store at {url}; {advice}")
        if schema not in (None, SCHEMA):
            raise BadInput(f"{url} has layout {schema!r}, this version reads {SCHEMA!r}")
        store = Store(files, tree)
        if schema is None:
            store._begin()
        return store

    def _begin(self) -> None:
        import zarr

        # To the microsecond: a server tells a store by it from another at the same place.
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        note(self.files, Event("created", "", f"layout {SCHEMA}"))
        zarr.open_group(self.tree, mode="a", zarr_format=3).attrs["schema"] = SCHEMA
        # Last: a store is one when it has its settings.
        self.write_settings({"schema": SCHEMA, "created": now})

    def __repr__(self) -> str:
        # Not the summary, which reads the list of the images.
        return f"<store {self.url}>"

    def _summary(self) -> Summary:
        view = self.images()
        source = self.settings().get("source", {}).get("spec")
        facts = {
            "images": len(view), "classes": int(view["label"].nunique()), "source": source,
            "train share": self.split().train_share,
        }  # fmt: skip
        keys = pd.DataFrame(
            [(key, ", ".join(self.features(key).arrays)) for key in self.groups()],
            columns=["extraction", "arrays"],
        )
        return Summary(f"store {self.url}", facts, tables={"extractions": keys})

    # Features

    def groups(self) -> list[str]:
        """Give the keys of all extractions that are there."""
        return [
            name
            for name in self.files.folders(TREE)
            if is_name(name) and self.files.size(f"{TREE}/{name}/{META}") is not None
        ]

    def features(self, key: str | None = None) -> Features:
        """Open the features of one extraction; without a key the served or the only one.

        Raises:
            BadInput: no such key, or several and none named.
            StoreDamaged: its attributes, or what describes its arrays, are not what was written.
        """
        groups = self.groups()
        if key is None:
            key = groups[0] if len(groups) == 1 else self.settings().get("served")
        lost = [one for one in self.recorded() if one not in groups and key in (None, one)]
        if lost and key not in groups:
            advice = "run the same `alike extract` again: it mends it"
            raise damaged(f"{TREE}/{lost[0]}/{META}", "it is missing", advice)
        if key is None or key not in groups:
            keys = ", ".join(groups) or "none yet: run `alike extract`"
            question = "which features? name one" if key is None else f"no features {key!r}"
            raise BadInput(f"{question}; {self.url} has: {keys}")
        facts = read_group(self.files, key)
        attrs = moved_along(facts.attrs, self.root_path, ("network", "weights", "source"))
        arrays = {name: spec for name, spec in facts.arrays.items() if name != VALID}
        features = Features(self, key, attrs, arrays)
        lost = lost_arrays(facts, features.ledger.sound().values()) if facts.missing else []
        if lost:
            place = f"{TREE}/{key}/{lost[0]}/{META}"
            raise damaged(place, "it is missing", "run the same `alike extract` again: it mends it")
        return features

    def create_features(
        self,
        extraction: Mapping[str, Any],
        key: str,
        arrays: Mapping[str, tuple[tuple[int, ...], str]],
    ) -> Features:
        """Make or grow the arrays of one extraction: metadata only, by one process at a time.

        Args:
            extraction: `Extraction.to_dict()` with what else belongs to the group's attributes.
            key: name of the group; the same key always means the same features.
            arrays: name to (shape of one row, type); those that exist must agree.

        Raises:
            BadInput: the group was made by another network, weights, transform or precision,
                or an array is of a type that a store does not keep.
        """
        check_name(key, "extraction")
        with self.brief_lock("layout"):
            specs = [
                new_spec(check_name(name, "array"), tail, dtype)
                for name, (tail, dtype) in arrays.items()
            ]
            new_arrays = lay_out(self.files, self.tree, key, extraction, specs, self.n_rows)
            if new_arrays:
                note(self.files, Event("laid out", key, f"arrays {', '.join(new_arrays)}"))
        return self.features(key)

    def keep_constants(self, features: Features, values: Mapping[str, np.ndarray]) -> Features:
        """Store constants of a group's network, unless they are there, and seal them.

        Args:
            features: the group.
            values: name to array; the same name always means the same array.

        Returns:
            The group with its attributes as they are now.
        """
        sums = {name: hash_of(value) for name, value in values.items()}
        sealed = sealed_in(features.attrs)
        for name, value in values.items():
            if sealed.get(name) != sums[name] or not features.is_whole([name]):
                features.write_constant(name, value)
        if {**sealed, **sums} == sealed:
            return features
        return self.create_features(
            {**features.attrs, SEALED: {**sealed, **sums}}, features.key, {}
        )


def _refuse_headless(files: Files) -> None:
    """Refuse a store that lost its settings: made anew, they would hold every image out."""
    if files.listing("manifest") or files.folders("ledger"):
        raise StoreDamaged(
            f"{files.url} holds images or features, but {SETTINGS} and its copy are gone: bring "
            "one back from a copy of the store",
            file=SETTINGS,
            fault="is missing",
        )
