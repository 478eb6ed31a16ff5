"""Exact search in bfloat16: every certified answer is the true one, on kind and nasty vectors."""

import subprocess
import sys

import numpy as np
import pytest

from alike.index.bfloat import BfloatSearch
from alike.index.flat import PRODUCT, nearest
from alike.index.select import SENTINEL, select_smallest
from alike.index.truth import certified, recall_interval, recall_of, true_neighbours

DRAW = np.random.default_rng(0)

VECTORS = {
    "gaussian": lambda n: DRAW.standard_normal((n, 40)),
    "non-negative, unit length": lambda n: _unit(np.maximum(DRAW.standard_normal((n, 64)), 0)),
    "far from the origin": lambda n: DRAW.random((n, 33)) * 1e-3 + 10,
    "large": lambda n: DRAW.random((n, 20)) * 1e6,
    "tiny": lambda n: DRAW.random((n, 20)) * 1e-6,
    "ten copies of each": lambda n: np.repeat(DRAW.random((-(-n // 10), 9)), 10, axis=0)[:n],
    "one point": lambda n: np.full((n, 7), 0.25),
    "one direction": lambda n: DRAW.random((n, 1)) * np.ones(16),
    "some at the origin": lambda n: DRAW.random((n, 12)) * (DRAW.random((n, 1)) < 0.5),
}


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute(queries, vectors, k):
    """Squared distances in float64, one query at a time."""
    exact = vectors.astype(np.float64)
    return np.stack([np.sort(np.square(exact - one).sum(axis=1))[:k] for one in queries])


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("threads", [1, 2])
def test_certified_answers_are_true(name, threads):
    vectors = VECTORS[name](3000).astype(np.float32)
    queries = np.concatenate([vectors[:40], VECTORS[name](40).astype(np.float32)])
    distances, places, sure = BfloatSearch(vectors).search(queries, 10, threads=threads)
    true = brute(queries, vectors, 10)
    scale = max(float(true.max()), 1e-30)
    assert np.abs(distances - true)[sure].max(initial=0) <= 2e-6 * scale
    assert all(len(set(line)) == 10 for line in places)
    both = certified(BfloatSearch(vectors), queries, vectors, 10, threads)[0]
    size = float(np.square(vectors.astype(np.float64)).sum(axis=1).max())
    assert np.abs(both - true).max() <= 2e-6 * max(scale, size)


def test_most_answers_are_certified():
    """Without this the certificate could say no to all and every other test would still pass."""
    vectors = VECTORS["non-negative, unit length"](5000).astype(np.float32)
    sure = BfloatSearch(vectors).search(vectors[:300], 10)[2]
    assert sure.mean() > 0.99


def test_the_certificate_refuses_what_it_cannot_know():
    """500 rows closer together than bfloat16 can tell apart: the true ten may be any of them."""
    crowd = 1.0 + 1e-6 * DRAW.standard_normal((500, 8))
    vectors = np.concatenate([crowd, DRAW.standard_normal((500, 8))]).astype(np.float32)
    assert not BfloatSearch(vectors).search(vectors[:20], 10)[2].any()


@pytest.mark.quick
def test_fewer_rows_than_candidates():
    vectors = DRAW.random((5, 6)).astype(np.float32)
    distances, places, sure = BfloatSearch(vectors).search(vectors, 5)
    assert sure.all()
    assert (places[:, 0] == np.arange(5)).all()
    assert np.allclose(distances, brute(vectors, vectors, 5), atol=1e-6)


def test_selection_keeps_the_smallest():
    scores = DRAW.integers(-300, 30000, (7, 1000)).astype(np.int16)
    best, place = np.full((7, 20), SENTINEL), np.full((7, 20), -1, dtype=np.int64)
    for first in range(0, 1000, 130):
        select_smallest(scores[:, first : first + 130], best, place, first)
    assert (best == np.sort(scores, axis=1)[:, :20]).all()
    assert (np.take_along_axis(scores, place, axis=1) == best).all()


@pytest.mark.parametrize("metric", ["l2", "inner"])
def test_true_neighbours_are_those_of_brute_force(metric):
    vectors = DRAW.standard_normal((700, 24)).astype(np.float32)
    queries = DRAW.standard_normal((30, 24)).astype(np.float32)
    raw, places = true_neighbours(queries, vectors, 5, metric)
    if metric == "l2":
        assert np.allclose(raw, brute(queries, vectors, 5), rtol=1e-5)
    else:
        products = queries @ vectors.T
        assert (places == np.argsort(-products, axis=1)[:, :5]).all()


@pytest.mark.parametrize("count", [1, PRODUCT - 1, PRODUCT, 300])
@pytest.mark.parametrize("name", VECTORS)
def test_float32_search_is_exact_for_few_and_for_many(name, count):
    """FAISS's product alone puts copies 3e-4 of their length apart, and out of order."""
    vectors = VECTORS[name](1500).astype(np.float32)
    queries = vectors[:count]
    raw, places = nearest(queries, vectors, 10, "l2")
    exact = np.square(vectors[places].astype(np.float64) - queries[:, None]).sum(axis=2)
    assert np.allclose(raw, exact, rtol=1e-5, atol=0)
    assert (np.lexsort((places, raw), axis=-1) == np.arange(10)).all()
    size = float(np.square(vectors.astype(np.float64)).sum(axis=1).max())
    assert np.abs(raw - brute(queries, vectors, 10)).max() <= 1e-5 * size


def test_recall_counts_equally_near_rows():
    vectors = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    truth = true_neighbours(vectors[:1], vectors, 2, "l2")
    shares = [
        recall_of(vectors[:1], vectors, np.array([found]), truth, "l2")[0]
        for found in ([0, 1], [2, 1], [0, 5], [7, 9], [1, -1])
    ]
    assert shares == [1.0, 1.0, 0.5, 0.0, 0.5]


def test_interval_holds_the_mean():
    mean, low, high = recall_interval(DRAW.integers(8, 11, 500) / 10)
    assert low < mean < high
    assert high - low < 0.02


def test_a_library_that_replaces_faiss_methods_does_no_harm() -> None:
    """pytorch-metric-learning imports faiss.contrib.torch_utils, in the same process as a run."""
    code = (
        "import faiss.contrib.torch_utils, numpy as np, faiss\n"
        "from alike.index.engine import FaissEngine\n"
        "vectors = np.eye(4, 8, dtype=np.float32)\n"
        "index = faiss.IndexIDMap2(faiss.IndexFlatL2(8))\n"
        "index.add_with_ids(vectors, np.arange(4))\n"
        "print(FaissEngine(index).search(vectors[2:3], 1, {})[1].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[[2]]"


@pytest.mark.parametrize("count", [1, 3, 5, 33])
@pytest.mark.parametrize("threads", [1, 2])
def test_candidates_are_measured_as_faiss_does(count, threads):
    """The refinement of ours against FAISS's own, with masks, gaps and more asked than found."""
    import faiss

    from alike.index.engine import FaissEngine, open_engine
    from alike.index.specs import IndexSpec

    vectors = VECTORS["non-negative, unit length"](1200).astype(np.float32)
    vectors[600:640] = vectors[:40]
    queries = vectors[20 : 20 + count] + np.float32(0.01)
    base = faiss.index_factory(64, "IVF8,PQ16x4fs,RFlat")
    base.train(vectors)
    index = faiss.IndexIDMap(base)
    index.add_with_ids(vectors, np.arange(len(vectors)))
    ours, theirs = open_engine(index, IndexSpec("ivf_pq", "")), FaissEngine(index)
    assert type(ours) is not FaissEngine
    allowed = np.arange(len(vectors)) % 7 == 0
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        for k, search, mask in (
            (5, {"nprobe": 2, "k_factor": 4}, None), (1, {"nprobe": 1, "k_factor": 1}, None),
            (7, {"nprobe": 8, "k_factor": 3}, allowed), (600, {"nprobe": 1, "k_factor": 1}, None),
        ):  # fmt: skip
            near, places = ours.search(queries, k, search, mask)
            wanted, same = theirs.search(queries, k, search, mask)
            inside = places >= 0
            assert (inside == (same >= 0)).all()
            assert np.allclose(near[inside], wanted[inside], rtol=1e-5, atol=1e-6)
            assert all(set(a) == set(b) for a, b in zip(places, same, strict=True))
            step = np.diff(near[:, : inside.sum(axis=1).min()], axis=1)
            assert (step >= 0).all()
    finally:
        faiss.omp_set_num_threads(before)
