"""The examples in docstrings run and give what they say."""

import doctest
from inspect import isfunction

import pytest

from alike.analysis.blocks import statistic
from alike.analysis.pairs import curves
from alike.analysis.scores import table

PUBLIC = [
    name
    for name, one in vars(curves).items()
    if isfunction(one) and one.__module__ == curves.__name__
]


@pytest.mark.parametrize("module", [curves, statistic, table])
def test_examples(module):
    failed, attempted = doctest.testmod(module)
    assert attempted > 0
    assert failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_every_curve_has_an_example(name):
    assert ">>>" in getattr(curves, name).__doc__
