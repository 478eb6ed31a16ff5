"""A store without its groups of features: its images, its settings, its locks and its files."""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from alike.extract.command import command_of
from alike.extract.documents import damaged, parquet_bytes, read_table
from alike.extract.errors import BadInput, StoreBusy, StoreDamaged
from alike.extract.identity import is_name
from alike.extract.large_tables import Batches, ParquetFile, write_parquet
from alike.extract.replacing import check_target
from alike.extract.secrets import masked, shown_place
from alike.extract.store.events import Event, note
from alike.extract.store.files import PARTIAL, Files
from alike.extract.store.layout import moved_along
from alike.extract.store.ledger import NAME as RECORD
from alike.extract.store.locks import Lock, holder_of, is_dead, require_writable
from alike.extract.store.lookup import ImageTable
from alike.extract.store.manifest import Manifest, listed_batches, view_of
from alike.extract.store.settings import read_settings, settings_faults, write_settings
from alike.extract.store.sides import Split, ranges_of, rows_in, sides_of
from alike.extract.store.twins import FOLDER as TWINS
from alike.extract.store.twins import (
    GROUPS,
    LINKS,
    SIDES_TABLE,
    TRAINED,
    Signatures,
    by_unit,
    empty_links,
    members_of,
)

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
        self._sides_read: tuple[Any, pd.DataFrame, dict[str, Any]] | None = None

    # Settings

    def set_source(self, spec: str, options: Mapping[str, Any] | None = None) -> None:
        """Remember where the images come from, for the steps that look at them again.

        Of a URL with a password that was not given by the environment the password is left out.
        """
        spec = shown_place(spec)
        self._set(
            "source", {"spec": spec, "options": dict(options or {}), "place": self.shown_place}
        )

    def source(self) -> tuple[str, dict[str, Any]]:
        """Give (spec, options) as `set_source` stored them; `BadInput` before that."""
        source = self.settings().get("source")
        if source is None:
            raise BadInput(f"{self.url} does not know its images; run `alike extract SOURCE` first")
        source = moved_along(source, self.root_path, ("spec",))
        return str(source["spec"]), dict(source["options"])

    def set_split(
        self, train_share: float, salt: str = "", validation_share: float | None = None
    ) -> None:
        """Set the shares of the images that are trained on and that networks are chosen by.

        Args:
            train_share: 0 to 1.
            salt: another salt gives another split.
            validation_share: 0 to 1 - `train_share`; None keeps the store's, which is 0 in stores
                of version 0.1: there the held-out images are decided by too.
        """
        if not 0 <= train_share <= 1:
            raise BadInput(f"train share {train_share}: expected 0 to 1")
        before = self.split()
        validation = before.validation_share if validation_share is None else validation_share
        if not 0 <= validation <= 1 - train_share:
            raise BadInput(
                f"validation share {validation:g} beside train share {train_share:g}: expected "
                f"0 to {1 - train_share:g}, since both are shares of all images"
            )
        split = Split(float(train_share), salt, float(validation))
        self._set("split", vars(split))
        if split != before:
            self.assign_sides()

    def split(self) -> Split:
        """Give how the images are split; a train share of 0 trains on none."""
        return Split(**self.settings().get("split", {}))

    @property
    def is_split(self) -> bool:
        """Whether shares were set, ever."""
        return "split" in self.settings()

    def count_decision(self, split: str, number: int = 1) -> None:
        """Count decisions about networks that were taken by the images of a side."""
        with self.brief_lock("settings"):
            settings = self.settings()
            counts = dict(settings.get("decisions", {}))
            counts[split] = counts.get(split, 0) + number
            self.write_settings({**settings, "decisions": counts})

    def decisions(self) -> dict[str, int]:
        """Give how many decisions were ever taken by the images of each side, as counted."""
        return {str(k): int(v) for k, v in self.settings().get("decisions", {}).items()}

    # Twins and groups: images that must stand on the same side

    def set_twins(self, twins: Literal["together", "ignore"]) -> None:
        """Say whether twins and groups stand on one side: `together`, or `ignore`."""
        if twins not in ("together", "ignore"):
            raise BadInput(f"twins {twins!r}: together or ignore is expected")
        self._set("twins", twins)

    def twins(self) -> str:
        """Give what was set; `together` unless it was."""
        return str(self.settings().get("twins", "together"))

    @property
    def signatures(self) -> Signatures:
        """Thumbnails and hashes of the images, by row."""
        return Signatures(self.files)

    def sign(self, thumbnails: Mapping[int, np.ndarray | None], hashes: np.ndarray) -> None:
        """Keep thumbnails and hashes of rows; see `Signatures.write`."""
        places = {row: place for place, row in enumerate(thumbnails)}
        with self.brief_lock("signatures"):
            for unit, rows in by_unit(thumbnails).items():
                mine = {row: thumbnails[row] for row in rows}
                self.signatures.write(unit, mine, hashes[[places[row] for row in rows]])

    def keep_links(
        self, links: pd.DataFrame, searched: np.ndarray, plain: np.ndarray | None = None
    ) -> None:
        """Keep the pairs of twins (row_a, row_b, correlation, symmetry) and the rows searched.

        Args:
            links: the pairs.
            searched: rows.
            plain: rows of images that can have no twin; None: not known.
        """
        plain_ranges = {} if plain is None else {"plain": ranges_of(plain)}
        self.write_table(LINKS, links, {"searched": ranges_of(searched), **plain_ranges})
        self._remember(LINKS)

    def _remember(self, name: str) -> None:
        """Remember that a table was written: from now on it is missed if it is gone."""
        if name not in self._written():
            self._set("written", sorted({*self._written(), name}))

    def _written(self) -> list[str]:
        return list(self.settings().get("written", []))

    def is_lost(self, name: str) -> bool:
        """Whether a table of twins was written once and is gone now."""
        return self.files.size(name) is None and name in self._written()

    def remove_damaged_twins(self) -> list[str]:
        """Delete links and sides that cannot be read, for a search to make them again.

        Returns:
            Name and fault of each, which the log keeps.

        Raises:
            StoreDamaged: the groups, or what says which images were trained on; nothing is deleted.
        """
        faults = []
        # Without them nothing can be made again, so nothing goes.
        self.image_groups()
        self.trained_ids()
        for name in (LINKS, SIDES_TABLE):
            try:
                self.read_table(name)
            except FileNotFoundError:
                continue
            except StoreDamaged as error:
                self.files.remove(name)
                self._remember(name)
                faults.append(f"{name} ({error.fault})")
                note(self.files, Event("damaged", "", f"{name}: {error.fault}"))
        self._sides_read = None
        return faults

    def plain_rows(self) -> np.ndarray | None:
        """Rows of images that can have no twin, too small or flat; None if that is not known."""
        try:
            plain = self.read_table(LINKS)[1].get("plain")
        except FileNotFoundError:
            return None
        return None if plain is None else rows_in(plain)

    def links(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Give what `keep_links` kept.

        Raises:
            StoreDamaged: a search was made, and its result is gone.
        """
        if self.is_lost(LINKS):
            way_out = f"run `{command_of('twins', self)}` again: it searches anew"
            raise damaged(LINKS, "it is missing", way_out)
        return self.links_there()

    def links_there(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Give what is there of `links`, for a search: what is lost counts as not searched."""
        try:
            table, attrs = self._read_twins(LINKS)
        except FileNotFoundError:
            return empty_links(), np.zeros(0, dtype=np.int64)
        return table, rows_in(attrs["searched"])

    def _read_twins(self, name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Read a table of twins; if it is damaged, the error says who makes it again."""
        again = f"run `{command_of('twins', self)}`: it searches again"
        if name != LINKS:
            again = "run `alike extract` again: it makes it anew"
        return read_table(self.read_file(name), name, again)

    def keep_image_groups(self, groups: pd.DataFrame) -> None:
        """Keep which images share a group (row, group), replacing all."""
        if len(groups) or self.files.size(GROUPS) is not None:
            self.write_table(GROUPS, groups[["row", "group"]].reset_index(drop=True))
            self._remember(GROUPS)

    def image_groups(self) -> pd.DataFrame:
        """Give row, group of the images that have one."""
        try:
            return self._read_twins(GROUPS)[0]
        except FileNotFoundError:
            return pd.DataFrame({"row": np.zeros(0, np.int64), "group": np.zeros(0, object)})

    def mark_trained(self, image_ids: Iterable[str]) -> None:
        """Remember images that a network was trained on: their component stays `train`."""
        trained = self.trained_ids()
        new = sorted(set(image_ids) - trained)
        if new:
            with self.brief_lock("trained"):
                ids = sorted(self.trained_ids() | set(new))
                self.write_table(TRAINED, pd.DataFrame({"image_id": ids}))
                note(self.files, Event("trained", "", f"{len(ids)} images were trained on so far"))
            self.assign_sides()

    def trained_ids(self) -> set[str]:
        """Give the ids of images that a network was trained on, as far as the store knows."""
        try:
            return set(self.read_table(TRAINED)[0]["image_id"])
        except FileNotFoundError:
            return set()

    def assign_sides(self) -> None:
        """Give each component of twins and groups its side, and remember it."""
        split = self.split()
        members = members_of(self.links()[0], self.image_groups())
        if self.n_rows == 0:
            return
        with self.brief_lock("sides"):
            table, attrs = self._sides_table()
            # Images whose last twin was forgotten stay where they stood with it.
            lost = not attrs and self.is_lost(SIDES_TABLE)
            apart = self._trained_apart() if lost else np.array(attrs.get("alone", []), np.int64)
            single = np.setdiff1d(apart, members["row"])
            members = pd.concat([members, pd.DataFrame({"row": single, "component": single})])
            members = members.sort_values("row").reset_index(drop=True)
            members = members.assign(image_id=self.image_ids()[members["row"].to_numpy()])
            stored: dict[int, str] = {}
            if attrs.get("split") == vars(split):
                # Images seen before stand where they stood: with their component, or by their hash.
                old = members[members["row"] < attrs["rows"]]
                alone = dict(zip(old["row"], split.sides(old["image_id"]), strict=True))
                stored = {**alone, **dict(zip(table["row"], table["side"], strict=True))}
            new = sides_of(members, split, stored, self.trained_ids())
            rows: dict[str, Any] = {"split": vars(split), "rows": self.n_rows}
            if len(single):
                rows["alone"] = single.tolist()
            if attrs != rows or not new.equals(table):
                self.write_table(SIDES_TABLE, new, rows)

    def _trained_apart(self) -> np.ndarray:
        """Rows of images that were trained on, and that their hashes put on another side.

        Where what says on which sides images stood is lost, they must not become held out.
        """
        trained = self.trained_ids()
        if not trained:
            return np.zeros(0, dtype=np.int64)
        ids = pd.Series(self.image_ids())
        rows = np.flatnonzero(ids.isin(trained))
        return np.asarray(rows[self.split().sides(ids.iloc[rows]) != "train"])

    def _sides_table(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        stamp = self.files.listing(TWINS).get(SIDES_TABLE.rpartition("/")[2])
        if stamp is None:
            return pd.DataFrame(columns=["row", "component", "image_id", "side"]), {}
        if self._sides_read is None or self._sides_read[0] != stamp:
            self._sides_read = (stamp, *self._read_twins(SIDES_TABLE))
        return self._sides_read[1], self._sides_read[2]

    def forget_twins(self, rows: np.ndarray) -> None:
        """Leave rows out of all that is known of twins and groups; the others keep their side."""
        self.signatures.remove(rows)
        table, attrs = self._sides_table()
        if self.files.size(LINKS) is not None:
            links, searched = self.links_there()
            linked = links["row_a"].isin(rows) | links["row_b"].isin(rows)
            plain = self.plain_rows()
            self.keep_links(
                links[~linked].reset_index(drop=True),
                np.setdiff1d(searched, rows),
                None if plain is None else np.setdiff1d(plain, rows),
            )
        groups = self.image_groups()
        if groups["row"].isin(rows).any():
            self.keep_image_groups(groups[~groups["row"].isin(rows)])
        if not attrs:
            return
        members = members_of(self.links_there()[0], self.image_groups())
        rest = table[~table["row"].isin(rows)].reset_index(drop=True)
        alone = np.setdiff1d(rest["row"].to_numpy(dtype=np.int64), members["row"])
        with self.brief_lock("sides"):
            self.write_table(SIDES_TABLE, rest, {**attrs, "alone": alone.tolist()})
        self.assign_sides()

    def forget_trained(self, image_ids: Iterable[str]) -> None:
        """Leave images out of those that a network was trained on."""
        trained = self.trained_ids()
        if trained & set(image_ids):
            with self.brief_lock("trained"):
                rest = sorted(self.trained_ids() - set(image_ids))
                ids = pd.Series(rest, dtype=object)
                self.write_table(TRAINED, pd.DataFrame({"image_id": ids}))

    def components(self) -> pd.DataFrame:
        """Give row, component (its smallest row), side of images with a twin or in a group."""
        return self._sides_table()[0][["row", "component", "side"]]

    def sides(self, rows: np.ndarray, image_ids: pd.Series | np.ndarray) -> np.ndarray:
        """Give the side of rows, (N,) of `object`: by hash, or that of the row's component."""
        by_hash = self.split().sides(image_ids)
        if self.twins() == "ignore":
            return by_hash
        table = self._sides_table()[0]
        if table.empty:
            self.require_sides()
        together = pd.Series(table["side"].to_numpy(), table["row"].to_numpy(dtype=np.int64))
        own = together.reindex(rows).to_numpy(dtype=object)
        return np.where(pd.isna(own), by_hash, own)

    def require_sides(self) -> None:
        """Raise `StoreDamaged` if images belong together and their sides are gone."""
        if self.files.size(SIDES_TABLE) is not None:
            return
        if len(members_of(self.links()[0], self.image_groups())):
            way_out = "run `alike extract` again: it assigns the sides of twins and groups anew"
            raise damaged(SIDES_TABLE, "is missing", way_out)

    def set_served(self, key: str) -> None:
        """Set the extraction that is meant if none is named, in a store that holds several."""
        self._set("served", key)

    def remember_policy(self, policy: Mapping[str, Any]) -> None:
        """Remember what is to be kept of the past, for `alike store gc`."""
        self._set("keep", dict(policy))

    def settings(self) -> dict[str, Any]:
        """Read all settings; `StoreDamaged` if neither they nor their copy can be read."""
        return read_settings(self.files)

    def _set(self, name: str, value: object) -> None:
        if self.settings().get(name) != value:
            with self.brief_lock("settings"):
                self.write_settings({**self.settings(), name: value})

    def mend_settings(self) -> list[str]:
        """Write the settings and their copy anew if one is damaged; give what was, a line each.

        Raises:
            StoreDamaged: neither can be read.
        """
        faults = settings_faults(self.files)
        if faults:
            with self.brief_lock("settings"):
                self.write_settings(self.settings())
        return [f"{file} was damaged ({fault})" for file, fault, _ in faults]

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
        rows = self.list_batches(listed_batches(listing))
        return view_of(listing, rows)

    def list_batches(self, listing: Batches) -> np.ndarray:
        """`list_images` of a listing that may be larger than memory.

        Memory is at most 33 bytes an image, and some 300 MB.

        Args:
            listing: the columns of `list_images`, `subset` among them.

        Returns:
            (N,) int64: the row of every image, -1 if its state is not `ok`.
        """
        with self.brief_lock("listing"):
            rows, n_new = self.manifest.list_images(listing, self._refuse_to_grow, time.time())
            if n_new:
                note(self.files, Event("listed", "", f"{len(rows)} images, {n_new} new"))
        return rows

    def images(self) -> pd.DataFrame:
        """Give the view, as `list_images` returned it last; `StoreDamaged` if it is gone."""
        self._check_listed()
        return self.manifest.view()

    def image_table(self) -> ImageTable:
        """Give the images of the view that have a row, as a look-up that takes little memory."""
        self._check_listed()
        return self.manifest.table()

    def _check_listed(self) -> None:
        if self.view_stamp() is None and not self.n_rows and self.recorded():
            raise damaged("manifest", "is missing", "restore it from a copy: it names the images")

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

    def index_lock(self, key: str, measure: str) -> Lock:
        """Hold the index of a measure for a build; does not wait for others."""
        place = f"locks/index-{key}-{measure}.json"
        return Lock(self.files, place, f"the index of {measure} of {key}")

    def _refuse_to_grow(self, n_new: int) -> None:
        """New rows move the end of the last unit under a running extraction's feet."""
        self.refuse_while_extracting(f"{n_new} new images cannot be listed")

    def refuse_while_extracting(self, what: str) -> None:
        """Raise `StoreBusy` if another living process extracts; `what` cannot be done then."""
        for name in sorted(self.files.listing("locks")):
            if not (name.startswith(_RUN) and name.endswith(".json")):
                continue
            if name[len(_RUN) : -len(".json")] in self._held:
                continue
            holder = holder_of(self.files, f"locks/{name}")
            if holder and not is_dead(self.files, f"locks/{name}", holder):
                raise StoreBusy(
                    f"{what} in {self.url} while process {holder.pid} "
                    f"on {holder.host} extracts; wait for it to end"
                )

    def require_writable(self, name: str = "") -> None:
        """Refuse to begin what ends with files that cannot be written here.

        Args:
            name: of the file that comes at the end, if it is known.

        Raises:
            BadInput: it cannot be written. Of a remote store only writing tells.
        """
        require_writable(self.files)
        if name and self.files.root is not None:
            check_target(self.files.root / name)

    # Other files of the store

    @property
    def root_path(self) -> Path | None:
        """The store's folder, None for a remote store."""
        return self.files.root

    @property
    def place(self) -> str:
        """Where the store is: its URL, or the full path of its folder."""
        return self.url if self.files.root is None else str(self.files.root.absolute())

    @property
    def shown_place(self) -> str:
        """The same with what a URL may hold of secrets masked, as it may be written down."""
        return masked(self.place) if self.files.root is None else self.place

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

    def remove_file(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""
        self.files.remove(name)

    def file_names(self, folder: str) -> list[str]:
        """Give the names of the files right in a folder, sorted; [] if there is no folder."""
        return sorted(self.files.listing(folder))

    def write_table(
        self, name: str, table: pd.DataFrame, attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Replace a Parquet table, with attributes (JSON) in its metadata."""
        self.write_file(name, parquet_bytes(table, name, attrs))

    def write_batches(
        self, name: str, like: pd.DataFrame, table: Batches, attrs: Mapping[str, Any]
    ) -> None:
        """`write_table` of a table that may be larger than memory.

        Args:
            name: of the file.
            like: a row with the types of all.
            table: its batches; columns are those of `like`, in any order.
            attrs: JSON, kept in the file's metadata.
        """
        with self.files.scratch() as scratch:
            file = scratch / f"{uuid.uuid4().hex}{PARTIAL}"
            write_parquet(file, like, table.num_rows, name, table.to_batches(), attrs)
            self.files.put(name, file)

    def open_batches(self, name: str, columns: Sequence[str], scratch: Path) -> ParquetFile:
        """`read_table` in batches.

        Args:
            name: of the file.
            columns: that are read.
            scratch: a folder of `Files.scratch`, for the copy of a remote file.

        Raises:
            FileNotFoundError: there is none.
            StoreDamaged: as `read_table`; a checksum does not hold when its batch is read.
        """
        source = self.files.local(name, scratch)
        return ParquetFile(source, name, "delete it and make it again", columns)

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
