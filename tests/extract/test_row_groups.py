"""Small parts become row groups of the wanted size, and no row is lost."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alike.extract import row_groups
from alike.extract.row_groups import RowGroups


@pytest.mark.quick
def test_parts_are_gathered_and_the_last_group_may_be_small(tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "GROUP", 8000)
    path = tmp_path / "rows.parquet"
    with RowGroups(path, compression="zstd") as groups:
        for low in range(0, 2950, 100):
            groups.add(pa.table({"row": np.arange(low, min(low + 100, 2950))}))
    file = pq.ParquetFile(path)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [1000, 1000, 950]
    assert file.read()["row"].to_pylist() == list(range(2950))


def test_a_schema_makes_a_file_without_rows_and_an_error_writes_none(tmp_path):
    schema = pa.schema([("row", pa.int64())])
    with RowGroups(tmp_path / "empty.parquet", schema):
        pass
    assert pq.read_table(tmp_path / "empty.parquet").schema == schema
    with RowGroups(tmp_path / "none.parquet"):
        pass
    assert not (tmp_path / "none.parquet").exists()
    groups = RowGroups(tmp_path / "a.parquet", schema)
    with pytest.raises(pa.ArrowNotImplementedError), groups:
        groups.add(pa.table({"row": [[1]]}))
    assert not pq.read_table(tmp_path / "a.parquet").num_rows
