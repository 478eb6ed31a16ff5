"""Which images the report shows, on four images by hand."""

import numpy as np
import pandas as pd
import pytest

from alike.analysis.report import queries

NEAR = pd.DataFrame(
    {
        "row": np.repeat([0, 1, 2, 3], 2),
        "rank": [1, 2] * 4,
        "neighbour": [1, 2, 0, 3, 3, 0, 2, 1],
        "distance": [0.1, 0.2, 0.1, 0.5, 0.3, 0.4, 0.3, 0.6],
    }
)
OF_FOUR = pd.DataFrame({"row": [4, 4], "rank": [1, 2], "neighbour": [2, 0], "distance": [0.2, 0.4]})
LABELS = {0: "a", 1: "a", 2: "b", 3: "a"}
PAIRS = {0: "a", 1: "a", 2: "b", 3: "b"}


def test_purity_by_hand():
    pure = queries.purity(pd.concat([NEAR, OF_FOUR]), {**LABELS, 4: "b"}, k=2)
    assert pure["row"].tolist() == [0, 1, 2, 3, 4]
    assert pure["purity"].tolist() == [0.5, 1.0, 0.0, 0.5, 1.0]
    assert pure["nearest"].tolist() == [0.1, 0.1, 0.3, 0.3, 0.2]
    assert queries.best(pure, 2) == [1, 4]
    assert queries.worst(pure, 2) == [2, 0]


def test_purity_asks_for_no_more_kin_than_there_are():
    assert queries.purity(NEAR, PAIRS)["purity"].tolist() == [1.0] * 4
    alone = queries.purity(NEAR, LABELS)
    assert alone["row"].tolist() == [0, 1, 3]
    assert alone["purity"].tolist() == [0.5, 1.0, 0.5]


@pytest.mark.quick
def test_most_changed_leaves_out_what_stayed():
    before = queries.purity(NEAR, PAIRS).assign(purity=[0.5, 1.0, 0.0, 0.5])
    after = before.assign(purity=[0.5, 0.5, 1.0, 0.5])
    assert queries.most_changed(before, after, 3) == ([2], [1])


def test_turnover_by_hand():
    after = NEAR.assign(neighbour=[1, 3, 0, 3, 1, 0, 2, 0])
    found = queries.turnover(NEAR, after, LABELS)
    assert found == {
        "k": 2, "kept": 5 / 4, "gained": 3 / 4, "gained_right": 2 / 4, "lost_right": 1 / 4
    }  # fmt: skip


def test_confused_classes_come_with_their_images():
    ends = {"class_a": list("aabb"), "class_b": list("abab")}
    pairs = pd.DataFrame({"measure": "m", **ends, "mean": [0.1, 0.4, 0.4, 0.1]})
    found = queries.confused(pairs, "m", NEAR, LABELS)
    assert [(low, high) for low, high, _, _ in found] == [("a", "b")]
    assert found[0][2] == pytest.approx(4 / 8)
    assert found[0][3] == [(0, 2, 0.2)]
    clean = NEAR.assign(neighbour=NEAR["row"])
    assert queries.confused(pairs, "m", clean, LABELS) == [("a", "b", 0.0, [])]
