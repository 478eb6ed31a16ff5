"""Does sameness order networks as accuracy does? Many networks of several families, measured.

    python -m benchmarks.ranking train vgg mobilenet nin --data ../shared/data --out DIR
    python -m benchmarks.ranking networks                --data ../shared/data --out DIR
    python -m benchmarks.ranking table                   --data ../shared/data --out DIR

`train` writes the weights of families that are not there yet. `networks` trains those that are
left, writes the weights of degraded copies, and the features of every network to one store; it goes
on where it was stopped. `table` ranks them as `alike compare --all` does, writes the raw rows to
`benchmarks/results/ranking.csv`, and prints the tables of `docs/measured/measures.md`.

Networks: the shared CIFAR ResNets; copies of them with noisy, pruned, quantised and random weights;
a VGG, a MobileNet and a network in networks, each after some epochs on the 10,000 shared training
images. Counterexamples are built, and counted apart: channels that are rescaled without any change
of the function, and classifiers that are damaged while the features stay.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from alike.analysis.blocks import here
from alike.analysis.ranking import RANKED, Ranking, rank_networks
from alike.extract.images import open_source
from alike.extract.networks import load_network
from alike.extract.pipeline import extract
from alike.extract.store import Store
from benchmarks import small_networks
from benchmarks.raw_rows import write_rows

SHARED = {"resnet20": "resnet20-12fca82f.th", "resnet32": "resnet32-d509ac18.th"}
FAMILIES = ("vgg", "mobilenet", "nin")
EPOCHS = 24
SAVED = (1, 4, 12, EPOCHS)
"""Epochs after which a network is measured."""
BUILT = ("rescaled", "head")
"""Kinds that are counterexamples by construction."""
GOOD = 0.85
"""Accuracy above which networks are ranked apart."""

State = dict[str, torch.Tensor]
Change = Callable[[State, float, np.random.Generator], State]


def _weights(state: State) -> Iterator[str]:
    """Names of the matrices and filters, the classifier's among them."""
    return (name for name, value in state.items() if value.ndim > 1)


def noisy(state: State, spread: float, draw: np.random.Generator) -> State:
    """Weights with normal noise, `spread` in units of each tensor's own deviation."""
    changed = dict(state)
    for name in _weights(state):
        noise = torch.from_numpy(draw.standard_normal(tuple(state[name].shape)).astype(np.float32))
        changed[name] = state[name] + spread * state[name].std() * noise
    return changed


def pruned(state: State, share: float, draw: np.random.Generator) -> State:
    """Without the smallest weights of each tensor."""
    changed = dict(state)
    for name in _weights(state):
        bound = torch.quantile(state[name].abs().flatten(), share)
        changed[name] = torch.where(state[name].abs() < bound, 0.0, state[name])
    return changed


def quantised(state: State, bits: float, draw: np.random.Generator) -> State:
    """Weights rounded to 2^bits - 1 levels of each tensor."""
    changed = dict(state)
    for name in _weights(state):
        step = state[name].abs().max() / (2 ** (bits - 1) - 1)
        changed[name] = (state[name] / step).round() * step
    return changed


def rescaled(state: State, spread: float, draw: np.random.Generator) -> State:
    """The same function of a CIFAR ResNet whose channels have other scales, log-normal.

    Every channel of the residual stream is multiplied by a number, and divided by it wherever it
    is read. A shortcut that pads with zeros hands the scales of its channels on.
    """
    changed = dict(state)
    scale = torch.from_numpy(np.exp(spread * draw.standard_normal(16)).astype(np.float32))
    for part in ("weight", "bias"):
        changed[f"bn1.{part}"] = state[f"bn1.{part}"] * scale
    blocks = [name.removesuffix(".conv1.weight") for name in state if ".conv1.weight" in name]
    for block in blocks:
        changed[f"{block}.conv1.weight"] = state[f"{block}.conv1.weight"] / scale[:, None, None]
        wide = len(state[f"{block}.bn2.weight"])
        if wide > len(scale):
            sides = np.exp(spread * draw.standard_normal(wide - len(scale))).astype(np.float32)
            first, last = torch.from_numpy(sides).chunk(2)
            scale = torch.cat([first, scale, last])
        for part in ("weight", "bias"):
            changed[f"{block}.bn2.{part}"] = state[f"{block}.bn2.{part}"] * scale
    changed["linear.weight"] = state["linear.weight"] / scale
    return changed


