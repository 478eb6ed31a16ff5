"""What a store knows of twins: signatures of images, links between them, the sides that follow.

`twins/signatures/000003.parquet` holds the thumbnails and hashes of the rows of a unit;
`links.parquet`, `groups.parquet` and `sides.parquet` are replaced as wholes. None holds anything
that cannot be made again but `sides.parquet`: it remembers on which side images stood first.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from alike.extract.documents import parquet_bytes, read_arrow
from alike.extract.errors import StoreDamaged
from alike.extract.store.arrays import UNIT
from alike.extract.store.files import Files
from alike.extract.store.sides import components

FOLDER = "twins"
_SIGNATURES = f"{FOLDER}/signatures"
LINKS = f"{FOLDER}/links.parquet"
GROUPS = f"{FOLDER}/groups.parquet"
SIDES_TABLE = f"{FOLDER}/sides.parquet"
TRAINED = f"{FOLDER}/trained.parquet"
_SIGNED = re.compile(r"\d{6}\.parquet")
"""Name of a file of signatures; others in the folder are none of ours."""
_CELLS = 64
_LINK_COLUMNS = {"row_a": np.int64, "row_b": np.int64, "correlation": float, "symmetry": np.int64}


class Signatures:
    """Thumbnails and hashes of images, a file a unit of rows; a row means its image for ever."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def units(self) -> list[int]:
        """Give the units that have some, ascending."""
        names = self._files.listing(_SIGNATURES)
        return sorted(int(name[:6]) for name in names if _SIGNED.fullmatch(name))

    def rows(self, unit: int) -> np.ndarray:
        """Give the rows of a unit that were looked at, ascending."""
        table = self._read(unit, ["row"])
        return np.zeros(0, dtype=np.int64) if table is None else table["row"].to_numpy()

    def write(
        self, unit: int, thumbnails: Mapping[int, np.ndarray | None], hashes: np.ndarray
    ) -> None:
        """Add rows of a unit; those that are there stay. The caller holds the lock.

        Args:
            unit: the unit.
            thumbnails: row to uint8 (64, 64), None for an image that is too small to have one.
            hashes: (n, 10) uint64 in the same order; of no meaning without a thumbnail.
        """
        rows = list(thumbnails)
        new = pd.DataFrame(
            {
                "row": np.array(rows, dtype=np.int64),
                "thumbnail": [
                    None if one is None else one.tobytes() for one in thumbnails.values()
                ],
                "hashes": [one.tobytes() for one in hashes],
            }
        )
        old = self._read(unit)
        table = new if old is None else pd.concat([old, new[~new["row"].isin(old["row"])]])
        table = table.sort_values("row").reset_index(drop=True)
        name = f"{_SIGNATURES}/{unit:06d}.parquet"
        self._files.write(name, parquet_bytes(table, name))

    def remove(self, rows: np.ndarray) -> None:
        """Delete what is known of rows."""
        for unit in sorted(set(by_unit(rows.tolist())) & set(self.units())):
            name = f"{_SIGNATURES}/{unit:06d}.parquet"
            table = self._read(unit)
            if table is None:
                # Nobody can read it, but it may hold them.
                self._files.remove(name)
            elif table["row"].isin(rows).any():
                rest = table[~table["row"].isin(rows)].reset_index(drop=True)
                self._files.write(name, parquet_bytes(rest, name))

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Give all rows that were looked at, and what those with a thumbnail have.

        Memory is 4 KiB an image. What a damaged file held is not among them.

        Returns:
            Rows (m,) int64; rows (n,) that have a thumbnail, thumbnails (n, 64, 64) uint8 and
            hashes (n, 10) uint64.
        """
        tables = [table for unit in self.units() if (table := self._read(unit)) is not None]
        every = np.concatenate([np.zeros(0, np.int64), *(table["row"] for table in tables)])
        parts = [table[table["thumbnail"].notna()] for table in tables]
        count = sum(map(len, parts))
        rows = np.empty(count, dtype=np.int64)
        thumbnails = np.empty((count, _CELLS, _CELLS), dtype=np.uint8)
        hashes = np.empty((count, 10), dtype=np.uint64)
        at = 0
        for part in parts:
            here = slice(at, at + len(part))
            rows[here] = part["row"]
            for place, data, hashed in zip(
                range(at, at + len(part)), part["thumbnail"], part["hashes"], strict=True
            ):
                thumbnails[place] = np.frombuffer(data, np.uint8).reshape(_CELLS, _CELLS)
                hashes[place] = np.frombuffer(hashed, np.uint64)
            at += len(part)
        return every, rows, thumbnails, hashes

    def _read(self, unit: int, columns: list[str] | None = None) -> pd.DataFrame | None:
        name = f"{_SIGNATURES}/{unit:06d}.parquet"
        try:
            data = self._files.read(name)
            table = read_arrow(data, name, "it is made again", columns).to_pandas()
        except (FileNotFoundError, StoreDamaged):
            # What a damaged file held is computed again when the images are read again.
            return None
        return table


def by_unit(rows: Iterable[int]) -> dict[int, list[int]]:
    """Give unit to the rows of it."""
    units: dict[int, list[int]] = {}
    for row in rows:
        units.setdefault(row // UNIT, []).append(row)
    return units


def empty_links() -> pd.DataFrame:
    """Give the table of links without any."""
    return pd.DataFrame({name: np.zeros(0, kind) for name, kind in _LINK_COLUMNS.items()})


def members_of(links: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Give row, component of the images that have a twin or share their group.

    Args:
        links: row_a, row_b.
        groups: row, group.
    """
    first = groups.groupby("group")["row"].transform("min")
    pairs = np.concatenate(
        [
            links[["row_a", "row_b"]].to_numpy(dtype=np.int64).reshape(-1, 2),
            np.column_stack([first, groups["row"]]).astype(np.int64).reshape(-1, 2),
        ]
    )
    table = components(pairs)
    sizes = table.groupby("component")["row"].transform("size")
    return table[sizes > 1].reset_index(drop=True)
