"""Does the consistency loss hold up? Rows tried equally often, from several starts.

    python -m benchmarks.consistency pilots  --data ../shared/data --out DIR
    python -m benchmarks.consistency starts  --data ../shared/data --out DIR
    python -m benchmarks.consistency classes --data ../shared/data --out DIR
    python -m benchmarks.consistency domains --data ../shared/data --out DIR
    python -m benchmarks.consistency collect --out DIR
    python -m benchmarks.consistency table

`consistency.toml` beside this file says what is run, and was written beforehand. `pilots`
tries the settings of every row on the validation side and chooses one of each. `starts` continues
every start with every row and seed. `classes` does so with two classes left out, which judge alone.
`domains` leaves one domain of PACS out. All go on where they were stopped, and `--part 1/2` and
`--part 2/2` share the work. `--minutes` ends a call between two runs.

`collect` adds the rows of DIR to `benchmarks/results/consistency.csv`; a run that stands there is
not done again. `table` prints the tables of `docs/measured/retraining.md` from that file alone.
"""

import argparse
import io
import json
import tarfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from alike.analysis.people.correlation import agreement
from alike.extract.images import image_id, split_of
from alike.extract.measures import MEASURES
from alike.extract.networks import Network, Transform, forward_taps, load_network
from alike.train.retrain import retrain
from benchmarks.raw_rows import RESULTS, write_rows
from benchmarks.retrain import as_file, order_of, structure, without_validation

Floats = NDArray[np.float64]
Images = list[tuple[str, str]]
PLAN = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TABLE = "consistency"
KEYS = ["part", "row", "setting", "start", "seed"]
NEIGHBOURS = 20
PACS_SIDE = 128


@dataclass(frozen=True)
class Run:
    """One training, and the key of its rows.

    Attributes:
        part: pilots, starts, classes or domains.
        row: of the table of losses; `NAME+swa` with averaged weights.
        setting: what differs from the plan's usual settings, as JSON.
        start: the weights that it goes on from; for a domain the one left out.
        seed: of the run.
    """

    part: str
    row: str
    setting: str = "{}"
    start: str = "0"
    seed: int = 0

    @property
    def folder(self) -> str:
        """Of the run; safe as a name."""
        words = "".join(letter if letter.isalnum() else "_" for letter in self.setting)
        return (
            f"{self.part}-{self.row.replace('+', '_')}-{words.strip('_')}-{self.start}-{self.seed}"
        )

    @property
    def changes(self) -> dict[str, Any]:
        """What `retrain` is given."""
        loss, _, average = self.row.partition("+")
        more = {"average": average} if average else {}
        return {"loss": loss, "seed": self.seed, **json.loads(self.setting), **more}


