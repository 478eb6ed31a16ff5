"""An analysis as the store keeps it: tables of scores, and what they were computed from."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from alike.analysis.scores import VERSION as SCORES_VERSION
from alike.extract.command import analyse_again, command_of
from alike.extract.display import Displayed, Summary, with_interval
from alike.extract.documents import damaged, read_json
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.identity import seal_of
from alike.extract.measures import SET_MEASURES, cannot_measure, find_measure

if TYPE_CHECKING:
    from alike.extract.store import Features, Store, StoreBase

FIRST = (
    "sameness", "auc", "balanced_accuracy", "eer", "one_nn", "map_at_r", "accuracy", "knn_probe",
    "linear_probe",
)  # fmt: skip
"""The scores that are read first."""
DOCUMENT = (
    "scores", "per_class", "twins", "bayes", "suspects", "human", "layers", "sufficiency",
)  # fmt: skip
"""Tables of the JSON document; one that was not computed is left out."""

SCORES = "scores"
"""The table that every analysis has."""
OTHER, MISSING = "it belongs to another analysis", "is missing"
"""What is wrong with a table of an analysis that is being written, or was not written whole."""
WAITS = (0.05, 0.15, 0.3)
"""Seconds between looks at an analysis that is being written."""


def images_digest(store: "StoreBase") -> str:
    """Hash of the images that are there, their labels and sides, whatever rows they have."""
    view = store.images()
    view = view[view["row"] >= 0]
    sides = store.sides(view["row"].to_numpy(), view["image_id"])
    # An image without a label is one too; as text it would stay missing.
    columns = (view["image_id"], view["label"].fillna("").astype(str), sides)
    return seal_of(sorted(map("\t".join, zip(*columns, strict=True))))


def table_place(key: str, name: str) -> str:
    """Where a table of the analysis of an extraction lies in the store."""
    return f"tables/{key}/{name}.parquet"


@dataclass(frozen=True, repr=False)
class Analysis(Displayed):
    """What an analysis found.

    Attributes:
        key: of the extraction.
        n_images: evaluated by the headline: fewer than there are if the budget allowed a sample.
        classes: their names, sorted.
        settings: everything that the numbers depend on, and which measures were left out and why.
        tables: by name; columns in docs/analysis.md.
    """

    key: str
    n_images: int
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]

    def save(self, store: "StoreBase") -> None:
        """Write every table to `tables/<key>/<name>.parquet`, the settings inside each.

        The scores come last: until they are there, the analysis before counts.
        """
        attrs = {
            "key": self.key,
            "n_images": self.n_images,
            "classes": list(self.classes),
            "settings": dict(self.settings),
            "names": sorted(self.tables),
        }
        for name in sorted(self.tables, key=lambda one: one == SCORES):
            place = table_place(self.key, name)
            store.write_table(place, self.tables[name], {**attrs, "name": name})

    @staticmethod
    def load(store: "Store", key: str) -> "Analysis":
        """Read what `save` wrote; while it writes, wait until it has.

        Raises:
            BadInput: this extraction was not analysed yet.
            StoreDamaged: a table is not what was written, or is of another analysis for longer
                than `WAITS`.
        """
        for seconds in WAITS:
            try:
                return Analysis._load(store, key)
            except StoreDamaged as error:
                if error.fault not in (OTHER, MISSING):
                    raise
            time.sleep(seconds)
        return Analysis._load(store, key)

    @staticmethod
    def _load(store: "Store", key: str) -> "Analysis":
        try:
            _, attrs = store.read_table(table_place(key, SCORES))
            advice = f"run `{command_of('analyse', store, key)}` again"
            saved = read_json(json.dumps(attrs), _Saved, table_place(key, SCORES), advice)
        except FileNotFoundError as error:
            raise BadInput(not_analysed(store.features(key))) from error
        tables = {}
        for name in saved.names:
            try:
                tables[name], own = store.read_table(table_place(key, name))
            except FileNotFoundError:
                raise damaged(table_place(key, name), MISSING, advice) from None
            if seal_of(own.get("settings")) != seal_of(saved.settings):
                raise damaged(table_place(key, name), OTHER, advice)
        return Analysis(key, saved.n_images, saved.classes, saved.settings, tables)

    @property
    def scores_version(self) -> int:
        """Of what its scores mean; analyses before 0.2.0 have 1."""
        return int(self.settings.get("scores_version", 1))

    def outdated(self, features: "Features") -> str:
        """What to say if scores, features, images, labels or sides are others by now, else "".

        Args:
            features: of the same extraction, as they are now.
        """
        command = analyse_again(features, self.settings)
        if self.scores_version != SCORES_VERSION:
            return (
                f"the analysis of {self.key} has scores of version {self.scores_version}, "
                f"now {SCORES_VERSION}, which mean something else: run `{command}` again"
            )
        now = {"features_digest": features.digest, "images_digest": images_digest(features.store)}
        # Version 0.1 kept no digest of the images.
        if all(self.settings.get(name) in (None, value) for name, value in now.items()):
            return ""
        return (
            f"images, their labels or sides, or taps of {self.key} came or changed after its "
            f"analysis, which is of {self.n_images} images: run `{command}` to evaluate what "
            "is there now"
        )

    @property
    def evaluated(self) -> str:
        """How many images the headline is of, and of how many if the budget allowed a sample."""
        of = int(self.settings.get("n_images_before_sampling", self.n_images))
        if of == self.n_images:
            return f"{of:,} images"
        return f"a sample of {self.n_images:,} of {of:,} images"

    @property
    def sample_notes(self) -> list[str]:
        """That the headline is of a sample; nothing if it is of every image."""
        of = int(self.settings.get("n_images_before_sampling", self.n_images))
        return [] if of == self.n_images else [f"the scores of {self.key} are of {self.evaluated}"]

    @property
    def document(self) -> dict[str, Any]:
        """What `alike analyse --json` prints: the facts, and the tables of `DOCUMENT`."""
        return {
            "key": self.key,
            "n_images": self.n_images,
            "n_images_before_sampling": int(
                self.settings.get("n_images_before_sampling", self.n_images)
            ),
            "classes": list(self.classes),
            "settings": dict(self.settings),
            **{name: self.tables[name] for name in DOCUMENT if name in self.tables},
        }

    def overview(self) -> pd.DataFrame:
        """The scores that are read first: one row a measure, one column a score."""
        scores = self.tables["scores"]
        table = scores.pivot_table(index="measure", columns="score", values="value", sort=False)
        columns = [name for name in FIRST if name in table.columns]
        return table[columns].dropna(how="all").reset_index()

    def _summary(self) -> Summary:
        from alike.analysis.report import main_measure, score_of, worst_class

        measure = main_measure(self)
        sameness = score_of(self, measure, "sameness")
        worst = worst_class(self, measure)
        facts = {
            "sameness": sameness and with_interval(sameness.value, sameness.low, sameness.high),
            "worst class": f"{worst[0]} {worst[1]:.4g}" if worst else None,
            "evaluated": self.evaluated,
            "classes": len(self.classes),
            "split": self.settings.get("split"),
        }
        left_out = self.settings.get("left_out", {})
        notes = [f"left out: {name} ({reason})" for name, reason in left_out.items()]
        tables = {f"scores; sameness and worst class are of {measure}": self.overview()}
        return Summary(f"analysis of {self.key}", facts, notes, tables)


@dataclass(frozen=True)
class _Saved:
    """What the attributes of a stored table must hold."""

    n_images: int
    classes: tuple[str, ...]
    settings: dict[str, Any]
    names: tuple[str, ...]


TO_ANALYSE = "two classes or more, one of them with two images or more"
"""What a set needs before it can be analysed."""


def analyse_command(features: "Features") -> str:
    """The command that analyses an extraction; empty if its images allow no analysis.

    Args:
        features: of which the held-out images are evaluated, or if these do not suffice, all.
    """
    for split in ("held_out", "all"):
        counts = features.whole.table(None if split == "all" else split)["label"].value_counts()
        if len(counts) > 1 and counts.max() > 1:
            options = () if split == "held_out" else ("--split", split)
            return command_of("analyse", features.store, features.key, *options)
    return ""


def not_analysed(features: "Features") -> str:
    """What to say of an extraction without an analysis, with the command that makes one."""
    command = analyse_command(features)
    if command:
        return f"{features.key} was not analysed yet: run `{command}`"
    return f"{features.key} cannot be analysed: that needs {TO_ANALYSE}"


def not_analysed_by(features: "Features", settings: Mapping[str, Any], measure: str) -> str:
    """What to say of an analysis without a measure, with the command that adds it to the others.

    Args:
        features: the extraction.
        settings: of its analysis.
        measure: that is missing.
    """
    names = [str(name) for name in settings["measures"]]
    line = f"{features.key} was not analysed by {measure[:120]}, only by: {', '.join(names)}"
    if find_measure(measure) is None and measure not in SET_MEASURES:
        return line
    reason = cannot_measure(features, measure) if find_measure(measure) else ""
    if reason:
        return f"{line}; {reason}"
    return f"{line}; run `{analyse_again(features, settings, [measure])}`"
