"""What was computed before and lies in a store: the tables of the analysis, and the map."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.extract.class_names import output_names
from alike.extract.command import command_of
from alike.extract.errors import AlikeError
from alike.extract.measures import cannot_measure
from alike.serve.notes import beyond
from alike.serve.opened import OpenIndex, check_key
from alike.serve.pictures import NotThere

if TYPE_CHECKING:
    from alike.analysis.stored import Analysis

MOST = 6
"""Analyses, maps and lists that are kept in memory."""
SCORES = "scores.parquet"
"""The table that every analysis has."""
NETWORK = "network"
"""In place of a measure, of what belongs to the network."""
LOGITS = "logits"
NO_PREDICTION = "no prediction"
"""In place of the class of an image whose logits are lost."""
BLOCK = 4096
"""Rows of logits that are read at once."""
SPLITS = ("held_out", "all", "validation", "train")
"""Splits in the order in which a map is looked for if none is named."""


class StoredAnalyses:
    """The analyses and maps of a store; each is read once, and again when it was replaced."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._reading: dict[tuple[str, ...], threading.Lock] = {}
        self._read: OrderedDict[tuple[str, ...], tuple[Any, Any]] = OrderedDict()
        self._measures: dict[str, tuple[Any, list[str]]] = {}
        self._maps: dict[str, tuple[Any, list[str]]] = {}

    def stamp(self, key: str) -> Any:
        """Changes with every analysis of an extraction; None before the first."""
        return self._store.files.listing(f"tables/{key}").get(SCORES)

    def measures(self, key: str) -> list[str]:
        """Measures by which an extraction was analysed; none before the first analysis."""
        stamp = self.stamp(key)
        if stamp is None:
            return []
        entry = self._measures.get(key)
        if entry is None or entry[0] != stamp:
            try:
                table, _ = self._store.read_table(f"tables/{key}/{SCORES}")
            except (AlikeError, OSError):
                # What is damaged is told to whoever asks for it.
                return []
            names = map(str, dict.fromkeys(table["measure"]))
            entry = stamp, [name for name in names if name != NETWORK]
            self._measures[key] = entry
        return entry[1]

    def maps(self, key: str) -> list[str]:
        """Measures of which an extraction has a map of the images that are there now."""
        listing = self._store.files.listing(f"maps/{key}")
        if not listing:
            return []
        features = self._store.features(key)
        stamp = features.stamp(), listing
        entry = self._maps.get(key)
        if entry is None or entry[0] != stamp:
            entry = self._maps[key] = stamp, _drawable(features, listing)
        return entry[1]

    def analysis_needs(self, key: str) -> str:
        """What scores and classes need, with the command that makes it; empty if nothing."""
        if self.stamp(key) is not None:
            return ""
        from alike.analysis.stored import TO_ANALYSE, analyse_command

        command = analyse_command(self._store.features(key))
        return f"an analysis: run `{command}`" if command else TO_ANALYSE

    def map_needs(self, key: str, measure: str) -> str:
        """What the map by a measure needs, with the command that makes it; empty if nothing."""
        if measure in self.maps(key):
            return ""
        command, why_not = _map_command(self._store.features(key), measure)
        outdated = measure in _mapped(self._store.files.listing(f"maps/{key}"))
        wanted = f"a map by {measure}{' of the images that are there now' if outdated else ''}"
        return f"{wanted}: run `{command}`" if command else f"{wanted}, but {why_not}"

    def measure_needs(self, key: str, measure: str) -> str:
        """What an analysis by a measure needs, where there is one by others; empty if nothing."""
        measures = self.measures(key)
        if not measures or measure in measures:
            return ""
        from alike.analysis.stored import not_analysed_by

        try:
            settings = self.analysis(key).settings
        except (NotThere, AlikeError, OSError):
            # What is damaged is told to whoever asks for it.
            return ""
        return not_analysed_by(self._store.features(key), settings, measure)

    def analysis(self, key: str) -> "Analysis":
        """The analysis of an extraction.

        Raises:
            NotThere: it was not analysed yet.
        """
        # Here, as below: the page starts without what only the analysis needs.
        from alike.analysis.stored import Analysis, not_analysed

        stamp = self.stamp(key)
        if stamp is None:
            check_key(self._store, key)
            raise NotThere(not_analysed(self._store.features(key)))
        analysis: Analysis = self._kept(
            ("analysis", key), stamp, lambda: Analysis.load(self._store, key)
        )
        return analysis

    def outdated(self, key: str) -> str:
        """Says that an analysis is of other images or features than there are, and what remakes it.

        Empty if it is not, and where there is none or it is damaged, which is told to whoever asks.
        Of a remote store, other sides are seen with the next listing.
        """
        stamp = self.stamp(key)
        if stamp is None:
            return ""
        features = self._store.features(key)
        # Sides are settings; of a remote store they would cost a request for every question.
        sides = None if self._store.root_path is None else self._store.split()
        now = stamp, features.stamp(), self._store.view_stamp(), sides
        try:
            line: str = self._kept(
                ("outdated", key), now, lambda: self.analysis(key).outdated(features)
            )
        except (NotThere, AlikeError, OSError):
            return ""
        return line

    def scores(self, key: str) -> dict[str, Any]:
        """The document of `alike analyse --json`."""
        return {
            name: records(part) if isinstance(part, pd.DataFrame) else part
            for name, part in self.analysis(key).document.items()
        }

    def rows(
        self,
        name: str,
        key: str,
        measure: str | None,
        limit: int,
        order: str | None = None,
        *,
        offset: int = 0,
    ) -> dict[str, Any]:
        """Fields of `Rows`: the rows of a table of the analysis that belong to one measure.

        Args:
            name: of the table.
            key: extraction.
            measure: None for the one that the headline rests on.
            limit: most rows.
            order: column by which the rows ascend, before the limit is applied.
            offset: rows that are passed over.

        Raises:
            NotThere: no analysis, or one without this measure.
        """
        from alike.analysis.class_pairs import why_no_matrix
        from alike.analysis.report import main_measure
        from alike.analysis.stored import not_analysed_by

        analysis = self.analysis(key)
        table = analysis.tables.get(name, pd.DataFrame({"measure": []}))
        measures = self.measures(key)
        chosen = main_measure(analysis) if measure is None else measure
        if chosen not in measures:
            raise NotThere(not_analysed_by(self._store.features(key), analysis.settings, chosen))
        part = table[table["measure"] == chosen].drop(columns="measure")
        if order is not None and order in part:
            part = part.sort_values(order, kind="stable")
        shown = part.iloc[offset : offset + limit]
        notes = [self.outdated(key), why_no_matrix(part)]
        return {
            "key": key, "measure": chosen, "measures": measures,
            "rows": records(shown), "n_rows": len(part), "offset": offset,
            "notes": [*filter(None, notes), *beyond(offset, len(part), "rows")],
        }  # fmt: skip

    def grades(self, key: str) -> dict[str, Any]:
        """Fields of `Grades`."""
        from alike.analysis.explain.stored_grades import StoredGrades, grade_command

        features = self._store.features(key)
        grades = StoredGrades.of(features)
        return {
            "key": key, "images": records(grades.images), "pairs": records(grades.pairs),
            "pair_measure": grades.measure, "outdated": sorted(grades.outdated),
            "command": grade_command(features),
        }  # fmt: skip

    def map(
        self,
        opened: OpenIndex,
        measure: str,
        split: str | None,
        limit: int,
        *,
        predictions: bool = False,
    ) -> dict[str, Any]:
        """Fields of `Map`; of more than `limit` points a random part, the same at each call.

        Raises:
            NotThere: no map of these images was made.
        """
        features = opened.index.features
        splits = SPLITS if split is None else (split,)
        stamp = features.stamp(), self._store.files.listing(f"maps/{features.key}")
        name = ("map", features.key, measure, *splits)
        table = self._kept(name, stamp, lambda: _find_map(features, measure, splits))
        if table is None:
            raise NotThere(_no_map(features, measure, split))
        places = opened.places(table["row"].to_numpy(np.int64))
        listed = np.flatnonzero(places >= 0)
        sampled = len(listed) > limit
        if sampled:
            listed = np.sort(np.random.default_rng(0).permutation(listed)[:limit])
        places, part = places[listed], table.iloc[listed]
        return {
            "key": features.key,
            "images": len(table),
            "settings": dict(table.attrs),
            "row": part["row"].tolist(),
            "image": opened.images[places].tolist(),
            "label": opened.labels[places].tolist(),
            "subset": opened.subsets[places].tolist(),
            "split": opened.splits[places].tolist(),
            "path": opened.paths[places].tolist(),
            "purity": self._purity(opened, measure, part["row"]),
            "prediction": self._predicted(opened, places) if predictions else None,
            "pca": _pairs(part, "pca"),
            "tsne": _pairs(part, "tsne"),
            "sampled": sampled,
        }

    def _predicted(self, opened: OpenIndex, places: NDArray[np.int64]) -> list[str] | None:
        """Class that the network gives each image the largest logit; None without stored logits."""
        features = opened.index.features
        if LOGITS not in features.arrays:
            return None
        name = ("predicted", features.key)
        classes = self._kept(name, features.stamp(), lambda: _predictions(features, opened.rows))
        return [classes[place] for place in places.tolist()]

    def _purity(self, opened: OpenIndex, measure: str, rows: pd.Series) -> list[float] | None:
        """Share of each image's neighbours that have its class; NaN where it is not known."""
        from alike.analysis.report import purity

        try:
            near = self.analysis(opened.index.features.key).tables["neighbours"]
        except (NotThere, KeyError):
            return None
        near = near[near["measure"] == measure]
        near = near[opened.places(near["row"].to_numpy(np.int64)) >= 0]
        if near.empty:
            return None
        labels = dict(zip(opened.rows.tolist(), opened.labels.tolist(), strict=True))
        pure = purity(near, labels).set_index("row")["purity"]
        shares: list[float] = pure.reindex(rows).round(4).tolist()
        return shares

    def outliers(self, opened: OpenIndex) -> pd.DataFrame:
        """Images far from all others, of a set without an analysis: row, score."""
        from alike.serve.outliers import outliers

        features, measure = opened.index.features, opened.index.measure.name
        name = ("outliers", features.key, measure)
        table: pd.DataFrame = self._kept(name, features.stamp(), lambda: outliers(opened))
        return table

    def _kept(self, name: tuple[str, ...], stamp: Any, read: Any) -> Any:
        with self._lock:
            reading = self._reading.setdefault(name, threading.Lock())
        # One reads, and whoever asks for the same waits; for anything else nobody does.
        with reading:
            with self._lock:
                entry = self._read.get(name)
            if entry is None or entry[0] != stamp:
                entry = (stamp, read())
            with self._lock:
                self._read[name] = entry
                self._read.move_to_end(name)
                while len(self._read) > MOST:
                    self._read.popitem(last=False)
            return entry[1]