@dataclass
class Shown:
    """Images that a network is judged by, as they are stored (N, H, W, 3), and their classes."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.str_]
    votes: Floats | None = None
    cosines: dict[str, Floats] = field(default_factory=dict)

    def before(self, start: Network) -> Floats:
        """`class_cosines` of a start, which many runs are compared with."""
        if start.weights_hash not in self.cosines:
            z = features_of(start, self.pixels)["gap"]
            self.cosines[start.weights_hash] = class_cosines(z, self.labels)
        return self.cosines[start.weights_hash]


class Cifar:
    """The shared CIFAR-10 files: what trains, what chooses, and what is judged by.

    Args:
        data: folder of the files.
        leave_out: classes that are not trained on and that judge alone.
        choosing: keep a fifth of the training images out, and judge by these.
    """

    def __init__(self, data: Path, leave_out: tuple[str, ...] = (), choosing: bool = False) -> None:
        self.name = f"{data / 'cifar_resnet.py'}:resnet"
        self.places: dict[str, tuple[NDArray[np.uint8], NDArray[np.str_]]] = {}
        for kind in ("jpeg", "lossless"):
            file = np.load(data / f"cifar10_{kind}_dev.npz")
            names = np.array([str(name) for name in file["classes"]])
            for side in ("train", "test"):
                self.places[f"{kind}/{side}"] = file[f"x_{side}"], names[file[f"y_{side}"]]
        listed = [
            (f"{place}/{at}", str(label))
            for place in ("jpeg/train", "lossless/train")
            for at, label in enumerate(self.places[place][1])
            if label not in leave_out
        ]
        self.train = listed
        shown = {"jpeg": self.places["jpeg/test"], "lossless": self.places["lossless/test"]}
        if choosing:
            self.train, chosen_by = without_validation(listed, self.read)
            shown = {"validation": self._arrays(chosen_by)}
        self.shown = {name: Shown(*arrays) for name, arrays in shown.items()}
        if "lossless" in self.shown:
            counts = np.load(data / "cifar10h_first500.npz")["counts"].astype(float)
            self.shown["lossless"].votes = counts / counts.sum(1, keepdims=True)
        if leave_out:
            for name, images in self.shown.items():
                mine = np.isin(images.labels, leave_out)
                self.shown[name] = Shown(images.pixels[mine], images.labels[mine])
        self.fitted_on = Shown(*self._arrays(self.train[:: max(1, len(self.train) // 2000)]))

    def _arrays(self, listed: Images) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
        pixels = [self._pixels(path) for path, _ in listed]
        return np.stack(pixels), np.array([label for _, label in listed])

    def _pixels(self, path: str) -> NDArray[np.uint8]:
        place, _, at = path.rpartition("/")
        return self.places[place][0][int(at)]

    def read(self, path: str) -> bytes:
        """One image in .npy form."""
        return as_file(self._pixels(path))


def features_of(network: Network, pixels: NDArray[np.uint8]) -> dict[str, Floats]:
    """Pooled map, map and logits of images, float32."""
    parts: dict[str, list[Any]] = {"gap": [], "last_conv": [], "logits": []}
    with torch.inference_mode():
        for first in range(0, len(pixels), 250):
            frames = torch.from_numpy(pixels[first : first + 250]).permute(0, 3, 1, 2)
            inputs = torch.stack([network.transform(frame) for frame in frames])
            for name, values in forward_taps(network.module, inputs, tuple(parts)).items():
                parts[name].append(values.numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def order(z: Floats, labels: NDArray[np.str_], name: str) -> dict[str, float]:
    """Sameness and MAP@R of vectors by their cosine."""
    found = order_of(z.astype(np.float64), labels)
    return {f"{name}.sameness": found["sameness"], f"{name}.map_at_r": found["map_at_r"]}


def class_cosines(z: Floats, labels: NDArray[np.str_]) -> Floats:
    """Cosine of the class means of unit vectors, one number for each pair of classes."""
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    means = np.stack([unit[labels == one].mean(0) for one in np.unique(labels)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray((means @ means.T)[np.triu_indices(len(means), 1)])


def judged(network: Network, cifar: Cifar, start: Network) -> Iterator[dict[str, Any]]:
    """Every score on every set of images, those that the loss did not train among them."""
    names = np.array(sorted({label for _, label in cifar.train}))
    fitted = features_of(network, cifar.fitted_on.pixels)
    codes = np.searchsorted(names, cifar.fitted_on.labels)
    lda = MEASURES["lda_cosine"].fit({"gap": fitted["gap"]}, {}, codes)
    standard = StandardScaler().fit(fitted["gap"])
    linear = LogisticRegression(max_iter=1000).fit(standard.transform(fitted["gap"]), codes)
    near = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(
        standard.transform(fitted["gap"]), codes
    )
    for kind, images in cifar.shown.items():
        found = features_of(network, images.pixels)
        scores = order(found["gap"], images.labels, "gap_cosine")
        scores["nc1"] = structure(found["gap"].astype(np.float64), codes_of(images.labels))["nc1"]
        unit = found["last_conv"].reshape(len(images.labels), -1)
        scores |= order(unit, images.labels, "map_cosine")
        scores |= order(lda.embed({"gap": found["gap"]}, {}), images.labels, "lda_cosine")
        if set(images.labels) <= set(names):
            true, wide = np.searchsorted(names, images.labels), standard.transform(found["gap"])
            scores["accuracy"] = float((found["logits"].argmax(1) == true).mean())
            scores["linear_probe"] = float(linear.score(wide, true))
            scores["knn_probe"] = float(near.score(wide, true))
            before = images.before(start)
            after = class_cosines(found["gap"], images.labels)
            ranks = [pd.Series(each).rank() for each in (before, after)]
            scores["classes.before_after"] = float(np.corrcoef(*ranks)[0, 1])
            scores["classes.spread"] = float(after.std())
        if images.votes is not None and len(images.votes) == len(images.labels):
            z = found["gap"].astype(np.float64)
            z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
            people = agreement(z @ z.T, images.votes @ images.votes.T, codes_of(images.labels))
            scores["human.all_pairs"] = people["all_pairs"]
            scores["human.class_pairs"] = people["class_pairs"]
        for score, value in scores.items():
            yield {"images": kind, "score": score, "value": value}


def codes_of(labels: NDArray[np.str_]) -> NDArray[np.int64]:
    """Number of the class of each image."""
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


class Work:
    """The runs that are left, each done once and its rows written to a file of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out: Path = options.out
        self.data: Path = options.data
        self.part, self.parts = (int(number) for number in options.part.split("/"))
        self.until = time.monotonic() + 60 * options.minutes
        self.seen = done_runs()
        (self.out / "rows").mkdir(parents=True, exist_ok=True)

    def share(self, runs: list[Run]) -> list[Run]:
        """This part of the runs."""
        return runs[self.part - 1 :: self.parts]

    def share_by_start(self, runs: list[Run]) -> list[Run]:
        """This part of the runs, such that each part has starts of its own, which it trains."""
        mine = set(list(dict.fromkeys(run.start for run in runs))[self.part - 1 :: self.parts])
        return [run for run in runs if run.start in mine]

    def left(self, runs: list[Run]) -> Iterator[Run]:
        """Runs that nobody did, until the time is over."""
        for run in runs:
            key = (run.part, run.row, run.setting, run.start, run.seed)
            if key in self.seen or self.file(run).exists():
                continue
            if time.monotonic() > self.until:
                return
            yield run

    def file(self, run: Run) -> Path:
        """Of the rows of a run."""
        return self.out / "rows" / f"{run.folder}.csv"

    def write(self, run: Run, rows: Iterator[dict[str, Any]], seconds: float) -> None:
        """Write the rows of a run, aside and renamed."""
        key = {name: getattr(run, name) for name in KEYS}
        table = pd.DataFrame([{**key, **row} for row in rows])
        table["cpu_seconds"] = round(seconds, 1)
        aside = self.file(run).with_suffix(".partial")
        table.to_csv(aside, index=False)
        aside.replace(self.file(run))
        line = table[table["score"].isin(("accuracy", "gap_cosine.sameness"))]
        words = ", ".join(f"{row.images} {row.score} {row.value:.3f}" for row in line.itertuples())
        print(f"{run.folder}: {seconds:.0f} s of CPU; {words}", flush=True)


