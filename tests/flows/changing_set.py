"""A set of images that changes, with settings beside it, and the tables of a run by image id."""

import io
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alike.analysis.maps import MapSettings, make_map
from alike.analysis.stored import Analysis
from alike.extract.errors import BadInput
from alike.extract.progress import silent
from alike.extract.store.store import Store
from alike.flows import retraining
from alike.flows import run as whole_run
from alike.flows.run import run_settings_file
from alike.flows.settings import read_pipeline

CLASSES = ("a", "b", "c")

NETWORK = """
import torch
from torch import nn

TRANSFORM = {"resize": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.maps(x)), 1))


def small():
    return Small()
"""

SETTINGS = """
[images]
source = "set"
train_share = {train_share}
salt = "{salt}"
[network]
name = "net.py:small"
weights = "{weights}"
seed = {network_seed}
[extract]
taps = {taps}
[index]
measure = "{index}"
[analyse]
measures = {measures}
bootstrap = {bootstrap}
seed = {seed}
[explain]
examples = {examples}
confused = {confused}
continuity_images = {continuity}
methods = ["sa"]
[output]
folder = "{folder}"
"""

RIGHT = {
    "train_share": 0.4, "salt": "", "network_seed": 0, "weights": "none",
    "taps": ["last_conv", "fc", "logits"], "index": "gap_cosine", "bootstrap": 10, "seed": 0,
    "measures": ["gap_cosine", "lda_cosine"], "continuity": 0,
    "examples": 0, "confused": 0,
}  # fmt: skip
OTHER = {
    "train_share": 0.6, "salt": "pepper", "network_seed": 1, "weights": "net.pth",
    "taps": ["last_conv", "fc", "logits", "maps.0"], "index": "lda_cosine", "bootstrap": 20,
    "seed": 5, "measures": ["whitened_cosine", "gap_cosine_centred", "chamfer"], "continuity": 4,
    "examples": 1, "confused": 1,
}  # fmt: skip
"""What a setting is changed to; changed again, it is back."""


@dataclass
class Place:
    """A set of images that changes, with a settings file beside it."""

    folder: Path
    now: dict = field(default_factory=lambda: dict(RIGHT))
    made: int = 0
    whole: dict = field(default_factory=dict)
    """Bytes of the images that are corrupted."""
    stores: dict = field(default_factory=dict)
    """Output folder to the line that names its store, if that is elsewhere."""

    def __post_init__(self):
        (self.folder / "net.py").write_text(NETWORK)
        torch.manual_seed(7)
        weights = {
            "maps.0.weight": torch.randn(6, 3, 3, 3), "maps.0.bias": torch.zeros(6),
            "fc.weight": torch.randn(3, 6), "fc.bias": torch.zeros(3),
        }  # fmt: skip
        torch.save(weights, self.folder / "net.pth")
        for _ in range(8):
            for label in CLASSES:
                self.add(label)

    def files(self):
        return sorted(self.folder.glob("set/*/*.png"))

    def pick(self, number):
        files = self.files()
        return files[number % len(files)]

    def add(self, label):
        draw = np.random.default_rng(self.made)
        pixels = draw.integers(0, 200, (8, 8, 3)) + 25 * CLASSES.index(label)
        sink = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(sink, "png")
        # Names that do not sort as they were made, so that a new image lands among the others.
        file = self.folder / "set" / label / f"{draw.integers(10**6):06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sink.getvalue())
        self.made += 1

    def move(self, file, to):
        to.parent.mkdir(parents=True, exist_ok=True)
        file.rename(to)
        if file in self.whole:
            self.whole[to] = self.whole.pop(file)

    def change(self, kind, number):
        """Do one change; the number chooses the image, the class or the setting."""
        file = self.pick(number)
        if kind == "add":
            self.add(CLASSES[number % 3])
        elif kind == "remove":
            file.unlink()
            self.whole.pop(file, None)
        elif kind == "rename":
            self.move(file, file.with_name(f"{(int(file.stem) * 7919 + 13) % 10**6:06}.png"))
        elif kind == "relabel":
            label = CLASSES[(CLASSES.index(file.parent.name) + 1 + number % 2) % 3]
            self.move(file, self.folder / "set" / label / file.name)
        elif kind == "copy":
            label = CLASSES[number % 3]
            to = self.folder / "set" / label / f"{(int(file.stem) + 1) % 10**6:06}.png"
            to.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, to)
        elif kind == "corrupt":
            self.whole.setdefault(file, file.read_bytes())
            file.write_bytes(self.whole[file][: 20 + number])
        elif kind == "restore":
            for file, image in self.whole.items():
                file.write_bytes(image)
            self.whole.clear()
        elif kind == "store":
            self.stores["out"] = "" if self.stores.get("out") else 'store = "elsewhere"\n'
        else:
            assert kind == "setting"
            name = list(RIGHT)[number % len(RIGHT)]
            self.now[name] = (RIGHT if self.now[name] == OTHER[name] else OTHER)[name]

    def write_settings(self, folder):
        file = self.folder / f"{folder}.toml"
        file.write_text(SETTINGS.format(folder=folder, **self.now) + self.stores.get(folder, ""))
        return file

    def run(self, folder="out"):
        """Run the settings; the tables by image id, or what the run refuses."""
        file = self.write_settings(folder)
        try:
            finished = run_settings_file(file, silent)
        except BadInput as error:
            return str(error)
        store = Store.open(read_pipeline(file).store_place)
        tables = dict(Analysis.load(store, finished.key).tables)
        if self.now["continuity"]:
            tables["continuity"] = store.read_table(f"tables/{finished.key}/continuity.parquet")[0]
        view = store.images()
        ids = dict(zip(view["row"], view["image_id"], strict=True))
        return {name: by_id(name, table, ids) for name, table in tables.items()}

    def map(self, folder):
        """The map of the images that a run served, by image id."""
        store = Store.open(read_pipeline(self.folder / f"{folder}.toml").store_place)
        table = make_map(store.features(), MapSettings(split="all"))
        view = store.images()
        return by_id("map", table, dict(zip(view["row"], view["image_id"], strict=True)))


ROWS = ("row", "row_a", "row_b", "neighbour")


def by_id(name, table, ids):
    """A table with image ids in place of row numbers, in an order that does not hang on rows."""
    table = table.copy()
    for column in set(ROWS) & set(table.columns):
        table[column] = [ids[row] for row in table[column]]
    if name == "pairs_examples":
        both = np.sort(table[["row_a", "row_b"]].to_numpy(str), axis=1)
        table["row_a"], table["row_b"] = both.T
    if name == "map":
        table = table.sort_values("row")
    if name == "neighbours":
        table = table.sort_values(["measure", "row", "rank"])
    return table.reset_index(drop=True)


def without_prefect(patch):
    """Steps are called as they are, in this process."""
    for module in (whole_run, retraining):
        patch.setattr(module, "step", lambda function, _: function)
