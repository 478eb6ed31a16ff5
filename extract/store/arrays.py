"""How one array of features lies in Zarr: shapes, chunks, codecs, and its whole-shard writes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alike.extract.documents import damaged
from alike.extract.errors import BadInput

UNIT = 1024
"""Rows of one unit of work: one shard of every array, one record of the ledger."""

TREE = "features.zarr"
"""Folder of the Zarr hierarchy inside a store."""

VALID = "valid"
"""Name of the array that says which rows have a feature; derived from the ledger."""

VALID_ROWS = 2**20
"""Rows of one chunk of `valid`."""

TYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
"""Element types that a store keeps."""

_COLUMNS = (
    *("image_id", "path", "label", "labelled", "size", "state", "reason"),
    *("subset", "group", "row", "split"),
)
RESERVED = frozenset({
    *(VALID, "attrs", "neighbors", "filepath", "tags", "ground_truth"),
    *_COLUMNS,
    *(f"image_{name}" for name in _COLUMNS),
})  # fmt: skip
"""Names that stand for something else in a store, or in a file that holds arrays beside images."""

_CHUNK_BYTES = 384 * 1024
_MAX_CHUNK_ROWS = 128
_AXES = {1: ("feature",), 2: ("token", "channel"), 3: ("channel", "y", "x")}


@dataclass(frozen=True)
class ArraySpec:
    """One array of a group: row i holds the feature of image row i.

    Attributes:
        name: name in the group, such as `last_conv`.
        tail: shape of one row.
        dtype: numpy's name of the element type.
    """

    name: str
    tail: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row."""
        return int(np.dtype(self.dtype).itemsize * math.prod(self.tail))

    @property
    def chunk_rows(self) -> int:
        """Rows of one inner chunk: a power of two, about 384 KiB, 1 to 128."""
        exponent = round(math.log2(_CHUNK_BYTES / max(self.row_bytes, 1)))
        return int(2 ** min(max(exponent, 0), int(math.log2(_MAX_CHUNK_ROWS))))

    @property
    def compressed(self) -> bool:
        """Maps are sparse and shrink; dense vectors do not, and get a checksum only."""
        return len(self.tail) > 1

    @property
    def fill(self) -> float | int:
        """What a missing row reads as: NaN, loud; 0 for the types that have none."""
        return float("nan") if np.dtype(self.dtype).kind == "f" else 0

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the axes, unique in a group so that xarray can open it."""
        axes = _AXES.get(len(self.tail)) or tuple(f"axis{i}" for i in range(len(self.tail)))
        return ("image", *(f"{self.name}_{axis}" for axis in axes))

    def shard_name(self, unit: int) -> str:
        """Name of the file of a unit, inside the array's folder."""
        return f"c.{unit}" + ".0" * len(self.tail)

    def empty(self, rows: int) -> np.ndarray:
        """Give `rows` missing rows."""
        return np.full((rows, *self.tail), self.fill, dtype=self.dtype)


def new_spec(name: str, tail: Sequence[int], dtype: Any) -> ArraySpec:
    """Describe an array of features that comes from outside, whatever its byte order.

    Raises:
        BadInput: its numbers are of a type that a store does not keep, or it has none.
    """
    try:
        kind = np.dtype(dtype).newbyteorder("=").name
    except TypeError:
        kind = str(dtype)
    if kind not in TYPES:
        raise BadInput(
            f"array {name!r} holds {kind}, and a store keeps floats of 16, 32 or 64 bits, whole "
            "numbers and bool: cast it, such as to float32"
        )
    shape = tuple(int(n) for n in tail)
    if 0 in shape:
        raise BadInput(f"array {name!r} has rows of shape {shape}, which hold no number")
    return ArraySpec(name, shape, kind)


def check_free(name: str) -> None:
    """Refuse a name of an array that another thing has: `BadInput`."""
    if name in RESERVED:
        raise BadInput(
            f"array {name!r}: stores and exported files keep something else under this name; name "
            "it otherwise"
        )


def spec_of(name: str, array: Any) -> ArraySpec:
    """Describe a Zarr array that lies in a store."""
    return ArraySpec(name, tuple(int(n) for n in array.shape[1:]), str(array.dtype))


