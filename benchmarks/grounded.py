"""Which measure of likeness between networks to believe: tests whose truth is known.

    python -m benchmarks.grounded networks --data ../shared/data --out DIR --seeds 3
    python -m benchmarks.grounded table    --data ../shared/data --out DIR --seeds 3

As ReSi does (Klabunde et al. 2025, "ReSi: a comprehensive benchmark for representational similarity
measures"), at a small size: networks that were trained alike must be more alike than networks that
were not. Groups differ in one thing: the share of training labels that were permuted, how often a
patch in the corner gives the class away, or the noise in the training images. Within a network,
layers that are near each other must be more alike than layers that are far apart.

`networks` trains on 1,000 lossless training images of CIFAR-10, shrunk to 16 x 16, and writes the
pooled features of every layer on the 500 test images; it goes on where it was stopped. `table`
trains what is missing, writes the raw rows to `benchmarks/results/grounded.csv`, and prints the
tables of `docs/measured/measures.md`.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from alike.analysis.blocks import EvaluationSet, evaluation_set_of, held_vectors, here
from alike.analysis.networks import linear_cka
from alike.analysis.scores import evaluate_measure
from alike.analysis.similarity import (
    NetworkView,
    mutual_share,
    procrustes,
    rsa_with_null,
    view_of,
)
from benchmarks import small_networks
from benchmarks.raw_rows import write_rows

Floats = NDArray[np.float64]
EPOCHS, BATCH, IMAGES = 20, 50, 1000
PATCH = 3
"""Side of the patch in the corner, pixels of 16."""
TESTS = {
    "labels": (0.0, 0.25, 0.5, 1.0),
    "shortcut": (0.0, 0.5, 0.8, 1.0),
    "augmentation": (0.05, 0.15, 0.4),
}
"""Test to its levels: share of permuted labels; of patches that name the class, the others name a
class at random; deviation of the noise in pixels of 0 to 1."""
SHARED = {"resnet20": "resnet20-12fca82f.th", "resnet32": "resnet32-d509ac18.th"}


@dataclass(frozen=True)
class Representation:
    """One layer of one network on the test images.

    Attributes:
        view: as `alike compare --all` compares networks.
        scores: sameness, MAP@R and 1-NN.
    """

    view: NetworkView
    scores: dict[str, float]


def _gap(score: str) -> "Callable[[Representation, Representation], float]":
    return lambda a, b: -abs(a.scores[score] - b.scores[score])


LIKENESS: dict[str, Callable[[Representation, Representation], float]] = {
    "linear_cka": lambda a, b: linear_cka(a.view.vectors, b.view.vectors)[1],
    "procrustes": lambda a, b: -procrustes(a.view, b.view),
    "mutual_knn": lambda a, b: mutual_share(a.view.near, b.view.near),
    "rsa": lambda a, b: rsa_with_null(a.view.ranks, b.view.ranks)[0],
    "sameness, difference": _gap("sameness"),
    "MAP@R, difference": _gap("map_at_r"),
    "1-NN, difference": _gap("one_nn"),
}
"""Name of a measure to the likeness of two representations: larger is more alike."""


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """Images of half the side: means of 2 x 2 pixels."""
    n, height, width, colours = pixels.shape
    blocks = pixels.reshape(n, height // 2, 2, width // 2, 2, colours)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def patched(pixels: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Images with a patch in the corner whose colour names a class."""
    palette = np.random.default_rng(7).integers(0, 256, (10, 3))
    out = pixels.copy()
    out[:, :PATCH, :PATCH] = palette[codes][:, None, None]
    return out


def noised(pixels: np.ndarray, spread: float, draw: np.random.Generator) -> np.ndarray:
    """Images with normal noise."""
    noise = spread * 255 * draw.standard_normal(pixels.shape)
    return np.clip(pixels + noise, 0, 255).round().astype(np.uint8)


def training_set(
    test: str, level: float, pixels: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that a network of a group is trained on."""
    draw = np.random.default_rng(seed)
    if test == "labels":
        chosen = np.flatnonzero(draw.random(len(labels)) < level)
        labels = labels.copy()
        labels[chosen] = labels[draw.permutation(chosen)]
    if test == "shortcut":
        honest = draw.random(len(labels)) < level
        pixels = patched(pixels, np.where(honest, labels, draw.integers(0, 10, len(labels))))
    return pixels, labels


def test_set(test: str, pixels: np.ndarray) -> np.ndarray:
    """What all networks of a test are shown: patches name classes at random, noise is middling."""
    draw = np.random.default_rng(0)
    if test == "shortcut":
        return patched(pixels, draw.integers(0, 10, len(pixels)))
    return noised(pixels, 0.15, draw) if test == "augmentation" else pixels


def layers_of(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks of a network, in the order of the pass."""
    blocks = [part for part in module.modules() if type(part).__name__ == "Block"]
    return blocks or list(module[0])


def pooled(module: torch.nn.Module, inputs: torch.Tensor) -> tuple[list[np.ndarray], np.ndarray]:
    """Means (N, C) of the output of every block, and the logits."""
    means: dict[int, list[torch.Tensor]] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out, at=at: means.setdefault(at, []).append(out.mean((2, 3)))
        )
        for at, layer in enumerate(layers_of(module))
    ]
    with torch.inference_mode():
        logits = torch.cat([module.eval()(part) for part in inputs.split(250)])
    for hook in hooks:
        hook.remove()
    return [torch.cat(means[at]).numpy() for at in sorted(means)], logits.numpy()


