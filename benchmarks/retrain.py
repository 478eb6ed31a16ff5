"""Retraining measured: what each loss does to a CIFAR ResNet-20, what it costs, where it fails.

    python -m benchmarks.retrain runs        --data DIR --out DIR [--seeds 5]
    python -m benchmarks.retrain runs        --data DIR --out DIR --pilot [--set lr=0.01 …]
    python -m benchmarks.retrain runs        --digits   --out DIR  the same on scikit-learn's digits
    python -m benchmarks.retrain runs        --photos DIR --parent mobilenet_v2.pth --out DIR
    python -m benchmarks.retrain table       --out DIR
    python -m benchmarks.retrain overhead    --data DIR --out DIR
    python -m benchmarks.retrain loop        --data DIR --out DIR
    python -m benchmarks.retrain convergence --out DIR [--figure FILE.svg]

`--data` holds cifar10_jpeg_dev.npz, cifar10_lossless_dev.npz and cifar_resnet.py. `runs` goes on
where it was stopped; several of them share the work with `--part 1/2` and `--part 2/2`. `--pilot`
chooses settings without a look at the held-out images: 20 % of the training images, by content
hash, are a validation side, which checkpoint and runs do not see and which alone is scored then.
So each set has three sides: one trains, one chooses, one is reported.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from alike.extract.images import decode, image_id, split_of
from alike.extract.networks import Network, Transform, forward_taps, load_network
from alike.train.retrain import retrain

LOSSES = ("ce", "gap_supcon", "map_pair", "cam_supcon", "cam_chamfer", "icnn", "triplet")
BATCH = 120
SMALL = """
from torch import nn

def small(classes=10):
    def block(a, b):
        return nn.Conv2d(a, b, 3, padding=1), nn.ReLU()
    return nn.Sequential(*block(3, 16), nn.MaxPool2d(2), *block(16, 32), nn.MaxPool2d(2),
                         *block(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(32, classes))
"""


def as_file(pixels: np.ndarray) -> bytes:
    """One image (H, W, 3) in .npy form."""
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def without_validation(
    images: list[tuple[str, str]], read: Callable[[str], bytes], salt: str = ""
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Training images less those of the validation side, and these: a fifth, by content hash.

    Args:
        images: path and label.
        read: path to content.
        salt: of the hash; another one where the held-out side was drawn by the hash already.
    """
    sides: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "held_out": []}
    for path, label in images:
        sides[split_of(image_id(read(path)), 0.8, salt, 0.2)].append((path, label))
    return sides["train"], sides["validation"] + sides["held_out"]