def done_runs() -> set[tuple[Any, ...]]:
    """Keys of the runs that stand in the table of results."""
    file = RESULTS / f"{TABLE}.csv"
    if not file.exists():
        return set()
    table = pd.read_csv(file, comment="#", dtype={"start": str})
    return set(table[KEYS].drop_duplicates().itertuples(index=False, name=None))


def train_start(cifar: Cifar, seed: int, out: Path, epochs: int = 8) -> Network:
    """A ResNet-20 trained with cross-entropy from random weights of a seed."""
    fresh = load_network(
        cifar.name, transform=Transform(), seed=seed, args={"classes": classes_in(cifar)}
    )
    run = retrain(
        fresh, cifar.train, cifar.read, out=out, loss="ce", seed=seed, epochs=epochs, lr=5e-3,
        batch_size=60, augment="shift_flip", precision="bf16-mixed",
    )  # fmt: skip
    return load_network(cifar.name, str(run.weights), transform=Transform())


def classes_in(cifar: Cifar) -> int:
    """How many classes are trained on."""
    return len({label for _, label in cifar.train})


def continued(start: Network, cifar: Cifar, run: Run, out: Path) -> Network:
    """A start trained on as a run says."""
    plan = PLAN["cifar"]
    usual = {"epochs": plan["epochs"], "lr": plan["rate"]}
    trained = retrain(
        start, cifar.train, cifar.read, out=out, batch_size=120, augment="shift_flip",
        precision="bf16-mixed", **{**usual, **run.changes},
    )  # fmt: skip
    return load_network(cifar.name, str(trained.weights), transform=Transform())


def pilots(options: argparse.Namespace) -> None:
    """Try the settings of every row by the validation side alone."""
    work, cifar = Work(options), Cifar(options.data, choosing=True)
    start = train_start(cifar, 0, work.out / "parents" / "pilot", epochs=5)
    runs = [
        Run("pilots", row, json.dumps(setting))
        for tried in PLAN["cifar"]["tried"]
        for row in tried["rows"]
        for setting in tried["settings"]
    ]
    do(work, work.share(runs), lambda run: (start, cifar))