def groups(seeds: int) -> Iterator[tuple[str, float, int]]:
    """Test, level and seed of every network that is trained."""
    for seed in range(seeds):
        for test, levels in TESTS.items():
            for level in levels:
                yield test, level, seed


def place_of(out: Path, test: str, level: float, seed: int) -> Path:
    """File of the features of a network."""
    return out / f"{test}-{level:g}-{seed}.npz"


def networks(options: argparse.Namespace) -> None:
    """Train every network and write its features."""
    options.out.mkdir(parents=True, exist_ok=True)
    data = np.load(options.data / "cifar10_lossless_dev.npz")
    right = data["y_test"].astype(int)
    train, shown = shrunk(data["x_train"][:IMAGES]), shrunk(data["x_test"])
    codes = data["y_train"][:IMAGES].astype(np.int64)
    for family, file in SHARED.items():
        module = shared_resnet(options.data, family, file)
        features, _ = pooled(module, small_networks.normalised(data["x_test"]))
        np.savez(options.out / f"{family}.npz", *features)
    for number, (test, level, seed) in enumerate(groups(options.seeds)):
        place = place_of(options.out, test, level, seed)
        if place.exists():
            continue
        if options.most == 0:
            return
        options.most -= 1
        began = time.process_time()
        # No two networks share their first weights.
        own = 1000 * seed + 10 * number + 1
        pixels, labels = training_set(test, level, train, codes, own)
        spread = level if test == "augmentation" else 0.0
        scale = torch.tensor(small_networks.STD).view(3, 1, 1)

        def with_noise(inputs, draw, spread=spread, scale=scale):
            return inputs + spread * torch.randn(inputs.shape, generator=draw) / scale

        torch.manual_seed(own)
        module = small_networks.plain()
        for _ in small_networks.training(
            module, small_networks.normalised(pixels), torch.from_numpy(labels), EPOCHS,
            seed=own, augment=with_noise if spread else None, batch=BATCH, rate=0.05,
        ):  # fmt: skip
            pass
        features, logits = pooled(module, small_networks.normalised(test_set(test, shown)))
        accuracy = float((logits.argmax(1) == right).mean())
        fitted = pooled(module, small_networks.normalised(pixels))[1].argmax(1) == labels
        np.savez(place, *features, accuracy=accuracy, fitted=fitted.mean())
        print(
            f"{place.stem}: right {accuracy:.3f}, of training labels {fitted.mean():.3f}, "
            f"{time.process_time() - began:.0f} s of CPU",
            flush=True,
        )