def _mapped(listing: Iterable[str]) -> dict[str, list[str]]:
    """Measures of stored maps of all images of a split, with these splits."""
    splits: dict[str, list[str]] = {}
    for split in SPLITS:
        end = f".{split}.parquet"
        for name in sorted(listing):
            if name.endswith(end):
                splits.setdefault(name.removesuffix(end), []).append(split)
    return splits


def _drawable(features: Any, listing: Iterable[str]) -> list[str]:
    """Measures with a map of the images that are there now."""
    measures = []
    for measure, splits in _mapped(listing).items():
        try:
            there = _find_map(features, measure, tuple(splits)) is not None
        except (AlikeError, OSError):
            # What is damaged is told to whoever asks for it.
            there = True
        if there:
            measures.append(measure)
    return sorted(measures)


def _find_map(features: Any, measure: str, splits: tuple[str, ...]) -> pd.DataFrame | None:
    from alike.analysis.maps import MapSettings, find_map

    for split in splits:
        if len(features.table(split)):
            table = find_map(features, MapSettings(measure, split), however=True)
            if table is not None:
                return table
    return None


def _no_map(features: Any, measure: str, split: str | None) -> str:
    """What to say where there is no map, with the command that makes one."""
    command, why_not = _map_command(features, measure, split)
    line = f"{features.key} has no map of the images that are there now"
    return f"{line}: run `{command}`" if command else f"{line}: {why_not}"


