"""A store without its groups of features: its images, its settings, its locks and its files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alike.extract.documents import damaged, parquet_bytes, read_table
from alike.extract.errors import BadInput, StoreBusy
from alike.extract.identity import is_name
from alike.extract.store.events import Event, note
from alike.extract.store.files import Files
from alike.extract.store.layout import moved_along
from alike.extract.store.ledger import NAME as RECORD
from alike.extract.store.locks import Lock, holder_of, is_dead, require_writable
from alike.extract.store.manifest import Manifest
from alike.extract.store.settings import read_settings, write_settings

_RUN = "extract-"


class StoreBase:
    """What a group of features needs of the store that it belongs to, and all but the groups.

    Attributes:
        url: where it lies.
        files: its files; with `tree` and `manifest` for the modules of `alike.extract.store` only.
        tree: its Zarr store.
        manifest: rows and the current view.
    """

    def __init__(self, files: Files, tree: Any) -> None:
        self.url = files.url
        self.files = files
        self.tree = tree
        self.manifest = Manifest(files)
        self._held: set[str] = set()

    # Settings

    def set_source(self, spec: str, options: Mapping[str, Any] | None = None) -> None:
        """Remember where the images come from, for the steps that look at them again."""
        self._set("source", {"spec": spec, "options": dict(options or {}), "place": self.place})

    def source(self) -> tuple[str, dict[str, Any]]:
        """Give (spec, options) as `set_source` stored them; `BadInput` before that."""
        source = self.settings().get("source")
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
        split = self.settings().get("split", {"train_share": 0.0, "salt": ""})
        return float(split["train_share"]), str(split["salt"])

    def set_served(self, key: str) -> None:
        """Set the extraction that is meant if none is named, in a store that holds several."""
        self._set("served", key)

    def settings(self) -> dict[str, Any]:
        """Read all settings; `StoreDamaged` if neither they nor their copy can be read."""
        return read_settings(self.files)

    def _set(self, name: str, value: object) -> None:
        if self.settings().get(name) != value:
            with self.brief_lock("settings"):
                self.write_settings({**self.settings(), name: value})

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Replace all settings."""
        write_settings(self.files, settings)

    # Images

    def list_images(self, listing: pd.DataFrame) -> pd.DataFrame:
        """Make the set exactly this listing, and give images that are new the next rows.

        A row belongs to an image's bytes for ever: two files with the same bytes share one,
        and a file that was renamed, relabelled or taken away and back keeps it.

        Args:
            listing: image_id (SHA-256 of the bytes, hexadecimal), path, label (str or None),
                size (bytes), state (`ok`, or why there is no image), reason.

        Returns:
            The view: the listing with a column row (int64), -1 if the state is not `ok`.
        """
        with self.brief_lock("listing"):
            n_before = self.n_rows
            view = self.manifest.list_images(listing, self._refuse_while_extracting)
            if self.n_rows > n_before:
                counts = f"{len(view)} images, {self.n_rows - n_before} new"
                note(self.files, Event("listed", "", counts))
        return view

    def images(self) -> pd.DataFrame:
        """Give the view, as `list_images` returned it last; `StoreDamaged` if it is gone."""
        if self.view_stamp() is None and not self.n_rows and self.recorded():
            raise damaged("manifest", "is missing", "restore it from a copy: it names the images")
        return self.manifest.view()

    def recorded(self) -> list[str]:
        """Give the keys of the extractions that have records in the ledger."""
        return [
            key
            for key in self.files.folders("ledger")
            if is_name(key) and any(map(RECORD.fullmatch, self.files.listing(f"ledger/{key}")))
        ]

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

    def brief_lock(self, what: str) -> Lock:
        """Hold something of the whole store for a moment; waits for others."""
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

    def require_writable(self) -> None:
        """Raise `BadInput` if the store cannot be written: before a computation, not after it."""
        require_writable(self.files)

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
            raise BadInput(f"{self.url} is no local folder; this step needs one")
        return self.files.root.joinpath(*parts)

    def write_file(self, name: str, data: bytes) -> None:
        """Replace a file as one atomic, durable step."""
        self.files.write(name, data)

    def read_file(self, name: str) -> bytes:
        """Read a file; `FileNotFoundError` if there is none."""
        return self.files.read(name)

    def write_table(
        self, name: str, table: pd.DataFrame, attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Replace a Parquet table, with attributes (JSON) in its metadata."""
        self.write_file(name, parquet_bytes(table, name, attrs))

    def read_table(
        self, name: str, columns: Mapping[str, str] | None = None
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Read a table and its attributes.

        Args:
            name: of the file.
            columns: columns that it must have, and the kind of each; see `extract.documents`.

        Raises:
            FileNotFoundError: there is none.
            StoreDamaged: it cannot be read, a checksum does not hold, or it is another table.
        """
        return read_table(self.read_file(name), name, "delete it and make it again", columns)