def headless(state: State, spread: float, draw: np.random.Generator) -> State:
    """Noise in the classifier alone."""
    weight = state["linear.weight"]
    noise = torch.from_numpy(draw.standard_normal(tuple(weight.shape)).astype(np.float32))
    return {**state, "linear.weight": weight + spread * weight.std() * noise}


CHANGES: dict[str, tuple[Change, tuple[float, ...]]] = {
    "noisy": (noisy, (0.15, 0.3, 0.45, 0.7)),
    "pruned": (pruned, (0.4, 0.6, 0.75, 0.9)),
    "quantised": (quantised, (5, 4, 3)),
    "rescaled": (rescaled, (1.0, 1.5)),
    "head": (headless, (1.0, 2.0)),
}
"""Kind of a degraded copy to what it does and how strongly."""


@dataclass(frozen=True)
class Variant:
    """One network to measure.

    Attributes:
        name: in the table.
        family: of its architecture.
        kind: trained, or what was done to it.
        strength: of that; epochs of training.
        weights: file, or `none` for random ones.
    """

    name: str
    family: str
    kind: str
    strength: float
    weights: str


def copies_of_resnets(data: Path, out: Path) -> Iterator[Variant]:
    """The shared ResNets and their degraded copies, whose weights are written."""
    for family, file in SHARED.items():
        path = data / "weights" / file
        yield Variant(family, family, "trained", 200, str(path))
        yield Variant(f"{family} untrained", family, "untrained", 0, "none")
        stored = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
        state = {name.removeprefix("module."): value for name, value in stored.items()}
        for kind, (change, strengths) in CHANGES.items():
            for strength in strengths:
                place = out / f"{family}-{kind}-{strength:g}.pt"
                if not place.exists():
                    torch.save(change(state, strength, np.random.default_rng(0)), place)
                yield Variant(f"{family} {kind} {strength:g}", family, kind, strength, str(place))


def families(data: Path, out: Path) -> Iterator[Variant]:
    """Networks of other families after some epochs, trained where their weights are not there."""
    for family in FAMILIES:
        yield Variant(f"{family} untrained", family, "untrained", 0, "none")
        places = train(data, out, family)
        for epoch, place in places.items():
            yield Variant(f"{family} {epoch} epochs", family, "trained", epoch, str(place))
        state = torch.load(places[EPOCHS], weights_only=True)
        for kind, strength in (("noisy", 0.3), ("quantised", 4)):
            place = out / f"{family}-{kind}-{strength:g}.pt"
            if not place.exists():
                torch.save(CHANGES[kind][0](state, strength, np.random.default_rng(0)), place)
            yield Variant(f"{family} {kind} {strength:g}", family, kind, strength, str(place))


def train(data: Path, out: Path, family: str) -> dict[int, Path]:
    """Train a network on all shared training images, unless its weights are there.

    Returns:
        Epoch to the file of the weights after it.
    """
    places = {epoch: out / f"{family}-{epoch}.pt" for epoch in SAVED}
    if places[EPOCHS].exists():
        return places
    out.mkdir(parents=True, exist_ok=True)
    parts = [np.load(data / f"cifar10_{kind}_dev.npz") for kind in ("jpeg", "lossless")]
    inputs = torch.cat([small_networks.normalised(part["x_train"]) for part in parts])
    labels = torch.cat([torch.from_numpy(part["y_train"].astype(np.int64)) for part in parts])
    torch.manual_seed(0)
    module = getattr(small_networks, family)()
    began = time.process_time()
    for epoch in small_networks.training(
        module, inputs, labels, EPOCHS, seed=0, augment=small_networks.shifted_and_flipped
    ):
        if epoch in places:
            torch.save(module.state_dict(), places[epoch])
    print(f"{family}: trained in {time.process_time() - began:.0f} s of CPU", flush=True)
    return places


def factory(variant: Variant, data: Path) -> tuple[str, dict[str, object]]:
    """The network's factory, as `--network` takes it, and its arguments."""
    if variant.family in SHARED:
        depth = int(variant.family.removeprefix("resnet"))
        return f"{data / 'cifar_resnet.py'}:resnet", {"depth": depth}
    return f"{Path(small_networks.__file__)}:{variant.family}", {}


