"""Speed of the analysis, each as a ratio to what bounds it, measured in the same run.

Ratios are of seconds on the clock and, in brackets, of processor seconds: where other work shares
the machine the second is the one to read.

python -m benchmarks.pairs                 all, about three minutes on two cores
python -m benchmarks.pairs histograms      one of: histograms, bfloat16, sklearn, dask, moments,
                                           neighbours, one_pass, large_classes, classes,
                                           influence, crowded
"""

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from alike.analysis.blocks import (
    EvaluationSet,
    Jobs,
    Vectors,
    best_product,
    by_numpy,
    evaluation_set_of,
    held_vectors,
    one_thread_each,
)
from alike.analysis.classes import class_moments, pair_statistics
from alike.analysis.neighbours import counted_lists, listing, nearest
from alike.analysis.pairs import (
    INFLUENCE_ROWS,
    TILE,
    Bins,
    auc,
    count_pairs,
    counting,
    measured_bins,
    pair_spreads,
    plan_layers,
    slabs,
    tiles,
    units_of,
)

CORES = 2


def features(n: int, dim: int, n_classes: int) -> tuple[Vectors, EvaluationSet]:
    """Rectified clustered features as a trained network gives them, on the unit sphere."""
    draw = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    centres = draw.standard_normal((n_classes, dim), dtype=np.float32)
    x = np.maximum(centres[labels] * 0.5 + draw.standard_normal((n, dim), dtype=np.float32), 0)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    images = evaluation_set_of(np.arange(n), [f"{label:04d}" for label in labels])
    return held_vectors(x[images.rows], "cosine"), images


@dataclass(frozen=True)
class Took:
    """Seconds on the clock, and processor seconds of all threads."""

    wall: float
    cpu: float

    def over(self, other: "Took") -> str:
        """How many times as long this took as the other."""
        return f"{self.wall / other.wall:.2f} [{self.cpu / other.cpu:.2f}]"

    def rate(self, n: float) -> str:
        """Millions a second, on the clock and by processor second."""
        return f"{n / self.wall / 1e6:.0f} M/s [{n / self.cpu / 1e6:.0f} M a CPU s]"


def best(run: Callable[[], Any], times: int = 2) -> tuple[Took, Any]:
    """The fastest run of each kind of second, and what it gave."""
    wall, cpu, answer = np.inf, np.inf, None
    for _ in range(times):
        started, busy = time.perf_counter(), time.process_time()
        answer = run()
        wall = min(wall, time.perf_counter() - started)
        cpu = min(cpu, time.process_time() - busy)
    return Took(wall, cpu), answer


def here(stage: str) -> Any:
    """Threads of this process, as an analysis uses them."""
    return Jobs(None, CORES).stage(stage)


def in_turn(*runs: Callable[[], Any], times: int = 3) -> list[tuple[Took, Any]]:
    """The fastest of each, one after the other several times over: the machine's pace may drift."""
    results = [best(run, 1) for run in runs]
    for _ in range(times - 1):
        for at, run in enumerate(runs):
            took, answer = best(run, 1)
            least = results[at][0]
            results[at] = Took(min(least.wall, took.wall), min(least.cpu, took.cpu)), answer
    return results


def bare_product(vectors: Vectors, images: EvaluationSet, product: Any) -> Callable[[], Any]:
    """The float32 products of the same tiles, nothing else, on two threads."""

    def one(slab: Any) -> None:
        for _ in tiles(vectors, bins, slab, product):
            pass

    def run() -> None:
        with one_thread_each(), ThreadPoolExecutor(CORES) as pool:
            list(pool.map(one, slabs(vectors)))

    bins = measured_bins(vectors, images)
    return run


def histograms(n: int = 50_000, dim: int = 512, n_classes: int = 10) -> None:
    """All pairs with class-pair histograms against the bare product. Goal: 0.85 of its rate."""
    vectors, images = features(n, dim, n_classes)
    pairs = n * (n - 1) / 2
    fastest = best_product(dim, np.inf)
    (bare, _), (took, counts), *more = in_turn(
        bare_product(vectors, images, fastest),
        lambda: count_pairs(vectors, images, map_blocks=here("pairs")),
        *([] if fastest is by_numpy else [bare_product(vectors, images, by_numpy)]),
    )
    blas = more[0][0] if more else bare
    area = counts.area()
    print(
        f"histograms N={n} D={dim} C={n_classes}: {took.rate(pairs)} in {took.wall:.2f} s\n"
        f"  bare product: {fastest.name} {bare.rate(pairs)}; numpy {blas.rate(pairs)}\n"
        f"  rate as a share of the fastest product's {bare.over(took)}, of numpy's "
        f"{blas.over(took)}; {(took.cpu - bare.cpu) / pairs * 1e9:.2f} CPU ns a pair more\n"
        f"  AUC {area.value:.6f}, interval {area.high - area.low:.1e} wide; "
        f"{plan_layers(n_classes, n)}"
    )


