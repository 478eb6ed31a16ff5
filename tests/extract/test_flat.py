"""Features that tell no image apart are said to be so, at extraction and at analysis."""

from pathlib import Path

import numpy as np
import pytest
from extracting import run
from images import class_folders

from alike.extract.networks.network import Network
from alike.extract.notes import flat_notes
from alike.extract.store.store import Store

NONE = "looked at: it tells none of them apart"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((5, 3)), f"gap is zero for all 5 images {NONE}"),
        (np.ones((5, 3)), f"gap is the same for all 5 images {NONE}"),
        (np.array([[0, 0], [1, 2], [0, 0]]), "gap is zero for 2 of 3 images looked at"),
    ],
)
def test_flat_features_are_named(values: np.ndarray, says: str) -> None:
    assert flat_notes("gap", values) == [says]


@pytest.mark.quick
def test_other_features_are_not() -> None:
    assert flat_notes("gap", np.arange(6.0).reshape(3, 2)) == []
    assert flat_notes("gap", np.zeros((1, 2))) == []


def test_extraction_says_so(tmp_path: Path, network: Network, store: Store) -> None:
    folder = class_folders(tmp_path / "set", {"cat": 3, "dog": 2})
    assert not run(folder, network, store).notes
    network.module.bn.bias.data.fill_(-1e4)
    dead = Store.open(tmp_path / "dead", create=True)
    notes = run(folder, network, dead).notes
    assert any(note.startswith("gap is zero for all 5 images") for note in notes)
    assert any(note.startswith("logits is the same for all 5 images") for note in notes)
