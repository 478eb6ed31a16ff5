"""Every row of INDEX_KINDS: it builds, finds what it should, is masked, and is a plain file."""

import faiss
import numpy as np
import pytest

from alike.index.engine import METRICS, BfloatEngine, FaissEngine, new_index, open_engine, train
from alike.index.kinds import INDEX_KINDS, POINTS_PER_LIST, lists, quantisers
from alike.index.sample import draw_sample
from alike.index.truth import true_neighbours

N, D = 3000, 32
DRAW = np.random.default_rng(1)
CENTRES = DRAW.standard_normal((60, D))
VECTORS = (CENTRES[np.arange(N) % 60] + 0.4 * DRAW.standard_normal((N, D))).astype(np.float32)
QUERIES = (CENTRES[np.arange(50)] + 0.4 * DRAW.standard_normal((50, D))).astype(np.float32)
ROUNDED = 0.9


@pytest.fixture(scope="module")
def built():
    made = {}

    def build(name, metric):
        if (name, metric) not in made:
            spec = INDEX_KINDS[name].spec(N, D)
            index = new_index(spec.factory, D, metric)
            if not index.is_trained:
                index.train(VECTORS)
            index.add_with_ids(VECTORS, np.arange(N) * 7)
            # bfloat16 is slow but right where it is emulated, so it is tested on every machine
            bfloat = name == "flat_bfloat16" and metric == "l2"
            made[name, metric] = BfloatEngine(index) if bfloat else open_engine(index, spec)
        return made[name, metric]

    return build


@pytest.mark.parametrize("metric", sorted(set(METRICS.values())))
@pytest.mark.parametrize("name", INDEX_KINDS)
class TestKind:
    def test_finds_the_true_neighbours_when_it_looks_everywhere(self, built, name, metric):
        most = {key: values[-1] for key, values in INDEX_KINDS[name].sweep.items()}
        found = built(name, metric).search(QUERIES, 10, most)[1]
        true = true_neighbours(QUERIES, VECTORS, 10, metric)[1]
        shares = [len(set(a) & set(b)) / 10 for a, b in zip(found, true, strict=True)]
        assert np.mean(shares) == 1.0 if INDEX_KINDS[name].exact else np.mean(shares) > ROUNDED

    def test_answers_only_what_is_allowed(self, built, name, metric):
        most = {key: values[-1] for key, values in INDEX_KINDS[name].sweep.items()}
        allowed = np.arange(N) % 5 == 3
        found = built(name, metric).search(QUERIES, 10, most, allowed)[1]
        assert (found >= 0).all()
        assert allowed[found].all()

    def test_few_rows_less_are_left_out_of_any_answer(self, built, name, metric):
        most = {key: values[-1] for key, values in INDEX_KINDS[name].sweep.items()}
        every = built(name, metric).search(QUERIES, 1, most)[1][:, 0]
        allowed = np.ones(N, dtype=bool)
        allowed[every[:40]] = False
        near, found = built(name, metric).search(QUERIES, 10, most, allowed)
        assert (found >= 0).all()
        assert allowed[found].all()
        if INDEX_KINDS[name].exact:
            kept = np.flatnonzero(allowed)
            wanted, places = true_neighbours(QUERIES, VECTORS[kept], 10, metric)
            assert near == pytest.approx(wanted, rel=1e-4, abs=1e-4)
            assert (found == kept[places]).mean() > 0.99

    def test_memory_is_as_told(self, built, name, metric):
        held = built(name, metric).bytes
        told = INDEX_KINDS[name].bytes(N, D)
        if name == "flat_bfloat16" and metric == "inner":
            told = INDEX_KINDS["flat"].bytes(N, D)
        assert 0.85 * held < told < 1.15 * held

    def test_knows_whether_it_holds_float32(self, built, name, metric):
        assert built(name, metric).float32 is not INDEX_KINDS[name].rounded

    def test_is_a_plain_file_that_answers_rows(self, built, name, metric, tmp_path):
        engine = built(name, metric)
        faiss.write_index(engine.index, str(tmp_path / "plain.faiss"))
        again = faiss.read_index(str(tmp_path / "plain.faiss"))
        rows = again.search(VECTORS[:20], 1)[1]
        assert again.ntotal == N
        assert (rows % 7 == 0).all()
        positions = engine.search(QUERIES, 5, {})[1]
        assert (again.search(QUERIES, 5)[1] == engine.rows[positions]).mean() > ROUNDED