def shared_resnet(data: Path, family: str, file: str) -> torch.nn.Module:
    """A CIFAR ResNet with its published weights."""
    spec = importlib.util.spec_from_file_location("cifar_resnet", data / "cifar_resnet.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    module = code.resnet(int(family.removeprefix("resnet")))
    state = torch.load(data / "weights" / file, weights_only=True, map_location="cpu")
    module.load_state_dict(
        {name.removeprefix("module."): value for name, value in state["state_dict"].items()}
    )
    return module.eval()


def representation(features: np.ndarray, images: EvaluationSet) -> Representation:
    """What is compared of one layer: unit vectors of its means, as `gap_cosine` has them."""
    x = features[images.rows]
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    vectors = held_vectors(unit, "cosine")
    view = view_of(vectors, images, np.arange(len(images)), here())
    rows = evaluate_measure("gap_cosine", vectors, images, lambda _: map, intervals=False)["scores"]
    return Representation(view, rows.set_index("score")["value"].astype(float).to_dict())


def layers_stored(place: Path) -> list[np.ndarray]:
    """Features of every layer of a network."""
    with np.load(place) as file:
        return [file[f"arr_{at}"] for at in range(len([name for name in file if "arr" in name]))]


def left_out(value: Callable[[NDArray[np.int64]], float], n: int) -> str:
    """A value of all networks, and from where to where it goes if any one of them is left out.

    This is no interval of confidence: three networks a group say little of further ones.
    """
    every = np.arange(n)
    less = [value(np.delete(every, at)) for at in every]
    return f"{value(every):.2f} ({min(less):.2f} to {max(less):.2f})"


def of_groups(options: argparse.Namespace, images: EvaluationSet) -> pd.DataFrame:
    """Likeness of every two networks of a test by every measure."""
    rows = []
    for test, levels in TESTS.items():
        members = [
            (level, seed, representation(
                layers_stored(place_of(options.out, test, level, seed))[-1], images
            ))
            for level in levels for seed in range(options.seeds)
        ]  # fmt: skip
        for (i, a), (j, b) in combinations(enumerate(members), 2):
            for name, likeness in LIKENESS.items():
                rows.append((test, name, i, j, a[0], b[0], likeness(a[2], b[2])))
    return pd.DataFrame(rows, columns=["test", "measure", "a", "b", "level_a", "level_b", "value"])


def of_layers(options: argparse.Namespace, images: EvaluationSet) -> pd.DataFrame:
    """Likeness of every two layers of a network by every measure."""
    places = [options.out / f"{family}.npz" for family in SHARED]
    places += [place_of(options.out, "labels", 0.0, seed) for seed in range(options.seeds)]
    rows = []
    for number, place in enumerate(places):
        layers = [representation(each, images) for each in layers_stored(place)]
        for (i, a), (j, b) in combinations(enumerate(layers), 2):
            for name, likeness in LIKENESS.items():
                rows.append((place.stem, name, number, i, j, likeness(a, b)))
    return pd.DataFrame(rows, columns=["network", "measure", "number", "a", "b", "value"])


def told_apart(part: pd.DataFrame, score: Callable[..., float]) -> Callable[[np.ndarray], float]:
    """AUPRC or AUC of the likeness as a sign that two networks are of one group."""

    def value(at: np.ndarray) -> float:
        few = part[part["a"].isin(at) & part["b"].isin(at)]
        return float(score(few["level_a"] == few["level_b"], few["value"]))

    return value


def dose(part: pd.DataFrame, levels: tuple[float, ...]) -> Callable[[np.ndarray], float]:
    """Spearman of likeness and how many levels two networks are apart, sign turned."""
    place = {level: at for at, level in enumerate(levels)}

    def value(at: np.ndarray) -> float:
        few = part[part["a"].isin(at) & part["b"].isin(at)]
        apart = few["level_a"].map(place) - few["level_b"].map(place)
        return -float(spearmanr(apart.abs(), few["value"]).statistic)

    return value


def in_order(part: pd.DataFrame) -> float:
    """Share of layers i < j < k of which i and j, and j and k, are more alike than i and k."""
    likeness = part.set_index(["a", "b"])["value"].to_dict()
    layers = sorted({at for pair in likeness for at in pair})
    holds = [
        likeness[near] >= likeness[i, k]
        for i, j, k in combinations(layers, 3)
        for near in ((i, j), (j, k))
    ]
    return float(np.mean(holds))


def table(options: argparse.Namespace) -> None:
    """Compare the networks, write the raw rows and print the tables."""
    networks(options)
    labels = np.load(options.data / "cifar10_lossless_dev.npz")["y_test"]
    images = evaluation_set_of(np.arange(len(labels)), [f"{label:02d}" for label in labels])
    networks_apart, layers_apart = of_groups(options, images), of_layers(options, images)
    write_rows("grounded", networks_apart)
    write_rows("grounded_layers", layers_apart)
    heads = ["measure", *(f"{test}: AUPRC, order" for test in TESTS), "layers", *SHARED]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for name in LIKENESS:
        cells = [name]
        for test, levels in TESTS.items():
            part = networks_apart[networks_apart["measure"] == name]
            part = part[part["test"] == test]
            n = len(levels) * options.seeds
            apart = left_out(told_apart(part, average_precision_score), n)
            cells.append(f"{apart}, {left_out(dose(part, levels), n)}")
        layers = layers_apart[layers_apart["measure"] == name]
        shares = {of: in_order(few) for of, few in layers.groupby("network")}
        own = np.array([share for of, share in shares.items() if of not in SHARED])
        cells.append(left_out(lambda at, own=own: own[at].mean(), len(own)))
        cells += [f"{shares[of]:.2f}" for of in SHARED]
        print("| " + " | ".join(cells) + " |", flush=True)
    few = networks_apart[networks_apart["measure"] == "rsa"]
    for test, part in few.groupby("test", sort=False):
        print(f"{test}: by chance AUPRC {(part['level_a'] == part['level_b']).mean():.2f}")
    conformity = networks_apart.groupby(["measure", "test"], sort=False).apply(
        lambda part: roc_auc_score(part["level_a"] == part["level_b"], part["value"])
    )
    print(conformity.unstack().round(3).to_string())


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("networks", "table"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most", type=int, default=-1, help="networks to train in this call")
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"networks": networks, "table": table}[options.what](options)


if __name__ == "__main__":
    main()
