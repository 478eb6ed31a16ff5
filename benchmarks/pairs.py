"""Speed of the analysis, each as a ratio to what bounds it, measured in the same run.

python benchmarks/pairs.py                 all, about three minutes on two cores
python benchmarks/pairs.py histograms      one of: histograms, bfloat16, sklearn, dask, moments,
                                           neighbours, classes, bootstrap
"""

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from analysis.jobs import threads
from analysis.judged import Judged, judge
from analysis.moments import class_moments, pair_statistics
from analysis.neighbours import nearest
from analysis.pair_bins import TILE, measured_bins, plan_layers
from analysis.pairs import count_pairs, slabs, tiles
from analysis.product import best_product, by_numpy, one_thread_each
from analysis.scores import auc
from analysis.vectors import Vectors, held_vectors

CORES = 2


def features(n: int, dim: int, n_classes: int) -> tuple[Vectors, Judged]:
    """Rectified clustered features as a trained network gives them, on the unit sphere."""
    draw = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    centres = draw.standard_normal((n_classes, dim), dtype=np.float32)
    x = np.maximum(centres[labels] * 0.5 + draw.standard_normal((n, dim), dtype=np.float32), 0)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    judged = judge(np.arange(n), [f"{label:04d}" for label in labels])
    return held_vectors(x[judged.rows], "cosine"), judged


def best(run: Callable[[], Any], times: int = 2) -> tuple[float, Any]:
    """Seconds of the fastest run, and what it gave."""
    took, found = np.inf, None
    for _ in range(times):
        started = time.perf_counter()
        found = run()
        took = min(took, time.perf_counter() - started)
    return took, found


def bare_product(vectors: Vectors, product: Any) -> float:
    """Seconds of the float32 products of the same tiles, nothing else, on two threads."""

    def one(slab: Any) -> None:
        for _ in tiles(vectors, bins, slab, product):
            pass

    bins = measured_bins(vectors)
    with one_thread_each(), ThreadPoolExecutor(CORES) as pool:
        return best(lambda: list(pool.map(one, slabs(vectors))))[0]


def histograms(n: int = 50_000, dim: int = 512, n_classes: int = 10) -> None:
    """All pairs with class-pair histograms against the bare product. Goal: 0.85 of its rate."""
    vectors, judged = features(n, dim, n_classes)
    count_pairs(*features(500, 8, 2))
    pairs = n * (n - 1) / 2
    fastest = best_product(dim, np.inf)
    took, counts = best(lambda: count_pairs(vectors, judged, run=threads("pairs", workers=CORES)))
    bare, blas = bare_product(vectors, fastest), bare_product(vectors, by_numpy)
    area = auc(*counts.total)
    print(
        f"histograms N={n} D={dim} C={n_classes}: {pairs / took / 1e6:.0f} M pairs/s ({took:.2f} s)"
        f"; bare {fastest.__name__} {pairs / bare / 1e6:.0f} M/s, by_numpy "
        f"{pairs / blas / 1e6:.0f} M/s; ratio to the fastest {bare / took:.2f}, to numpy's "
        f"{blas / took:.2f}; AUC {area.value:.6f} +- {(area.high - area.low) / 2:.1e}; "
        f"layers {plan_layers(n_classes, n)}"
    )


def bfloat16(n: int = 50_000, dim: int = 512, n_classes: int = 10) -> None:
    """The same with bfloat16 products. Goal: 1.5 of the float32 product's rate."""
    vectors, judged = features(n, dim, n_classes)
    count_pairs(*features(500, 8, 2))
    runner = threads("pairs", workers=CORES)
    bins = measured_bins(vectors)
    took, rough = best(
        lambda: count_pairs(vectors, judged, bins=bins, precision="bfloat16", run=runner)
    )
    exact = count_pairs(vectors, judged, bins=bins, run=runner)
    bare = bare_product(vectors, best_product(dim, np.inf))
    pairs = n * (n - 1) / 2
    one, other = auc(*rough.total), auc(*exact.total)
    print(
        f"bfloat16 N={n}: {pairs / took / 1e6:.0f} M pairs/s, ratio to the float32 product "
        f"{bare / took:.2f}; AUC {one.value:.7f} against {other.value:.7f} "
        f"({one.value - other.value:+.1e}; interval of float32 {other.low:.7f}..{other.high:.7f})"
    )


def sklearn(n: int = 10_000, dim: int = 512) -> None:
    """Against pairwise_distances and roc_auc_score. Goal: 50 times as fast."""
    from sklearn.metrics import pairwise_distances, roc_auc_score

    vectors, judged = features(n, dim, 10)
    count_pairs(*features(500, 8, 2))
    runner = threads("pairs", workers=CORES)
    took, counts = best(lambda: count_pairs(vectors, judged, run=runner))
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    x = vectors.fetch(0, n)

    def naive() -> float:
        upper = np.triu_indices(n, 1)
        distances = pairwise_distances(x, metric="cosine")[upper]
        same = judged.codes[upper[0]] == judged.codes[upper[1]]
        return float(roc_auc_score(same, -distances))

    theirs, wanted = best(naive, 1)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - ours) / 2**20
    found = auc(*counts.total)
    print(
        f"sklearn N={n} D={dim}: ours {took:.3f} s, sklearn {theirs:.1f} s, ratio "
        f"{theirs / took:.0f}, {more:.1f} GB less memory; AUC {found.value:.9f} and {wanted:.9f}"
    )


