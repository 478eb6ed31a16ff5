"""What is recorded of other libraries is what they answer, where they are installed."""

import warnings

import numpy as np
import pytest

from .record import RECORDS, read


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECORDS)
def test_libraries_answer_what_is_recorded(name):
    pytest.importorskip(name)
    make, ask = RECORDS[name]
    record = read(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs, answers = make(), ask(record)
    for key, value in (inputs | answers).items():
        np.testing.assert_allclose(record[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.quick
@pytest.mark.parametrize("name", RECORDS)
def test_records_say_what_made_them(name):
    assert str(read(name)["versions"]).startswith(f"{name} ")
