"""The comparison says what accuracy did, with the uncertainty of the paired difference."""

import numpy as np
import pytest
from scipy.stats import beta

from alike.analysis.compare import compare


@pytest.mark.quick
def test_accuracy_is_paired(digits):
    table = compare(digits.before, digits.after, bootstrap=200).set_index("score")
    held = digits.before.table("held_out")
    logits = digits.before.read("logits", held["row"].to_numpy())
    right = logits.argmax(1) == held["label"].astype(int).to_numpy()
    row = table.loc["accuracy"]
    assert row["a"] == pytest.approx(right.mean())
    # Both sides have the same first choices here: on other images they may differ by chance.
    most = beta.ppf(0.975, 1, len(held))
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((0, -most, most))
    np.testing.assert_equal(row["better"], "up")