@pytest.mark.parametrize(("native", "engine"), [(True, BfloatEngine), (False, FaissEngine)])
def test_bfloat16_only_where_it_is_native(monkeypatch, native, engine):
    """A store goes from machine to machine: where bfloat16 is emulated its index is a flat one."""
    monkeypatch.setattr("alike.index.engine.has_bfloat16", lambda: native)
    spec = INDEX_KINDS["flat_bfloat16"].spec(N, D)
    index = new_index(spec.factory, D, "l2")
    index.add_with_ids(VECTORS, np.arange(N))
    opened = open_engine(index, spec)
    assert type(opened) is engine
    true = true_neighbours(QUERIES, VECTORS, 10, "l2")[1]
    assert (opened.search(QUERIES, 10, {})[1] == true).all()


def test_lists_have_rows_to_train_on():
    assert lists(50_000) == 512
    assert lists(500_000) == 2048
    for n in (10, 500, 3000, 20_000, 1_300_000):
        # k-means of FAISS warns below 39 rows a list
        assert lists(n) == 2 or n * 0.9 / lists(n) >= 39
        assert POINTS_PER_LIST >= 39


@pytest.mark.parametrize("dimension", [4, 9, 10, 64, 97, 512, 3072])
def test_quantisers_divide(dimension):
    parts = quantisers(dimension)
    assert parts is None or dimension % parts == 0


@pytest.mark.quick
def test_a_dimension_that_nothing_divides_has_no_product_codes():
    assert quantisers(97) is None
    assert INDEX_KINDS["ivf_pq"].spec(1000, 97) is None


class TestSample:
    labels = np.array(["a"] * 4000 + ["b"] * 900 + ["c"] * 100 + [None] * 200, dtype=object)

    def test_queries_and_training_rows_differ(self):
        sample = draw_sample(self.labels, 1200)
        assert len(np.intersect1d(sample.train, sample.queries)) == 0
        assert len(sample.queries) == 520

    def test_training_rows_are_balanced_over_the_classes(self):
        train = draw_sample(self.labels, 1200).train
        names, sizes = np.unique(self.labels[train].astype(str), return_counts=True)
        counts = dict(zip(names, sizes, strict=True))
        assert len(train) == 1200
        # the rare ones give all they have left, the others the same
        assert counts["c"] > 80
        assert abs(counts["a"] - counts["b"]) <= 1

    def test_training_rows_are_not_the_first_of_a_class(self):
        train = draw_sample(self.labels, 1200).train
        of_a = train[train < 4000]
        assert 1700 < of_a.mean() < 2300

    def test_all_rows_where_few(self):
        sample = draw_sample(self.labels[:50], 1200)
        assert len(sample.train) == 45
        assert len(sample.queries) == 5


@pytest.mark.parametrize("name", ["ivf_flat", "ivf_pq", "ivf_rabitq"])
@pytest.mark.parametrize("metric", sorted(set(METRICS.values())))
def test_lists_are_the_same_whoever_assigns_points_in_k_means(name, metric, monkeypatch):
    """What a GPU would do is done here by the processor, through the same calls of FAISS."""
    spec = INDEX_KINDS[name].spec(N, D)
    plain, assigned = (new_index(spec.factory, D, metric) for _ in range(2))
    train(plain, VECTORS)
    asked = []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: asked.append(index) or index)
    train(assigned, VECTORS)
    assert len(asked) == 1
    centroids = [
        faiss.downcast_index(faiss.extract_index_ivf(index).quantizer).reconstruct_n()
        for index in (plain, assigned)
    ]
    assert centroids[0] == pytest.approx(centroids[1], abs=1e-5)
    assert faiss.extract_index_ivf(assigned).clustering_index is None


@pytest.mark.skipif(not faiss.get_num_gpus(), reason="needs a GPU")
@pytest.mark.parametrize("metric", sorted(set(METRICS.values())))
@pytest.mark.parametrize("name", INDEX_KINDS)
def test_gpu_equals_cpu(name, metric, monkeypatch):
    spec, found = INDEX_KINDS[name].spec(N, D), []
    for gpus in (faiss.get_num_gpus(), 0):
        monkeypatch.setattr(faiss, "get_num_gpus", lambda gpus=gpus: gpus)
        index = new_index(spec.factory, D, metric)
        train(index, VECTORS)
        index.add_with_ids(VECTORS, np.arange(N))
        most = {key: values[-1] for key, values in INDEX_KINDS[name].sweep.items()}
        near = open_engine(index, spec).search(QUERIES, 10, most)[0]
        true = true_neighbours(QUERIES, VECTORS, 10, metric)[0]
        found.append((near, true))
    (near, true), (near_here, true_here) = found
    assert true == pytest.approx(true_here, rel=1e-4, abs=1e-4)
    # other sums, other centroids: where all lists are searched, as near
    assert near.mean() == pytest.approx(near_here.mean(), rel=0.02)