def do(work: Work, runs: list[Run], given: Callable[[Run], tuple[Network, Cifar]]) -> None:
    """Train and judge what is left of the runs."""
    for run in work.left(runs):
        began = time.process_time()
        start, cifar = given(run)
        network = start
        if run.row != "start":
            network = continued(start, cifar, run, work.out / "runs" / run.folder)
        work.write(run, judged(network, cifar, start), time.process_time() - began)


def chosen() -> dict[str, str]:
    """The setting of each row that the pilots chose, by the rule in the plan."""
    table = pd.read_csv(RESULTS / f"{TABLE}.csv", comment="#")
    table = table[table["part"] == "pilots"]
    wide = table.pivot_table(index=["row", "setting"], columns="score", values="value")
    tried = {row: len(part) for row, part in wide.groupby("row")}
    rows = [*PLAN["cifar"]["controls"], *PLAN["cifar"]["losses"]]
    unequal = {row: tried.get(row, 0) for row in rows if tried.get(row, 0) != tried.get("ce", 0)}
    if unequal:
        raise SystemExit(f"pilots are not done: ce has {tried.get('ce', 0)} settings, {unequal}")
    bound = wide.loc["ce"]["accuracy"].max() - PLAN["margin"]
    names = {}
    for row in rows:
        part = wide.loc[row]
        good = part[part["accuracy"] >= bound]
        best = good["gap_cosine.sameness"] if len(good) else part["accuracy"]
        names[row] = str(best.idxmax())
    return names


def starts(options: argparse.Namespace) -> None:
    """Continue every start with every row and seed."""
    work, cifar, plan, setting = Work(options), Cifar(options.data), PLAN["cifar"], chosen()
    found: dict[str, Network] = {}

    def given(run: Run) -> tuple[Network, Cifar]:
        if run.start not in found:
            published = run.start == "published"
            found[run.start] = (
                load_network(
                    cifar.name, str(options.data / "weights" / "resnet20-12fca82f.th"),
                    transform=Transform(), class_names=sorted({label for _, label in cifar.train}),
                ) if published
                else train_start(cifar, int(run.start), work.out / "parents" / run.start)
            )  # fmt: skip
        return found[run.start], cifar

    runs = [
        run
        for seed in range(plan["seeds"])
        for start in plan["starts"]
        for run in (
            *([Run("starts", "start", "{}", start, 0)] if seed == 0 else []),
            *(Run("starts", row, setting[row], start, seed + 1) for row in setting),
        )
    ]
    do(work, work.share_by_start(runs), given)


def classes(options: argparse.Namespace) -> None:
    """Train without two classes, which judge alone."""
    work, plan, setting = Work(options), PLAN["classes"], chosen()
    found: dict[str, tuple[Network, Cifar]] = {}

    def given(run: Run) -> tuple[Network, Cifar]:
        if run.start not in found:
            cifar = Cifar(options.data, tuple(run.start.split("+")))
            place = work.out / "parents" / run.start.replace("+", "_")
            found[run.start] = train_start(cifar, 0, place), cifar
        return found[run.start]

    runs = [
        run
        for seed in range(plan["seeds"])
        for pair in plan["judges"]
        for run in (
            *([Run("classes", "start", "{}", "+".join(pair), 0)] if seed == 0 else []),
            *(Run("classes", row, setting[row], "+".join(pair), seed + 1) for row in setting),
        )
    ]
    do(work, work.share_by_start(runs), given)


class Pacs:
    """Four domains of seven classes; one is left out, and a fifth of the others is held out."""

    def __init__(self, data: Path, unseen: str) -> None:
        self.content: dict[str, bytes] = {}
        with tarfile.open(data / "pacs_domains_4x7x60.tar") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith((".jpg", ".png")):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    self.content[member.name] = stream.read()
        self.transform = Transform(resize=146, crop=PACS_SIDE)
        self.train, self.shown = [], []
        for path in sorted(self.content):
            _, domain, label, _ = path.split("/")
            side = split_of(image_id(self.content[path]), 0.8)
            if domain != unseen and side == "train":
                self.train.append((path, label))
            elif domain == unseen or side == "held_out":
                self.shown.append(path)

    def read(self, path: str) -> bytes:
        """One image file."""
        return self.content[path]