def networks(options: argparse.Namespace) -> None:
    """Write the weights and the features of every network."""
    options.out.mkdir(parents=True, exist_ok=True)
    source = open_source(str(options.data / "cifar10_lossless_dev.npz"))
    store = Store.open(str(options.out / "ranking.store"), create=True)
    store.set_split(0.0, "")
    store.set_twins("ignore")
    rows = []
    for variants in (copies_of_resnets, families):
        for variant in variants(options.data, options.out):
            name, args = factory(variant, options.data)
            network = load_network(name, variant.weights, args=args)
            report = extract(source, network, store, taps=("fc", "logits"), threads=1)
            rows.append({**vars(variant), "key": report.key})
            print(f"{variant.name}: {report.key}, right on all images {report.top1}", flush=True)
    # All of them saw train images of CIFAR-10, so these fit the probes and evaluate nothing.
    images = store.images()
    store.set_twins("together")
    store.keep_image_groups(images[["row", "subset"]].rename(columns={"subset": "group"}))
    store.mark_trained(images.loc[images["subset"] == "train", "image_id"])
    store.assign_sides()
    pd.DataFrame(rows).to_csv(options.out / "networks.csv", index=False)


def ranked(store: Store, keys: list[str]) -> Ranking:
    """`alike compare --all` of some networks."""
    return rank_networks([store.features(key) for key in keys], jobs=here())


def table(options: argparse.Namespace) -> None:
    """Rank the networks, write the raw rows and print the tables."""
    store = Store.open(str(options.out / "ranking.store"))
    variants = pd.read_csv(options.out / "networks.csv").set_index("key").drop(columns="weights")
    built = variants["kind"].isin(BUILT)
    originals = variants["name"].isin(list(SHARED))
    honest = ranked(store, variants.index[~built].tolist())
    apart = ranked(store, variants.index[built | originals].tolist())
    of_built = apart.table[apart.table["network"].isin(variants.index[built])]
    rows = pd.concat([honest.table, of_built], ignore_index=True)
    rows = rows[["network", "score", "value", "low", "high"]]
    rows = rows.merge(variants, left_on="network", right_index=True)
    wide = rows.pivot_table(index="network", columns="score", values="value", sort=False)
    wide = wide.join(variants)
    trusted = wide[~wide["kind"].isin(BUILT)]
    good = trusted[trusted["accuracy"] > GOOD]
    groups = {
        "all": (trusted, honest),
        f"accuracy above {GOOD}": (good, ranked(store, good.index.tolist())),
        "with counterexamples": (wide, None),
        "counterexamples and originals": (wide.loc[apart.table["network"].unique()], apart),
        **{
            f"{name} alone": (trusted[trusted["family"] == name], None)
            for name in (*SHARED, *FAMILIES)
        },
    }
    parts = []
    for name, (group, ranking) in groups.items():
        others = [score for score in RANKED if score != "accuracy"]
        plain = pd.DataFrame({
            "score": others, "of": "accuracy", "networks": len(group),
            "value": [with_accuracy(group, score) for score in others],
        })  # fmt: skip
        if ranking is not None:
            with_interval = ranking.correlation.assign(score="sameness")
            plain = pd.concat([with_interval, plain[plain["score"] != "sameness"]])
        parts.append(plain.assign(group=name))
    columns = ["group", "score", "of", "value", "low", "high", "networks"]
    spearman = pd.concat(parts)[columns]
    record = honest.record
    facts = {"images": f"{record['images']} of CIFAR-10's test images, seed {record['seed']}"}
    write_rows("ranking", rows.drop(columns="network"), facts)
    write_rows("ranking_spearman", spearman, facts)
    print(shown(wide.sort_values("accuracy", ascending=False), rows))
    print(spearman.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def with_accuracy(group: pd.DataFrame, score: str) -> float:
    """Spearman of a score and accuracy over the networks that have both."""
    return float(spearmanr(group[score], group["accuracy"], nan_policy="omit").statistic)


def shown(wide: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The networks as a table of Markdown, with intervals of sameness and accuracy."""
    spans = rows.set_index(["network", "score"])
    heads = ["network", *RANKED]
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for key, row in wide.iterrows():
        cells = [str(row["name"])]
        for score in RANKED:
            text = f"{row[score]:.3f}"
            if score in ("sameness", "accuracy"):
                low, high = spans.loc[(key, score), ["low", "high"]]
                text += f" [{low:.3f}, {high:.3f}]"
            cells.append(text)
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("train", "networks", "table"))
    parser.add_argument("families", nargs="*", choices=[[], *FAMILIES], help="to train")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.data, options.out = options.data.resolve(), options.out.resolve()
    if options.what == "train":
        for family in options.families or FAMILIES:
            train(options.data, options.out, family)
    else:
        {"networks": networks, "table": table}[options.what](options)


if __name__ == "__main__":
    main()