def bfloat16(n: int = 50_000, dim: int = 512, n_classes: int = 10) -> None:
    """The same with bfloat16 products. Goal: 1.5 of the float32 product's rate."""
    vectors, images = features(n, dim, n_classes)
    bins = measured_bins(vectors, images)

    def count(precision: Any) -> Any:
        return count_pairs(
            vectors, images, bins=bins, precision=precision, map_blocks=here("pairs")
        )

    fastest = best_product(dim, np.inf)
    (took, rough), (bare, _), (blas, _) = in_turn(
        lambda: count("bfloat16"),
        bare_product(vectors, images, fastest),
        bare_product(vectors, images, by_numpy),
        times=2,
    )
    one, other = rough.area(), count("float32").area()
    print(
        f"bfloat16 N={n}: {took.rate(n * (n - 1) / 2)}; rate over the float32 product's: "
        f"{fastest.name} {bare.over(took)}; numpy {blas.over(took)}\n"
        f"  AUC {one.value:.7f} against {other.value:.7f}: {one.value - other.value:+.1e}, "
        f"certain to {one.low:.5f}..{one.high:.5f}"
    )


def sklearn(n: int = 10_000, dim: int = 512) -> None:
    """Against pairwise_distances and roc_auc_score. Goal: 50 times as fast."""
    from sklearn.metrics import pairwise_distances, roc_auc_score

    vectors, images = features(n, dim, 10)
    took, counts = best(lambda: count_pairs(vectors, images, map_blocks=here("pairs")), 3)
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    x = vectors.block(0, n)[0] + vectors.centre

    def naive() -> float:
        upper = np.triu_indices(n, 1)
        distances = pairwise_distances(x, metric="cosine")[upper]
        same = images.codes[upper[0]] == images.codes[upper[1]]
        return float(roc_auc_score(same, -distances))

    theirs, auc_of_sklearn = best(naive, 1)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - ours) / 2**20
    own_auc = auc(*counts.total)
    print(
        f"sklearn N={n} D={dim}: ours {took.wall:.3f} s, sklearn {theirs.wall:.1f} s, ratio "
        f"{theirs.over(took)}, {more:.1f} GB less memory; "
        f"AUC {own_auc.value:.9f} and {auc_of_sklearn:.9f}"
    )


def dask(n: int = 30_000, dim: int = 512) -> None:
    """Blocks in a bounded window against a plain pool of threads. Goal: at most 10 % more time."""
    vectors, images = features(n, dim, 10)

    def pool(function: Any, items: Any) -> Any:
        with one_thread_each(), ThreadPoolExecutor(CORES) as workers:
            return list(workers.map(function, items))

    (plain, _), (took, _) = in_turn(
        lambda: count_pairs(vectors, images, map_blocks=pool),
        lambda: count_pairs(vectors, images, map_blocks=here("pairs")),
    )
    print(f"dask N={n}: {took.wall:.2f} s, plain threads {plain.wall:.2f} s, {took.over(plain)}")


def moments(n: int = 200_000, dim: int = 512, n_classes: int = 100) -> None:
    """Means of all class pairs against reading the data once. Goal: within twice that."""
    vectors, images = features(n, dim, n_classes)
    x = vectors.block(0, n)[0]
    reading, _ = best(lambda: float(x.sum()), 5)

    def ours(held: Vectors, of: EvaluationSet) -> Any:
        return pair_statistics(class_moments(held, of, map_blocks=here("moments"), second=False))

    took, _ = best(lambda: ours(vectors, images), 5)
    print(f"moments N={n} D={dim} C={n_classes}: {took.wall:.3f} s, reading once "
          f"{reading.wall:.3f} s, ratio {took.over(reading)}")  # fmt: skip
    from sklearn.metrics import pairwise_distances

    small, few = features(20_000, dim, n_classes)
    y = small.block(0, small.n)[0] + small.centre

    def naive() -> Any:
        distances = pairwise_distances(y, metric="cosine")
        masks = [few.codes == code for code in range(n_classes)]
        return [distances[a][:, b].mean() for a in masks for b in masks]

    took, _ = best(lambda: ours(small, few), 5)
    theirs, _ = best(naive, 1)
    print(f"moments N=20000: ours {took.wall:.3f} s, sklearn with masks {theirs.wall:.1f} s, "
          f"ratio {theirs.over(took)}")  # fmt: skip


def neighbours(n: int = 50_000, dim: int = 512, n_classes: int = 100) -> None:
    """Leave-one-out neighbours with MAP@R against faiss IndexFlat. Goal: within 1.5 times it."""
    import faiss

    vectors, images = features(n, dim, n_classes)
    took, _ = best(lambda: nearest(vectors, images, 10, map_blocks=here("neighbours")), 1)
    x = vectors.block(0, n)[0] + vectors.centre
    faiss.omp_set_num_threads(CORES)
    index = faiss.IndexFlatIP(dim)
    index.add(x)
    k = int(images.counts.max())
    theirs, _ = best(lambda: index.search(x, k), 1)
    short, _ = best(lambda: index.search(x, 11), 1)
    print(
        f"neighbours N={n} D={dim}: k=10 and MAP@R (R={k - 1}) {took.wall:.2f} s; faiss flat "
        f"k={k} {theirs.wall:.2f} s, k=11 {short.wall:.2f} s; ours over the first "
        f"{took.over(theirs)}, over the second {took.over(short)}"
    )