def domains(options: argparse.Namespace) -> None:
    """Leave one domain out; train a MobileNetV2 of ImageNet on the others."""
    work, plan = Work(options), PLAN["domains"]
    rows = [*plan["controls"], *plan["losses"], *(f"{row}+swa" for row in plan["averaged"])]
    places = ("photo", "art_painting", "cartoon", "sketch")
    runs = [
        Run("domains", row, "{}", unseen, seed + 1)
        for seed in range(plan["seeds"])
        for row in rows
        for unseen in places
    ]
    weights = str(options.data / "weights" / "mobilenet_v2_imagenet.pth")
    for run in work.left(work.share(runs)):
        began = time.process_time()
        pacs = Pacs(options.data, run.start)
        start = load_network("mobilenet_v2", weights, transform=pacs.transform)
        trained = retrain(
            start, pacs.train, pacs.read, out=work.out / "runs" / run.folder,
            epochs=plan["epochs"], batch_size=plan["batch_size"], augment="zoom_flip",
            precision="bf16-mixed", **run.changes,
        )  # fmt: skip
        network = load_network("mobilenet_v2", str(trained.weights), transform=pacs.transform)
        work.write(run, across(network, pacs, run.start), time.process_time() - began)


def across(network: Network, pacs: Pacs, unseen: str) -> Iterator[dict[str, Any]]:
    """Accuracy and sameness on the unseen domain, and sameness split by class and domain."""
    from alike.extract.images import decode

    found: dict[str, list[Any]] = {"gap": [], "logits": []}
    with torch.inference_mode():
        for first in range(0, len(pacs.shown), 64):
            frames = [decode(pacs.content[path]) for path in pacs.shown[first : first + 64]]
            inputs = torch.stack([network.transform(frame) for frame in frames])
            for name, values in forward_taps(network.module, inputs, tuple(found)).items():
                found[name].append(values.numpy())
    z = np.concatenate(found["gap"]).astype(np.float64)
    domain, label = np.array([path.split("/")[1:3] for path in pacs.shown]).T
    names = np.array(network.class_names)
    right = names[np.concatenate(found["logits"]).argmax(1)] == label
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    for name, mine in (("unseen", domain == unseen), ("seen", domain != unseen)):
        scores = order(z[mine], label[mine], "gap_cosine")
        scores["accuracy"] = float(right[mine].mean())
        for score, value in scores.items():
            yield {"images": name, "score": score, "value": value}
    upper = np.triu_indices(len(z), 1)
    # Pairs with the unseen domain in them.
    with_unseen = (domain[upper[0]] == unseen) | (domain[upper[1]] == unseen)
    i, j = upper[0][with_unseen], upper[1][with_unseen]
    cosine = np.einsum("nd,nd->n", z[i], z[j])
    same_class, same_domain = label[i] == label[j], domain[i] == domain[j]
    for of_same in (True, False):
        for of_other in (True, False):
            chosen = np.where(same_class, same_domain == of_same, same_domain == of_other)
            auc = roc_auc_score(same_class[chosen], cosine[chosen])
            words = ("same" if of_same else "other", "same" if of_other else "other")
            score = f"sameness.{words[0]}_domain_against_{words[1]}"
            yield {"images": "with unseen", "score": score, "value": 2 * float(auc) - 1}


def collect(options: argparse.Namespace) -> None:
    """Add the rows of a folder to the table of results."""
    file = RESULTS / f"{TABLE}.csv"
    parts = [pd.read_csv(file, comment="#", dtype={"start": str})] if file.exists() else []
    parts += [
        pd.read_csv(io.StringIO(each.read_text()), dtype={"start": str})
        for each in sorted((options.out / "rows").glob("*.csv"))
    ]
    table = pd.concat(parts).drop_duplicates([*KEYS, "images", "score"])
    table = table.sort_values([*KEYS, "images", "score"], kind="stable")
    runs = table.drop_duplicates(KEYS)
    write_rows(TABLE, table, {"CPU-hours": f"{runs['cpu_seconds'].sum() / 3600:.2f}"})
    print(runs.groupby("part").agg(runs=("seed", "size"), seconds=("cpu_seconds", "sum")))


