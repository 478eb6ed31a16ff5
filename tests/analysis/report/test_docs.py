"""The Python blocks of docs/report.md run as they stand, on a store of the same name."""

import re
from pathlib import Path

import pytest

from alike.analysis.analyse import Analysis, analyse
from alike.extract.store.store import Store

PAGE = Path(__file__).resolve().parents[3] / "docs" / "report.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number, digits, tmp_path, monkeypatch):
    analyse(digits.after, measures=["gap_cosine"], bootstrap=0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets.store").symlink_to(digits.store.url)
    # The page has a store of one network, the digits have two.
    monkeypatch.setattr(Store, "features", lambda store, key=None: digits.after)
    spaces = {}
    exec(compile(BLOCKS[number], f"{PAGE.name} block {number}", "exec"), spaces)
    assert isinstance(spaces["store"], Store)
    assert Analysis is spaces["Analysis"]
