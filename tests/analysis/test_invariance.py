"""What cosine k-NN and LDA do when channels are rescaled, standardised or not."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler


def scores_of(x, codes, train, scale, *, standardised):
    """Accuracy of a cosine k-NN and of LDA on held-out rows of rescaled channels."""
    x = x * scale
    if standardised:
        x = StandardScaler().fit(x[train]).transform(x)
    near = KNeighborsClassifier(20, metric="cosine").fit(x[train], codes[train])
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x[train], codes[train])
    return near.score(x[~train], codes[~train]), lda.score(x[~train], codes[~train])


@pytest.mark.quick
def test_only_standardised_channels_are_invariant_to_their_scale():
    draw = np.random.default_rng(0)
    codes = np.repeat(np.arange(8), 60)
    x = 0.5 * draw.standard_normal((8, 64))[codes] + draw.standard_normal((480, 64))
    train = draw.random(480) < 0.5
    scale = np.exp(2.0 * draw.standard_normal(64))
    one = np.ones(64)
    plain = [scores_of(x, codes, train, s, standardised=False) for s in (one, scale)]
    assert plain[1][0] < plain[0][0] - 0.1
    assert plain[0] != plain[1]
    even = [scores_of(x, codes, train, s, standardised=True) for s in (one, scale)]
    assert np.allclose(even[0], even[1], atol=1e-9)
