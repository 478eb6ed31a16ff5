"""File formats that carry a whole group, each with its usual reader; a format is a row here."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from alike.extract.store.formats.carried import Carried
from alike.extract.store.formats.h5 import open_file as open_h5
from alike.extract.store.formats.h5 import write as write_h5
from alike.extract.store.formats.nc import open_file as open_nc
from alike.extract.store.formats.nc import write as write_nc
from alike.extract.store.formats.npz import open_file as open_npz
from alike.extract.store.formats.npz import write as write_npz
from alike.extract.store.formats.parquet import open_file as open_parquet
from alike.extract.store.formats.parquet import write as write_parquet


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


FORMATS: dict[str, Format] = {
    ".h5": Format(write_h5, open_h5, "h5py.File(f)['arrays/gap']"),
    ".npz": Format(write_npz, open_npz, "numpy.load(f)['gap']"),
    ".parquet": Format(write_parquet, open_parquet, "pandas.read_parquet(f)['gap']"),
    ".nc": Format(write_nc, open_nc, "xarray.open_dataset(f, engine='h5netcdf')['gap']"),
}