def dask(n: int = 30_000, dim: int = 512) -> None:
    """Dask's threads against a plain pool of threads. Goal: at most 10 % more time."""
    vectors, judged = features(n, dim, 10)
    count_pairs(*features(500, 8, 2))

    def pool(function: Any, items: Any) -> Any:
        with one_thread_each(), ThreadPoolExecutor(CORES) as workers:
            return list(workers.map(function, items))

    plain, _ = best(lambda: count_pairs(vectors, judged, run=pool), 3)
    took, _ = best(lambda: count_pairs(vectors, judged, run=threads("p", workers=CORES)), 3)
    print(f"dask N={n}: {took:.2f} s, plain threads {plain:.2f} s, {took / plain - 1:+.1%}")


def moments(n: int = 200_000, dim: int = 512, n_classes: int = 100) -> None:
    """Means of all class pairs against reading the data once. Goal: within twice that."""
    vectors, judged = features(n, dim, n_classes)
    class_moments(*features(500, 8, 2))
    x = vectors.fetch(0, n)
    read, _ = best(lambda: float(x.sum()), 5)
    runner = threads("moments", workers=CORES)
    took, _ = best(
        lambda: pair_statistics(class_moments(vectors, judged, run=runner, second=False)), 5
    )
    print(f"moments N={n} D={dim} C={n_classes}: {took:.3f} s, reading once {read:.3f} s, "
          f"ratio {took / read:.2f}")  # fmt: skip
    from sklearn.metrics import pairwise_distances

    small, few = features(20_000, dim, n_classes)

    def naive() -> Any:
        distances = pairwise_distances(small.fetch(0, small.n), metric="cosine")
        masks = [few.codes == code for code in range(n_classes)]
        return [distances[a][:, b].mean() for a in masks for b in masks]

    ours, _ = best(lambda: pair_statistics(class_moments(small, few, run=runner, second=False)), 5)
    theirs, _ = best(naive, 1)
    print(f"moments N=20000: ours {ours:.3f} s, sklearn with masks {theirs:.1f} s, ratio "
          f"{theirs / ours:.0f}")  # fmt: skip


def neighbours(n: int = 50_000, dim: int = 512, n_classes: int = 100) -> None:
    """Leave-one-out neighbours with MAP@R against faiss IndexFlat. Goal: within 1.5 times it."""
    import faiss

    vectors, judged = features(n, dim, n_classes)
    nearest(*features(500, 8, 2))
    took, _ = best(lambda: nearest(vectors, judged, 10, run=threads("n", workers=CORES)), 1)
    x = vectors.fetch(0, n)
    faiss.omp_set_num_threads(CORES)
    index = faiss.IndexFlatIP(dim)
    index.add(x)
    k = int(judged.counts.max())
    theirs, _ = best(lambda: index.search(x, k), 1)
    short, _ = best(lambda: index.search(x, 11), 1)
    print(
        f"neighbours N={n} D={dim}: k=10 with MAP@R (R={k - 1}) {took:.2f} s; faiss flat k={k} "
        f"{theirs:.2f} s, k=11 {short:.2f} s; ratio to the first {took / theirs:.2f}, to the "
        f"second {took / short:.2f}"
    )


def classes(n: int = 50_000, dim: int = 512) -> None:
    """A thousand classes: rate and stated memory."""
    print(f"memory of the counts for 1,000 classes: "
          f"{plan_layers(1000, n).memory(1000) / 2**20:.0f} MiB")  # fmt: skip
    histograms(n, dim, 1000)
    histograms(n, dim, 100)


def bootstrap(n: int = 5_000, replicates: int = 200) -> None:
    """Image bootstrap with every pair reweighed, without computing a distance twice."""
    from analysis.bootstrap import image_weights, weighted_histograms

    vectors, judged = features(n, 512, 10)
    bins = measured_bins(vectors)
    weights = image_weights(judged, replicates, 0)
    runner = threads("bootstrap", workers=CORES)
    took, _ = best(lambda: weighted_histograms(vectors, judged, bins, weights, run=runner), 2)
    pairs = n * (n - 1) / 2
    print(f"bootstrap N={n} R={replicates}: {took:.2f} s, {took / pairs * 1e9:.1f} ns a pair")


PARTS = (histograms, bfloat16, sklearn, dask, moments, neighbours, classes, bootstrap)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *(part.__name__ for part in PARTS)])
    wanted = parser.parse_args().parts
    print(f"tiles of {TILE} x {TILE}, {CORES} cores")
    for part in PARTS:
        if not wanted or part.__name__ in wanted:
            part()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")
