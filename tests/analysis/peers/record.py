"""Values of libraries that the dev extra does not bring, recorded so that tests need none of them.

    pip install --no-deps --target PEERS quantus==0.6.0 dataeval==1.1.4 cleanlab==2.9.0 \
        opencv-python-headless scikit-image imageio lazy-loader tifffile maite polars shapely \
        termcolor tqdm xxhash opt-einsum tabulate
    PYTHONPATH=PEERS python tests/analysis/peers/record.py

writes `<library>.npz` beside this file: inputs, what the library answers, and the versions. Where a
library is installed, `test_records.py` requires that it still answers so.
"""

import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from torch import nn

GRID, STEPS, FOLDER = 8, 8, Path(__file__).parent


def read(name):
    """What is recorded of a library: name of an array to the array."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def network(parameters):
    """A small classifier of images 16 x 16 with these parameters, in their order."""
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for value, given in zip(module.parameters(), parameters, strict=True):
            value.copy_(torch.from_numpy(given))
    return module


def parameters_of(record):
    return [record[f"parameter{place}"] for place in range(6)]


def quantus_inputs():
    """A network whose probabilities move, images of large contrasts, and gradient times input."""
    draw = np.random.default_rng(0)
    shapes = [(8, 3, 3, 3), (8,), (12, 8, 3, 3), (12,), (5, 12), (5,)]
    scales = [0.2, 0.1, 0.12, 0.1, 3.0, 0.1]
    parameters = [
        scale * draw.uniform(-1, 1, shape).astype(np.float32)
        for scale, shape in zip(scales, shapes, strict=True)
    ]
    coarse = draw.standard_normal((10, 3, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    images = (3 * coarse).astype(np.float32)
    module, pixels = network(parameters), torch.from_numpy(images).requires_grad_()
    logits = module(pixels)
    target = logits.argmax(1)
    (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), pixels)
    maps = (gradient * pixels).sum(1).detach().double().numpy()
    cells = maps.reshape(10, GRID, 2, GRID, 2).mean((2, 4)).reshape(10, -1)
    named = {f"parameter{place}": value for place, value in enumerate(parameters)}
    other = cells[::-1] + draw.standard_normal(cells.shape)
    return {**named, "images": images, "target": target.numpy(), "cells": cells, "other": other}


def quantus_values(record):
    """Areas (N,) under PixelFlipping that blurs cells in the order of `cells`, and the reverse.

    PixelFlipping counts the three colours of a pixel apart, so three of its steps are one of ours.
    The area is taken of its curve: its own uses a function that numpy 2.4 no longer has.
    """
    import quantus

    module, target = network(parameters_of(record)), record["target"]
    images, cells = record["images"], record["cells"]
    fill = np.stack(
        [
            [gaussian_filter(colour, 1.6, mode="mirror", radius=5) for colour in image]
            for image in images
        ]
    )
    pixels = cells.reshape(-1, GRID, GRID).repeat(2, axis=1).repeat(2, axis=2).astype(np.float32)
    areas = {}
    for number, start, end in (("deletion", images, fill), ("insertion", fill, images)):
        filling = end.reshape(len(end), -1)

        def fill_in(arr, indices, filling=filling, **_):
            changed = arr.copy()
            np.put_along_axis(changed, indices, np.take_along_axis(filling, indices, 1), 1)
            return changed

        metric = quantus.PixelFlipping(
            features_in_step=256 // STEPS, perturb_func=fill_in, normalise=False, abs=False,
            disable_warnings=True,
        )  # fmt: skip
        curves = metric(
            model=module, x_batch=start, y_batch=target, a_batch=pixels[:, None], softmax=True,
            device="cpu",
        )  # fmt: skip
        with torch.no_grad():
            whole = module(torch.from_numpy(start)).softmax(1).numpy()
        first = np.take_along_axis(whole, target[:, None], 1)
        values = np.concatenate([first, np.array(curves)[:, 2::3]], axis=1)
        areas[number] = np.trapezoid(values, dx=1 / STEPS, axis=1)
    spearman = quantus.similarity_func.correlation_spearman
    agreed = [spearman(a, b) for a, b in zip(cells, record["other"], strict=True)]
    return {**areas, "spearman": np.array(agreed)}


def dataeval_inputs():
    """Overlapping classes: two sets of points (200, 5) with 2 and 4 of them."""
    draw, sets = np.random.default_rng(0), {}
    for classes in (2, 4):
        codes = np.sort(draw.integers(classes, size=200))
        x = draw.standard_normal((200, 5)).astype(np.float32) + codes[:, None]
        sets |= {f"codes{classes}": codes, f"x{classes}": x.astype(np.float32)}
    return sets


def dataeval_values(record):
    """Bounds (lower, upper) of `ber_knn`: by one neighbour, and of two classes by k of them."""
    from dataeval.core import ber_knn

    def bounds(x, codes, k):
        both = ber_knn(x, codes, k)
        return both["lower_bound"], both["upper_bound"]

    one = {
        f"one{classes}": bounds(record[f"x{classes}"], record[f"codes{classes}"], 1)
        for classes in (2, 4)
    }
    halves = (record["codes4"] > 1).astype(int)
    several = {f"voters{k}": bounds(record["x4"], halves, k) for k in (2, 3, 5, 7)}
    return {name: np.array(values) for name, values in (one | several).items()}


def digits(flipped=100, seed=0):
    """Pixels (N, 64) of digits, the labels that are said, and the true ones."""
    x, y = load_digits(return_X_y=True)
    draw = np.random.default_rng(seed)
    wrong = draw.permutation(len(y))[:flipped]
    said = y.copy()
    said[wrong] = (y[wrong] + draw.integers(1, 10, flipped)) % 10
    return x.astype(np.float32), said, y


def cleanlab_inputs():
    """Digits with 100 wrong labels, and the ten nearest of each."""
    x, said, _ = digits()
    # Whole numbers below 2^24: float64 products are exact, so equal distances are equal.
    lengths = (x.astype(np.float64) ** 2).sum(1)
    squares = lengths[:, None] + lengths - 2 * (x.astype(np.float64) @ x.T.astype(np.float64))
    np.fill_diagonal(squares, np.inf)
    near = np.argsort(squares, axis=1, kind="stable")[:, :10]
    return {"codes": said, "near": near.astype(np.int16)}


def cleanlab_values(record):
    """`normalized_margin` of every label, and which confident learning suspects.

    Both are of votes (N, 10): of ten neighbours, with weights 10 to 1.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    codes, near = record["codes"], record["near"]
    votes = np.zeros((len(codes), 10))
    for rank in range(10):
        votes[np.arange(len(codes)), codes[near[:, rank]]] += (10 - rank) / 55
    scores = get_label_quality_scores(codes, votes, method="normalized_margin")
    flags = find_label_issues(labels=codes, pred_probs=votes, n_jobs=1)
    return {"votes": votes, "scores": scores, "flags": flags}


RECORDS = {
    "quantus": (quantus_inputs, quantus_values),
    "dataeval": (dataeval_inputs, dataeval_values),
    "cleanlab": (cleanlab_inputs, cleanlab_values),
}
"""A library to what makes its inputs, and to what asks it."""


def main():
    """Write the record of each library, or of those that are named."""
    for name in sys.argv[1:] or RECORDS:
        make, ask = RECORDS[name]
        inputs = make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers = ask(inputs)
        versions = f"{name} {version(name)}, numpy {np.__version__}, torch {torch.__version__}"
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **inputs, **answers, versions=np.array(versions))
        print(f"{path.name}: {versions}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