class Cifar:
    """The shared CIFAR-10 files as images for `retrain`, and as arrays to evaluate on."""

    parent: Mapping[str, Any] = {
        "batch_size": 60,
        "augment": "shift_flip",
        "lr": 5e-3,
        "epochs": 8,
    }
    run: ClassVar[dict[str, Any]] = {
        "batch_size": 120,
        "augment": "shift_flip",
        "lr": 3e-3,
        "epochs": 2,
    }

    def __init__(self, asked: argparse.Namespace) -> None:
        self.network = f"{asked.data / 'cifar_resnet.py'}:resnet"
        self.transform = Transform()
        self.pixels, self.labels = {}, {}
        for kind in ("jpeg", "lossless"):
            file = np.load(asked.data / f"cifar10_{kind}_dev.npz")
            self.classes = [str(name) for name in file["classes"]]
            for side in ("train", "test"):
                self.pixels[f"{kind}/{side}"] = file[f"x_{side}"]
                self.labels[f"{kind}/{side}"] = file[f"y_{side}"].astype(int)
        self.train = [
            (f"{part}/{row}", self.classes[label])
            for part in ("jpeg/train", "lossless/train")
            for row, label in enumerate(self.labels[part])
        ]
        unseen: tuple[str, ...] = ("jpeg/test", "lossless/test")
        if asked.pilot:
            self.train, chosen_by = without_validation(self.train, self.read)
            self.parent = {**self.parent, "epochs": 5}
            self._show("validation", chosen_by)
            unseen = ("validation",)
        self._show("trained on", self.train[:: len(self.train) // 1000])
        self.evaluation_sets = (*unseen, "trained on")

    def _show(self, name: str, images: list[tuple[str, str]]) -> None:
        found = [self._place(path) for path, _ in images]
        self.pixels[name] = np.stack([self.pixels[part][row] for part, row in found])
        self.labels[name] = np.array([self.labels[part][row] for part, row in found])

    def read(self, path: str) -> bytes:
        """One image in .npy form."""
        part, row = self._place(path)
        return as_file(self.pixels[part][row])

    def _place(self, path: str) -> tuple[str, int]:
        part, _, row = path.rpartition("/")
        return part, int(row)


class Digits:
    """The digits of the demo: its network, its transform, half of the images held out."""

    parent: ClassVar[dict[str, Any]] = {"lr": 5e-3, "epochs": 12}
    run: ClassVar[dict[str, Any]] = {"lr": 3e-3, "epochs": 8}
    evaluation_sets = ("digits/test",)

    def __init__(self, asked: argparse.Namespace) -> None:
        from sklearn.datasets import load_digits

        from alike.flows import digits_network

        digits = load_digits()
        self.network = f"{digits_network.__file__}:small_network"
        self.transform = Transform(resize=16, mean=(0.5,) * 3, std=(0.5,) * 3)
        grey = (digits.images * 255 / 16).round().astype(np.uint8)
        self.every = np.repeat(grey[:, :, :, None], 3, axis=3)
        files = [as_file(pixels) for pixels in self.every]
        trained = np.array([split_of(image_id(file), 0.5) == "train" for file in files])
        self.train = [(str(row), str(digits.target[row])) for row in np.flatnonzero(trained)]
        shown = np.flatnonzero(~trained)
        if asked.pilot:
            self.train, chosen_by = without_validation(self.train, self.read, "validation")
            shown = np.array([int(row) for row, _ in chosen_by])
            self.evaluation_sets = ("validation",)
        self.pixels = {self.evaluation_sets[0]: self.every[shown]}
        self.labels = {self.evaluation_sets[0]: digits.target[shown]}

    def read(self, path: str) -> bytes:
        """One image in .npy form."""
        return as_file(self.every[int(path)])


class Photos:
    """Photographs of one size, a folder a class, half held out, for a network of ImageNet.

    They are seen at 128 pixels, a third of the cost of 224.
    """

    network = "mobilenet_v2"
    run: ClassVar[dict[str, Any]] = {"epochs": 2}
    evaluation_sets = ("held out",)

    def __init__(self, asked: argparse.Namespace) -> None:
        self.transform = Transform(resize=146, crop=128)
        listed = [(str(path), path.parent.name) for path in sorted(asked.photos.glob("*/*"))]
        classes = sorted({label for _, label in listed})
        sides: dict[str, list[tuple[str, str]]] = {"train": [], "held_out": []}
        for path, label in listed:
            sides[split_of(image_id(self.read(path)), 0.5)].append((path, label))
        self.train, shown = sides["train"], sides["held_out"]
        if asked.pilot:
            self.train, shown = without_validation(self.train, self.read, "validation")
            self.evaluation_sets = ("validation",)
        frames = [decode(self.read(path)).permute(1, 2, 0) for path, _ in shown]
        self.pixels = {self.evaluation_sets[0]: torch.stack(frames).numpy()}
        self.labels = {self.evaluation_sets[0]: np.array([classes.index(one) for _, one in shown])}

    def read(self, path: str) -> bytes:
        """One image file."""
        return Path(path).read_bytes()


def scores(network: Network, pixels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and sameness, MAP@R and NC1 of the pooled last map, all pairs, exact."""
    features, predictions = [], []
    with torch.no_grad():
        for first in range(0, len(pixels), 250):
            frames = torch.from_numpy(pixels[first : first + 250]).permute(0, 3, 1, 2)
            inputs = torch.stack([network.transform(frame) for frame in frames])
            found = forward_taps(network.module, inputs, ("gap", "logits"))
            features.append(found["gap"].double().numpy())
            predictions.append(found["logits"].argmax(1).numpy())
    right = np.concatenate(predictions) == labels
    return {"accuracy": float(right.mean()), **structure(np.concatenate(features), labels)}


def order_of(z: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Sameness = 2 AUC - 1 and MAP@R of the cosine."""
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    same = labels[:, None] == labels[None, :]
    upper = np.triu_indices(len(z), 1)
    alike, other = cosine[upper][same[upper]], np.sort(cosine[upper][~same[upper]])
    below = np.searchsorted(other, alike, "left") + np.searchsorted(other, alike, "right")
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")
    relevant = np.take_along_axis(same, order, 1)
    precisions = []
    for row, right in enumerate(relevant):
        r = int(same[row].sum()) - 1
        hits = right[:r]
        precisions.append((hits * np.cumsum(hits) / np.arange(1, r + 1)).sum() / r)
    return {
        "sameness": float(below.mean() / len(other) - 1.0),
        "map_at_r": float(np.mean(precisions)),
    }


def structure(z: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`order_of`, and NC1 = tr(S_W S_B^+) / K."""
    means = np.stack([z[labels == one].mean(0) for one in np.unique(labels)])
    within = np.cov((z - means[labels]).T, bias=True)
    between = np.cov((means - means.mean(0)).T, bias=True)
    inverse = np.linalg.pinv(between, rcond=1e-9, hermitian=True)
    return {**order_of(z, labels), "nc1": float(np.trace(within @ inverse) / len(means))}


def runs(options: argparse.Namespace) -> None:
    """Train the checkpoint, then every loss from it with every seed; score each."""
    kind = Photos if options.photos else Digits if options.digits else Cifar
    images: Any = kind(options)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.parent is None:
        fresh = load_network(images.network, transform=images.transform)
        given = {"loss": "ce", "out": options.out / "parent", **images.parent}
        options.parent = retrain(fresh, images.train, images.read, **given).weights
    network = load_network(images.network, str(options.parent), transform=images.transform)
    write_scores(options.out, ("parent", 0), network, images)
    changes = images.run | {name: json.loads(value) for name, value in map(_pair, options.set)}
    part, parts = (int(number) for number in options.part.split("/"))
    todo = [(seed, loss) for seed in range(options.seeds) for loss in options.losses.split(",")]
    for seed, loss in todo[part - 1 :: parts]:
        name, _, weight = loss.partition("@")
        named = {"loss": name, "seed": seed + 1, "out": options.out / f"{loss}-{seed}"}
        named |= {"weight": float(weight)} if weight else {}
        run = retrain(network, images.train[:: options.every], images.read, **named, **changes)
        write_scores(
            options.out, (loss, seed), load_network(images.network, str(run.weights)), images
        )


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def write_scores(out: Path, run: tuple[str, int], network: Network, images: Any) -> None:
    """Write the scores of one network on the held-out sets, and on what it was trained on."""
    rows = []
    for name in images.evaluation_sets:
        found = scores(network, images.pixels[name], images.labels[name])
        rows.append({"loss": run[0], "seed": run[1], "images": name, **found})
    pd.DataFrame(rows).to_csv(out / f"scores-{run[0]}-{run[1]}.csv", index=False)
    print(rows[0], flush=True)


def table(options: argparse.Namespace) -> None:
    """Mean of each loss, and its difference to continued cross-entropy, paired over seeds."""
    from scipy.stats import t

    every = pd.concat([pd.read_csv(file) for file in sorted(options.out.glob("scores-*.csv"))])
    for name, part in every.groupby("images"):
        wide = part.set_index(["loss", "seed"])[["accuracy", "sameness", "map_at_r", "nc1"]]
        control = wide.loc["ce"]
        print(f"\n{name}; parent {wide.loc['parent'].iloc[0].round(3).to_dict()}")
        print("| loss | seeds | accuracy | sameness | MAP@R | NC1 |\n|---|---|---|---|---|---|")
        found = set(wide.index.get_level_values(0)) - {"parent"}
        for loss in sorted(found, key=lambda one: (LOSSES.index(one.partition("@")[0]), one)):
            mine = wide.loc[loss]
            cells = []
            for score in wide.columns:
                text = f"{mine[score].mean():.3f}"
                change = (mine[score] - control[score]).dropna()
                if loss != "ce" and len(change) > 1:
                    half = t.ppf(0.975, len(change) - 1) * change.std() / len(change) ** 0.5
                    text += f" ({change.mean():+.3f} ± {half:.3f})"
                cells.append(text)
            print(f"| {loss} | {len(mine)} | " + " | ".join(cells) + " |")


def overhead(options: argparse.Namespace) -> None:
    """Step time of each loss against cross-entropy: the same batches, turn by turn."""
    from alike.train.losses import LOSSES as ROWS
    from alike.train.prepare import prepare

    cifar = Cifar(options)
    network = load_network(cifar.network, transform=cifar.transform)
    frames = torch.from_numpy(cifar.pixels["jpeg/train"][:BATCH]).permute(0, 3, 1, 2)
    labels = torch.arange(BATCH) % 10
    steps = {}
    names = [label for _, label in cifar.train[:BATCH]]
    for loss in LOSSES:
        prepared = prepare(network, cifar.classes + names, (32, 32), ROWS[loss], 0)
        module, start = prepared.module, prepared.start
        steps[loss] = _one_step(module, start, ROWS[loss], network.transform, frames, labels)
    times: dict[str, list[float]] = {loss: [] for loss in steps}
    for turn in range(options.turns + 2):
        for loss, step in steps.items():
            # Time of this process: other work on the machine does not count.
            began = time.process_time()
            step()
            if turn >= 2:
                times[loss].append(time.process_time() - began)
    plain = np.array(times["ce"])
    print(f"{torch.get_num_threads()} threads, batch {BATCH}, {options.turns} turns")
    for loss, measured in times.items():
        ratio = np.median(np.array(measured) / plain)
        print(f"{loss:12} {1e3 * np.median(measured):7.1f} ms of CPU a step, x {ratio:.3f} of ce")


def _one_step(module, start, row, transform, frames, labels):
    """A whole training step as `alike.train.step` does it, without Lightning around it."""
    from alike.train.settings import TrainSettings
    from alike.train.step import ConsistencyStep

    class Images:
        def __init__(self) -> None:
            self.transform = transform

    settings = TrainSettings(loss=row.name, warmup=0.0)
    step = ConsistencyStep(module.train(), row, settings, start, Images())  # type: ignore[arg-type]
    step.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
    step._weight_now = lambda: row.weight  # type: ignore[method-assign]

    def run() -> None:
        optimiser.zero_grad()
        step.training_step((frames, labels), 0).backward()
        optimiser.step()
        step.seen.clear()

    return run


def loop(options: argparse.Namespace) -> None:
    """A retraining with cross-entropy against a plain loop: the same images, steps and optimiser.

    Both augment, shuffle and step; what they do once (reading, decoding) drops out, since the time
    is that of a further epoch of 30 steps. The look at a probe, once an epoch, counts.
    """
    cifar = Cifar(options)
    steps = 30
    train = cifar.train[:: len(cifar.train) // (steps * BATCH)][: steps * BATCH]
    ratios = []
    for _ in range(options.turns):
        spent = {}
        for name, run in (("alike", _retraining), ("plain", _plain)):
            with tempfile.TemporaryDirectory() as folder:
                one, two = (
                    run(cifar, train, epochs, Path(folder) / str(epochs)) for epochs in (1, 2)
                )
            spent[name] = 1e3 * (two - one) / steps
        ratios.append(spent["alike"] / spent["plain"])
        words = ", ".join(f"{name} {ms:.1f} ms of CPU a step" for name, ms in spent.items())
        print(f"{words}, x {ratios[-1]:.3f}", flush=True)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(f"median x {np.median(ratios):.3f} ({spread}), {torch.get_num_threads()} threads")


def _retraining(cifar: Cifar, train: list[tuple[str, str]], epochs: int, out: Path) -> float:
    network = load_network(cifar.network, transform=cifar.transform)
    began = time.process_time()
    retrain(
        network, train, cifar.read, out=out, loss="ce", epochs=epochs, batch_size=BATCH,
        augment="shift_flip", lr=1e-3,
    )  # fmt: skip
    return time.process_time() - began


def _plain(cifar: Cifar, train: list[tuple[str, str]], epochs: int, out: Path) -> float:
    """What a user would write: torchvision's transforms, a shuffled batch, AdamW, half a cosine."""
    from torch.nn import functional
    from torchvision.transforms import v2

    network = load_network(cifar.network, transform=cifar.transform)
    began = time.process_time()
    frames = torch.stack([decode(cifar.read(path)) for path, _ in train])
    labels = torch.tensor([cifar.classes.index(label) for _, label in train])
    padded = functional.pad(frames.float(), (4,) * 4, mode="replicate").to(torch.uint8)
    one = v2.Compose([v2.RandomCrop((32, 32)), v2.RandomHorizontalFlip()])
    module = network.module.train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
    total = epochs * (len(train) // BATCH)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
    for _ in range(epochs):
        for batch in torch.randperm(len(train)).split(BATCH):
            pixels = torch.stack([one(frame) for frame in padded[batch]])
            inputs = network.transform.normalise(pixels)
            logits = module(inputs.contiguous(memory_format=torch.channels_last))
            optimiser.zero_grad()
            functional.cross_entropy(logits, labels[batch]).backward()
            optimiser.step()
            falling.step()
    return time.process_time() - began


def convergence(options: argparse.Namespace) -> None:
    """The pair loss on raw maps against the same on unit maps, from scratch on digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.repeat((digits.images * 255 / 16).astype(np.uint8)[:, :, :, None], 3, axis=3)

    def read(path: str) -> bytes:
        return as_file(pixels[int(path)])

    images = [(str(row), str(label)) for row, label in enumerate(digits.target)]
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "small.py"
    file.write_text(SMALL)
    network = load_network(f"{file}:small", transform=Transform(resize=(16, 16)))
    curves = {}
    for loss, warmup in (
        ("ce", 0.0), ("map_pair_raw", 0.0), ("map_pair_raw", 0.5), ("map_pair", 0.0),
        ("gap_supcon", 0.0),
    ):  # fmt: skip
        label = f"{loss}, ramp over half" if warmup else loss
        logs = []
        for seed in range(3):
            run = retrain(
                network, images[:600], read, held_out=images[600:],
                out=options.out / f"{label}{seed}", loss=loss, warmup=warmup, seed=seed,
                epochs=30, batch_size=60, lr=2e-3, collapse_steps=10**6,
            )  # fmt: skip
            logs.append(run.log.set_index("epoch")["probe_accuracy"])
        curves[label] = pd.concat(logs, axis=1)
        last = curves[label].iloc[-1]
        print(f"{label:30} accuracy {last.mean():.3f} ± {last.std():.3f}", flush=True)
    if options.figure:
        _draw(curves, options.figure)


def _draw(curves: dict[str, pd.DataFrame], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6))
    for label, curve in curves.items():
        (line,) = axes.plot(curve.index, curve.mean(axis=1), label=label)
        axes.fill_between(
            curve.index, curve.min(axis=1), curve.max(axis=1), color=line.get_color(), alpha=0.15
        )
    axes.set(xlabel="epoch", ylabel="accuracy on held-out digits", ylim=(0, 1))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("runs", "table", "overhead", "loop", "convergence"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--parent", type=Path, help="start from these weights")
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE of a run: epochs=5")
    parser.add_argument("--every", type=int, default=1, help="use every n-th training image")
    parser.add_argument("--losses", default=",".join(LOSSES), help="NAME or NAME@WEIGHT, commas")
    parser.add_argument("--pilot", action="store_true", help="choose settings: see above")
    parser.add_argument("--photos", type=Path, help="a folder a class, instead of CIFAR-10")
    parser.add_argument("--digits", action="store_true", help="digits instead of CIFAR-10")
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    if options.photos and not options.parent:
        parser.error("--photos needs --parent FILE, weights of mobilenet_v2")
    torch.set_num_threads(options.threads)
    work = {
        "runs": runs, "table": table, "overhead": overhead, "loop": loop,
        "convergence": convergence,
    }  # fmt: skip
    work[options.what](options)


if __name__ == "__main__":
    main()
