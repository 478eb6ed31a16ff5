"""File formats that carry a whole group, each with its usual reader; a format is a row here."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from extract import store_as_h5, store_as_nc, store_as_npz, store_as_parquet
from extract.store_carried import Carried


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        write: writes a carried group to a path.
        open: opens a path for reading, as a context.
        reader: how others read it.
    """

    write: Callable[[Path, Carried], None]
    open: Callable[[Path], AbstractContextManager[Carried]]
    reader: str


FORMATS = {
    ".h5": Format(store_as_h5.write, store_as_h5.open_file, "h5py.File(f)['arrays/gap']"),
    ".npz": Format(store_as_npz.write, store_as_npz.open_file, "numpy.load(f)['gap']"),
    ".parquet": Format(
        store_as_parquet.write, store_as_parquet.open_file, "pandas.read_parquet(f)['gap']"
    ),
    ".nc": Format(
        store_as_nc.write, store_as_nc.open_file, "xarray.open_dataset(f, engine='h5netcdf')['gap']"
    ),
}
