"""The store: features of images that can be trusted for years; the only door to Zarr.

A store is a folder (or an S3-like URL): plain Zarr v3 arrays, and beside them a ledger of what is
committed, a manifest of which image a row belongs to, and what later steps make (`tables/`,
`index/`, `runs/`). See docs/store.md for the layout and the promises.
"""

import datetime
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alike.extract.display import Displayed, Summary
from alike.extract.errors import BadInput, StoreBusy, StoreDamaged
from alike.extract.store.arrays import UNIT, VALID, ArraySpec, spec_of
from alike.extract.store.commit import ABSENT
from alike.extract.store.events import Event, note
from alike.extract.store.features import Features
from alike.extract.store.files import Files
from alike.extract.store.layout import lay_out, moved_along, open_place
from alike.extract.store.locks import Lock, holder_of, is_dead
from alike.extract.store.manifest import Manifest, parquet_bytes, parquet_table

__all__ = ["ABSENT", "UNIT", "Features", "Store"]

SCHEMA = "alike-store/1"
_SETTINGS = "store.json"
_RUN = "extract-"
_ATTRS = b"alike"


class Store(Displayed):
    """A folder or URL with features of one set of images.

    Attributes:
        url: where it lies.
        files: its files; with `tree` and `manifest` for the modules `extract.store_*` only.
        tree: its Zarr store.
        manifest: rows and the current view.
    """

    def __init__(self, files: Files, tree: Any) -> None:
        self.url = files.url
        self.files = files
        self.tree = tree
        self.manifest = Manifest(files)
        self._held: set[str] = set()

    @staticmethod
    def open(url: str | Path, *, create: bool = False, **options: Any) -> "Store":
        """Open a store.

        Args:
            url: a folder, or any URL of fsspec such as `s3://bucket/place`.
            create: make an empty store where there is none.
            options: given to fsspec, for a URL (endpoint, credentials).

        Raises:
            BadInput: there is no store, or one of another layout.
        """
        files, tree = open_place(str(url), options)
        try:
            schema = json.loads(files.read(_SETTINGS)).get("schema")
        except FileNotFoundError:
            schema = None
        except NotADirectoryError:
            raise BadInput(f"{url} is no folder; name a store, or a place for a new one") from None
        except ValueError as error:
            raise StoreDamaged(f"{url}/{_SETTINGS} is damaged ({error}); restore it") from error
        if schema is None and not create:
            raise BadInput(
                f"no store at {url}; name one that exists, or make it with `alike extract`"
            )
        if schema not in (None, SCHEMA):
            raise BadInput(f"{url} has layout {schema!r}, this version reads {SCHEMA!r}")
        store = Store(files, tree)
        if schema is None:
            store._begin()
        return store

    def _begin(self) -> None:
        import zarr

        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        note(self.files, Event("created", "", f"layout {SCHEMA}"))
        zarr.open_group(self.tree, mode="a", zarr_format=3).attrs["schema"] = SCHEMA
        # Last: a store is one when it has its settings.
        self._write_settings({"schema": SCHEMA, "created": now})

    def __repr__(self) -> str:
        # Not the summary, which reads the list of the images.
        return f"<store {self.url}>"

    def _summary(self) -> Summary:
        view = self.images()
        source = self._settings().get("source", {}).get("spec")
        facts = {
            "images": len(view), "classes": int(view["label"].nunique()), "source": source,
            "train share": self.split()[0],
        }  # fmt: skip
        keys = pd.DataFrame(
            [(key, ", ".join(self.features(key).arrays)) for key in self.groups()],
            columns=["extraction", "arrays"],
        )
        return Summary(f"store {self.url}", facts, tables={"extractions": keys})

    # Settings

    def set_source(self, spec: str, options: Mapping[str, Any] | None = None) -> None:
        """Remember where the images come from, for the steps that look at them again."""
        self._set("source", {"spec": spec, "options": dict(options or {}), "place": self.place})

    def source(self) -> tuple[str, dict[str, Any]]:
        """Give what `set_source` was told; `BadInput` before that."""
        source = self._settings().get("source")
        if source is None:
            raise BadInput(f"{self.url} does not know its images; run `alike extract SOURCE` first")
        source = moved_along(source, self.root_path, ("spec",))
        return str(source["spec"]), dict(source["options"])

    def set_split(self, train_share: float, salt: str = "") -> None:
        """Set the share of the images that may be trained on, 0 to 1."""
        if not 0 <= train_share <= 1:
            raise BadInput(f"train share {train_share}: expected 0 to 1")
        self._set("split", {"train_share": float(train_share), "salt": salt})

    def split(self) -> tuple[float, str]:
        """Give (train_share, salt); a share of 0 holds every image out."""
        split = self._settings().get("split", {"train_share": 0.0, "salt": ""})
        return float(split["train_share"]), str(split["salt"])

    def set_served(self, key: str) -> None:
        """Say which extraction is meant where none is named, of a store that holds several."""
        self._set("served", key)

    def _settings(self) -> dict[str, Any]:
        return dict(json.loads(self.files.read(_SETTINGS)))

    def _set(self, name: str, value: object) -> None:
        if self._settings().get(name) != value:
            with self._brief("settings"):
                self._write_settings({**self._settings(), name: value})

    def _write_settings(self, settings: dict[str, Any]) -> None:
        self.files.write(_SETTINGS, json.dumps(settings, indent=1).encode())

    # Images

    def list_images(self, listing: pd.DataFrame) -> pd.DataFrame:
        """Make the set exactly this listing, and give images that are new the next rows.

        A row belongs to an image's bytes for ever: two files with the same bytes share one,
        and a file that was renamed, relabelled or taken away and back keeps it.

        Args:
            listing: image_id (SHA-256 of the bytes, hexadecimal), path, label (str or None),
                size (bytes), state (`ok`, or why there is no image), reason.

        Returns:
            The view: the listing with a column row (int64), -1 where the state is not `ok`.
        """
        with self._brief("listing"):
            n_before = self.n_rows
            view = self.manifest.list_images(listing, self._refuse_while_extracting)
            if self.n_rows > n_before:
                said = f"{len(view)} images, {self.n_rows - n_before} new"
                note(self.files, Event("listed", "", said))
        return view

    def images(self) -> pd.DataFrame:
        """Give the view, as `list_images` returned it last."""
        return self.manifest.view()

    def view_stamp(self) -> Any:
        """Changes with every listing; cheap to ask."""
        return self.manifest.view_stamp()

    def image_ids(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Give the image ids of a range of rows (None: to the last), (n,) of `object`."""
        return self.manifest.image_ids(start, stop)

    @property
    def n_rows(self) -> int:
        """Rows that have been given to images, removed ones included."""
        return self.manifest.n_rows

    # Features

    def groups(self) -> list[str]:
        """Give the keys of all extractions."""
        import zarr

        return sorted(zarr.open_group(self.tree, mode="r").group_keys())

    def features(self, key: str | None = None) -> Features:
        """Open the features of one extraction; without a key the served or the only one.

        Raises:
            BadInput: no such key, or several and none named.
        """
        import zarr

        groups = self.groups()
        if key is None:
            key = groups[0] if len(groups) == 1 else self._settings().get("served")
        if key is None or key not in groups:
            have = ", ".join(groups) or "none yet: run `alike extract`"
            wanted = "which features? name one" if key is None else f"no features {key!r}"
            raise BadInput(f"{wanted}; {self.url} has: {have}")
        group = zarr.open_group(self.tree, path=key, mode="r")
        arrays = {
            name: spec_of(name, array) for name, array in sorted(group.arrays()) if name != VALID
        }
        attrs = moved_along(dict(group.attrs), self.root_path, ("network", "weights", "source"))
        return Features(self, key, attrs, arrays)

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
            BadInput: the group was made by another network, weights, transform or precision.
        """
        with self._brief("layout"):
            specs = [
                ArraySpec(name, tuple(tail), str(np.dtype(dtype)))
                for name, (tail, dtype) in arrays.items()
            ]
            added = lay_out(self.files, self.tree, key, extraction, specs, self.n_rows)
            if added:
                note(self.files, Event("laid out", key, f"arrays {', '.join(added)}"))
        return self.features(key)

    # One writer at a time

    @contextmanager
    def lock(self, key: str, wait: float = 0.0) -> Iterator[None]:
        """Hold one extraction for a run; may be nested.

        Args:
            key: the extraction, whether its group exists or not.
            wait: seconds to wait for another run's end.

        Raises:
            StoreBusy: another living process holds it; the message names its host and process.
        """
        if key in self._held:
            yield
            return
        with Lock(self.files, f"locks/{_RUN}{key}.json", f"the extraction {key}", wait):
            self._held.add(key)
            try:
                yield
            finally:
                self._held.remove(key)

    def _brief(self, what: str) -> Lock:
        return Lock(self.files, f"locks/{what}.json", f"the {what}", wait=60.0)

    def _refuse_while_extracting(self, n_new: int) -> None:
        """New rows move the end of the last unit under a running extraction's feet."""
        for name in sorted(self.files.listing("locks")):
            if not (name.startswith(_RUN) and name.endswith(".json")):
                continue
            if name[len(_RUN) : -len(".json")] in self._held:
                continue
            holder = holder_of(self.files, f"locks/{name}")
            if holder and not is_dead(self.files, f"locks/{name}", holder):
                raise StoreBusy(
                    f"{n_new} new images cannot be listed in {self.url} while process {holder.pid} "
                    f"on {holder.host} extracts; wait for it to end"
                )

    # Other files of the store

    @property
    def root_path(self) -> Path | None:
        """The store's folder, None for a remote store."""
        return self.files.root

    @property
    def place(self) -> str:
        """Where the store is: its URL, or the full path of its folder."""
        return self.url if self.files.root is None else str(self.files.root.absolute())

    def path(self, *parts: str) -> Path:
        """Give a path in a local store's folder; `BadInput` for a remote one."""
        if self.files.root is None:
            raise BadInput(f"{self.url} is no local folder, as this step needs")
        return self.files.root.joinpath(*parts)

    def write_file(self, name: str, data: bytes) -> None:
        """Replace a file as one atomic, durable step."""
        self.files.write(name, data)

    def read_file(self, name: str) -> bytes:
        """Read a file; `FileNotFoundError` where there is none."""
        return self.files.read(name)

    def write_table(
        self, name: str, table: pd.DataFrame, attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Replace a Parquet table, with attributes (JSON) in its metadata."""
        metadata = {_ATTRS: json.dumps(dict(attrs or {})).encode()}
        self.write_file(name, parquet_bytes(table, metadata))

    def read_table(self, name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Read a table and its attributes.

        Raises:
            FileNotFoundError: there is none.
            StoreDamaged: it cannot be read or a checksum does not hold.
        """
        try:
            table = parquet_table(self.read_file(name))
        except (ValueError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise StoreDamaged(f"{name} is damaged ({error}); make it again") from error
        return table.to_pandas(), dict(json.loads(table.schema.metadata.get(_ATTRS, b"{}")))