def nested(change: pd.DataFrame) -> tuple[float, float, float, float]:
    """Mean, interval and p of a difference (starts x seeds): the starts are the units.

    Seeds are nested in starts. The mean of a start varies by both, so the spread of these means
    holds both, and Student's t with one degree less than there are starts is exact if they are
    normal.
    """
    from scipy.stats import t

    means = change.groupby("start")["change"].mean()
    mean, n = float(means.mean()), len(means)
    if n < 2:
        return mean, np.nan, np.nan, np.nan
    error = float(means.std()) / n**0.5
    half = t.ppf(0.975, n - 1) * error
    p = 2 * t.sf(abs(mean) / error, n - 1) if error > 0 else np.nan
    return mean, mean - half, mean + half, float(p)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjustment."""
    ordered = sorted(p, key=lambda name: p[name])
    adjusted, least = {}, 0.0
    for at, name in enumerate(ordered):
        least = max(least, min(1.0, (len(ordered) - at) * p[name]))
        adjusted[name] = least
    return adjusted


def not_inferior(change: pd.DataFrame, margin: float) -> tuple[float, float]:
    """P of "lower by the margin or more" (one-sided t), and the test's power if nothing changes."""
    from scipy.stats import nct, t

    means = change.groupby("start")["change"].mean()
    n = len(means)
    if n < 2:
        return np.nan, np.nan
    error = float(means.std()) / n**0.5
    p = t.sf((float(means.mean()) + margin) / error, n - 1)
    power = nct.sf(t.ppf(0.95, n - 1), n - 1, margin / error)
    return float(p), float(power)


def changes_of(table: pd.DataFrame, row: str, control: str = "ce") -> pd.DataFrame:
    """Difference of a row to the control, paired over start and seed."""
    wide = table.pivot_table(index=["start", "seed"], columns="row", values="value")
    return (wide[row] - wide[control]).dropna().rename("change").reset_index()


def table(options: argparse.Namespace) -> None:
    """Print the tables."""
    rows = pd.read_csv(RESULTS / f"{TABLE}.csv", comment="#", dtype={"start": str})
    _print_pilots(rows[rows["part"] == "pilots"])
    for part in ("starts", "classes", "domains"):
        of_part = rows[rows["part"] == part]
        for images, shown in of_part.groupby("images"):
            _print_changes(f"{part}, {images}", shown)


def _print_pilots(rows: pd.DataFrame) -> None:
    wide = rows.pivot_table(index=["row", "setting"], columns="score", values="value")
    print("\n| row | setting | accuracy | sameness | MAP@R |\n|---|---|---|---|---|")
    for (row, setting), found in wide.iterrows():
        scores = ("accuracy", "gap_cosine.sameness", "gap_cosine.map_at_r")
        print(
            f"| {row} | `{setting}` | " + " | ".join(f"{found[one]:.3f}" for one in scores) + " |"
        )
    try:
        print("chosen:", chosen())
    except SystemExit as left:
        print(left)


def _print_changes(name: str, shown: pd.DataFrame) -> None:
    print(f"\n{name}\n| score | ce | " + " | ".join(_losses(shown)) + " |")
    print("|---|---|" + "---|" * len(_losses(shown)))
    for score, values in shown.groupby("score"):
        if "ce" not in set(values["row"]):
            continue
        changes = {row: changes_of(values, row) for row in _losses(shown)}
        found = {row: nested(change) for row, change in changes.items()}
        adjusted = holm({row: each[3] for row, each in found.items() if np.isfinite(each[3])})
        of = values.loc[values["row"] == "ce", "start"].nunique()
        cells = []
        for row, (mean, low, high, _) in found.items():
            n = changes[row]["start"].nunique()
            some = f" ({n} of {of} starts)" if n < of else ""
            p = f"{adjusted[row]:.3f}" if row in adjusted else "–"
            span = f"[{low:+.3f}, {high:+.3f}] p {p}" if np.isfinite(low) else "–"
            cells.append(f"{mean:+.3f}{some} {span}" if n else "–")
        control = values[values["row"] == "ce"]["value"].mean()
        print(f"| {score} | {control:.3f} | " + " | ".join(cells) + " |")
        if score == "accuracy" and values["start"].nunique() > 2:
            tests = [not_inferior(changes_of(values, row), PLAN["margin"]) for row in found]
            words = [f"p {p:.3f}, power {power:.2f}" if p == p else "–" for p, power in tests]
            print("| not lower by a point | | " + " | ".join(words) + " |")


def _losses(shown: pd.DataFrame) -> list[str]:
    return [row for row in shown["row"].drop_duplicates() if row not in ("ce", "start")]


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    work = {
        "pilots": pilots, "starts": starts, "classes": classes, "domains": domains,
        "collect": collect, "table": table,
    }  # fmt: skip
    parser.add_argument("what", choices=tuple(work))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after this time")
    options = parser.parse_args()
    if options.what != "table" and options.out is None:
        parser.error(f"{options.what} needs --out DIR")
    if options.what not in ("table", "collect") and options.data is None:
        parser.error(f"{options.what} needs --data DIR, the shared files")
    torch.set_num_threads(1)
    work[options.what](options)


if __name__ == "__main__":
    main()