def create_array(group: Any, spec: ArraySpec, rows: int) -> None:
    """Create the array of `spec` with `rows` missing rows in a Zarr group."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    codec = ZstdCodec(level=1, checksum=True) if spec.compressed else Crc32cCodec()
    group.create_array(
        spec.name,
        shape=(rows, *spec.tail),
        chunks=(spec.chunk_rows, *spec.tail),
        shards=(UNIT, *spec.tail),
        dtype=spec.dtype,
        fill_value=spec.fill,
        compressors=[codec],
        dimension_names=spec.dimensions,
        # One flat folder of shards: "/" would make a chain of folders for each.
        chunk_key_encoding={"name": "default", "separator": "."},
    )


def create_valid(group: Any, rows: int) -> None:
    """Create the array `valid`, all 0."""
    from zarr.codecs import Crc32cCodec

    group.create_array(
        VALID,
        shape=(rows,),
        chunks=(VALID_ROWS,),
        dtype="uint8",
        fill_value=0,
        compressors=[Crc32cCodec()],
        dimension_names=("image",),
    )


_LAID_OUT = (
    "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs", "dimension_names",
)  # fmt: skip


def described_otherwise(tree: Any, key: str, spec: ArraySpec) -> bool:
    """Say whether Zarr would write the rows of an array otherwise than this store lays them out."""
    import zarr

    scratch = zarr.open_group(zarr.storage.MemoryStore(), mode="w", zarr_format=3)
    create_valid(scratch, 0) if spec.name == VALID else create_array(scratch, spec, 0)
    try:
        array = zarr.open_array(tree, path=f"{key}/{spec.name}", mode="r", zarr_format=3)
    # A damaged description makes zarr-python raise anything.
    except Exception:
        return True
    actual, expected = array.metadata.to_dict(), scratch[spec.name].metadata.to_dict()
    return any(repr(actual.get(name)) != repr(expected.get(name)) for name in _LAID_OUT)


def read_valid(tree: Any, key: str) -> np.ndarray:
    """Read the array `valid` of a group; `StoreDamaged` if it is missing or broken."""
    import zarr

    place = f"{TREE}/{key}/{VALID}"
    try:
        return np.asarray(zarr.open_array(tree, path=f"{key}/{VALID}", mode="r", zarr_format=3)[:])
    # A damaged array makes zarr-python raise anything.
    except Exception as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else error
        raise damaged(place, reason, "run `alike extract` again: it writes it anew") from error


def write_rows(tree: Any, place: str, lo: int, rows: np.ndarray) -> None:
    """Write rows lo to lo + len(rows) of one shard, as one assignment from the shard's start.

    Args:
        tree: the Zarr store of all features.
        place: group and array, `<key>/<name>`.
        lo: the unit's first row.
        rows: (n, *tail); every row of the unit up to the array's end.
    """
    import zarr

    zarr.open_array(tree, path=place, mode="r+", zarr_format=3)[lo : lo + len(rows)] = rows


def shard_bytes(spec: ArraySpec, rows: np.ndarray) -> bytes:
    """Give the file that `write_rows` makes of a unit's rows; empty for missing rows alone.

    Args:
        spec: the array.
        rows: (n, *tail), from the unit's first row on.
    """
    import zarr

    written: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(written)
    create_array(zarr.open_group(memory, mode="w", zarr_format=3), spec, len(rows))
    write_rows(memory, spec.name, 0, rows)
    shard = written.get(f"{spec.name}/{spec.shard_name(0)}")
    return b"" if shard is None else bytes(shard.to_bytes())


def plain_rows(specs: Mapping[str, ArraySpec], name: str, rows: np.ndarray) -> np.ndarray:
    """Give rows as the array holds them, whatever the order of their bytes.

    Raises:
        ValueError: they are of another shape or type, or some of their values are masked.
    """
    spec = specs.get(name)
    if spec is None:
        raise ValueError(f"no array {name!r} in this group, only {sorted(specs)}")
    if np.ma.is_masked(rows):
        raise ValueError(f"{name}: some values are masked; name their images bad, or fill them")
    if rows.shape[1:] != spec.tail or rows.dtype.newbyteorder("=") != np.dtype(spec.dtype):
        raise ValueError(
            f"{name}: rows are {rows.dtype} {rows.shape}, the array holds {spec.dtype} {spec.tail}"
        )
    return np.asarray(rows, dtype=spec.dtype)