def _map_command(features: Any, measure: str, split: str | None = None) -> tuple[str, str]:
    """The command that makes a map, and where there can be none, why."""
    reason = cannot_measure(features, measure)
    if reason:
        return "", reason
    there = [one for one in SPLITS if len(features.table(one))]
    if not there or split not in (None, *there):
        of = "" if split is None else f" of the split {split}"
        return "", f"{features.key} has no image{of}"
    words = ("--measure", measure, "--split", split or there[0])
    return command_of("map", features.store, features.key, *words), ""


def _predictions(features: Any, rows: NDArray[np.int64]) -> list[str]:
    """Names of the predicted classes of rows, read block by block."""
    numbers: list[int] = []
    names: list[str] = []
    for first in range(0, len(rows), BLOCK):
        logits = features.read(LOGITS, rows[first : first + BLOCK])
        names = names or output_names(features, logits.shape[1])
        # Lost logits are NaN, and the largest of those would be the first class.
        whole = np.isfinite(logits).all(axis=1)
        numbers += np.where(whole, np.argmax(logits, axis=1), len(names)).tolist()
    shown = [*names, NO_PREDICTION]
    return [shown[number] for number in numbers]


def _pairs(table: pd.DataFrame, name: str) -> list[list[float]]:
    pairs: list[list[float]] = (
        table[[f"{name}_x", f"{name}_y"]].to_numpy(np.float64).round(4).tolist()
    )
    return pairs


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as dictionaries of plain values, as `--json` prints them."""
    plain = table.astype({
        name: object for name in table.columns if isinstance(table[name].dtype, pd.CategoricalDtype)
    })  # fmt: skip
    rows: list[dict[str, Any]] = [
        {str(name): None if _absent(value) else value for name, value in row.items()}
        for row in plain.to_dict(orient="records")
    ]
    return rows


def _absent(value: Any) -> bool:
    return isinstance(value, float) and not np.isfinite(value)
