"""A result comes back from every kind of file with its units and its manifest."""

import numpy as np
import pandas as pd
import pytest

from alike.analysis.export.result import Result, read_result
from alike.extract.errors import BadInput

TABLE = pd.DataFrame(
    {
        "measure": ["gap_cosine", "ünïcode, “quoted”"],
        "value": [0.5, np.nan],
        "n": np.array([3, 4], np.int64),
        "yes": [True, False],
    }
)


def result():
    attrs = {"seed": np.int64(3), "nested": {"taps": ["fc"], "nan": float("nan")}, "hash": "#1"}
    return Result("scores", TABLE, {"value": "0 to 1, up is better"}, attrs)


@pytest.mark.parametrize("kind", ["parquet", "csv", "h5"])
def test_round_trip(tmp_path, kind):
    path = getattr(result(), f"to_{kind}")(tmp_path / f"ä b.{kind}")
    back = read_result(path)
    pd.testing.assert_frame_equal(back.table, TABLE, check_dtype=kind != "h5")
    assert back.name == "scores"
    assert back.units == {"value": "0 to 1, up is better"}
    assert back.attrs == {"seed": 3, "nested": {"taps": ["fc"], "nan": None}, "hash": "#1"}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_names_and_numbers_come_back_exactly(tmp_path, kind):
    """Not as what a reader of CSV makes of them: a gap, a number, two lines."""
    names = ["None", "NA", "02", "nan", "null", "True", "-1", "1e5", "a\nb", "a\rb", "'=x", "#"]
    numbers = np.random.default_rng(0).normal(size=12) * 10.0 ** np.arange(-60, 60, 10)
    table = pd.DataFrame({"label": names, "value": numbers, "gap": [np.nan, *numbers[1:]]})
    back = read_result(getattr(Result("t", table), f"to_{kind}")(tmp_path / f"t.{kind}"))
    pd.testing.assert_frame_equal(back.table, table, check_exact=True)
    assert back.attrs == {}
    digits = pd.DataFrame({"label": ["02", "10", None], "n": [2**62 + 1, 3, 4]})
    back = read_result(getattr(Result("t", digits), f"to_{kind}")(tmp_path / f"t.{kind}"))
    pd.testing.assert_frame_equal(back.table, digits)


def test_names_as_categories_become_text_a_part_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("alike.analysis.export.result.H5_ROWS", 2)
    names = ["cat", "dög", None, "dög", "a longer name"]
    table = pd.DataFrame({"class_a": pd.Categorical(names), "mean": np.arange(5.0)})
    back = read_result(Result("class_pairs", table).to_h5(tmp_path / "x.h5")).table
    assert back["class_a"].tolist() == ["cat", "dög", "", "dög", "a longer name"]
    assert back["mean"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    empty = Result("none", table[:0]).to_h5(tmp_path / "y.h5")
    assert read_result(empty).table.empty


def test_xarray_keeps_units():
    data = result().to_xarray()
    assert data["value"].attrs["units"] == "0 to 1, up is better"
    assert data.sizes == {"scores_row": 2}
    assert '"seed": 3' in data.attrs["alike"]


@pytest.mark.quick
def test_refuses_units_of_no_column():
    with pytest.raises(BadInput, match="lacks"):
        Result("scores", TABLE, {"valeu": "x"})


def test_refuses_files_that_are_not_ours(tmp_path):
    TABLE.to_csv(tmp_path / "x.csv", index=False)
    TABLE.to_parquet(tmp_path / "x.parquet")
    for name in ("x.csv", "x.parquet"):
        with pytest.raises(BadInput, match="no manifest"):
            read_result(tmp_path / name)
    with pytest.raises(BadInput, match="ending"):
        read_result(tmp_path / "x.txt")