def one_pass(n: int = 50_000, dim: int = 512, n_classes: int = 1000) -> None:
    """Pairs counted and neighbours found in one pass, against two, and against the bare product."""
    vectors, images = features(n, dim, n_classes)
    units, how = units_of(images), counting(vectors, images)
    plan = listing(vectors, images, 10, units=units)
    pairs, near, both, product = (took for took, _ in in_turn(
        lambda: count_pairs(vectors, images, map_blocks=here("pairs")),
        lambda: nearest(vectors, images, 10, units=units, map_blocks=here("neighbours")),
        lambda: counted_lists(how, plan, map_blocks=here("both")),
        bare_product(vectors, images, how.product),
    ))  # fmt: skip
    two = Took(pairs.wall + near.wall, pairs.cpu + near.cpu)
    print(
        f"one pass N={n} D={dim} C={n_classes}: {both.wall:.2f} s; pairs {pairs.wall:.2f} s and "
        f"neighbours {near.wall:.2f} s; one pass over both {both.over(two)}, over the bare product "
        f"of all pairs {both.over(product)}"
    )


def large_classes() -> None:
    """Neighbours and MAP@R where lists hold a tenth of all images, or half of them."""
    for n, n_classes in ((10_000, 10), (5_000, 2)):
        vectors, images = features(n, 64, n_classes)
        took, _ = best(lambda v=vectors, of=images: nearest(
            v, of, 10, units=units_of(of), map_blocks=here("neighbours")
        ))  # fmt: skip
        print(f"large classes N={n} D=64 C={n_classes}: {took.wall:.2f} s, "
              f"{took.cpu / n**2 * 1e9:.1f} CPU ns a pair")  # fmt: skip


def classes(n: int = 50_000, dim: int = 512) -> None:
    """A thousand classes: rate and stated memory."""
    print(f"memory of the counts for 1,000 classes: "
          f"{plan_layers(1000, n).memory(1000) / 2**20:.0f} MiB")  # fmt: skip
    histograms(n, dim, 1000)
    histograms(n, dim, 100)


def influence(n: int = 5_000) -> None:
    """What every image does to the scores of pairs: the pass under the intervals."""
    vectors, images = features(n, 512, 10)
    counts = count_pairs(vectors, images, map_blocks=here("pairs"))
    took, _ = best(
        lambda: pair_spreads(
            [(vectors, counts)], images, units_of(images), map_blocks=here("influence")
        )
    )
    rows = min(n, INFLUENCE_ROWS)
    print(f"influence N={n}: {took.wall:.2f} s, {took.cpu / (rows * n) * 1e9:.1f} CPU ns a pair, "
          f"looked up from {'both its images' if rows == n else f'{rows} images'}")  # fmt: skip


def crowded(n: int = 3000, n_classes: int = 1000) -> None:
    """Inner products of made probabilities, which crowd near 0: the interval with either bins."""
    draw = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    logits = 2.5 * draw.standard_normal((n, n_classes))
    logits[np.arange(n), labels] += 8.0
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    images = evaluation_set_of(np.arange(n), [f"{label:04d}" for label in labels])
    vectors = held_vectors((p / p.sum(axis=1, keepdims=True))[images.rows], "inner")
    equal = Bins(-0.02, 1.04 / 65_536, 65_536)
    for name, bins in (("65,536 equal", equal), ("followed", measured_bins(vectors, images))):
        area = count_pairs(vectors, images, bins=bins, map_blocks=here("pairs")).area()
        print(f"crowded N={n} C={n_classes}: {bins.n} bins, {name}: AUC {area.value:.6f}, interval "
              f"{area.high - area.low:.1e} wide")  # fmt: skip


def warm() -> None:
    """Compile, import torch and measure the products before anything is timed."""
    best_product(512, np.inf)
    vectors, images = features(500, 8, 2)
    count_pairs(vectors, images)
    nearest(vectors, images)
    class_moments(vectors, images)
    pair_spreads([(vectors, count_pairs(vectors, images))], images, units_of(images))
    count_pairs(*features(2000, 8, 200))


PARTS = (
    histograms, bfloat16, sklearn, dask, moments, neighbours, one_pass, large_classes, classes,
    influence, crowded,
)  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *(part.__name__ for part in PARTS)])
    parser.add_argument("-n", type=int, help="images, instead of each part's own number")
    asked = parser.parse_args()
    wanted = asked.parts
    print(f"tiles of {TILE} x {TILE}, {CORES} cores")
    warm()
    for part in PARTS:
        if not wanted or part.__name__ in wanted:
            part(asked.n) if asked.n and part is not large_classes else part()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")
