"""What the views of the page show beyond neighbours: scores, classes, lists, predictions."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.extract.class_names import output_names
from alike.serve.class_pair import class_pair
from alike.serve.lists import ImageList, image_list
from alike.serve.opened import OpenIndex
from alike.serve.pictures import NotThere
from alike.serve.run_history import NoRuns, RunHistory
from alike.serve.service import NeighbourService

TAP = "logits"
LIKELY = 5
"""Classes of a prediction."""
NEAREST = 12
"""Pairs of classes that are listed."""


class Views:
    """Answers what the views ask; the figures and sentences are those of the report."""

    def __init__(self, service: NeighbourService, runs: RunHistory | None = None) -> None:
        """Take the service.

        Args:
            service: opens indexes and analyses.
            runs: past runs of the store; None: none are known.
        """
        self.service = service
        self.runs: RunHistory = NoRuns() if runs is None else runs

    def scores(
        self, key: str | None, names: Sequence[str] = (), measure: str | None = None
    ) -> dict[str, Any]:
        """Fields of `ScoreSections`.

        Args:
            key: of an extraction.
            names: sections that are asked for; none: all.
            measure: that the scores are of; None: that of the headline.

        Raises:
            NotThere: no analysis, or one without this measure.
        """
        # Here, as below: the page starts without plotly.
        from alike.analysis.report import every_word, main_measure, score_sections
        from alike.analysis.stored import not_analysed_by

        analyses, chosen = self.service.analyses, self.service.chosen_key(key)
        analysis = analyses.analysis(chosen)
        shown = main_measure(analysis) if measure is None else measure
        if measure is not None and measure not in analyses.measures(chosen):
            raise NotThere(
                not_analysed_by(self.service.store.features(chosen), analysis.settings, measure)
            )
        sections = score_sections(analysis, self.service.store, self.runs.good(), names, shown)
        scores = map(str, analysis.tables["scores"]["score"].unique())
        words = {name: asdict(one) for name, one in every_word(scores).items()}
        return {"key": analysis.key, "measure": shown, "sections": sections, "words": words}

    def class_matrix(
        self, key: str | None, measure: str | None, *, mean: bool = False
    ) -> dict[str, Any]:
        """Fields of `ClassMatrix`; with the distances themselves only if `mean`.

        Of very many classes there is no matrix, which `notes` say: the nearest pairs alone.

        Raises:
            NotThere: no analysis, or one without this measure.
        """
        from alike.analysis.class_pairs import why_no_matrix
        from alike.analysis.figures import (
            class_matrix,
            closest_pairs,
            matrix_figure,
            similarity_order,
        )
        from alike.analysis.report import main_measure
        from alike.analysis.stored import not_analysed_by

        analyses, chosen = self.service.analyses, self.service.chosen_key(key)
        analysis = analyses.analysis(chosen)
        name = main_measure(analysis) if measure is None else measure
        pairs = analysis.tables.get("class_pairs", pd.DataFrame({"measure": []}))
        pairs = pairs[pairs["measure"] == name]
        if pairs.empty:
            raise NotThere(
                not_analysed_by(self.service.store.features(chosen), analysis.settings, name)
            )
        why = why_no_matrix(pairs)
        order, figure, distances = None, None, None
        if not why:
            square = class_matrix(pairs, name)
            order = similarity_order(square)
            figure = drawn(matrix_figure(square, order))
            distances = square.loc[order, order].to_numpy().tolist() if mean else None
        return {
            "key": chosen,
            "measure": name,
            "order": order,
            "nearest": closest_pairs(pairs, name, NEAREST).to_dict(orient="records"),
            "figure": figure,
            "mean": distances,
            "notes": [why] if why else [],
        }

    def class_pair(
        self, first: str, second: str, key: str | None, measure: str | None
    ) -> dict[str, Any]:
        """Fields of `ClassPair`.

        Raises:
            NotThere: an unknown class, or classes without two images to compare.
        """
        from alike.analysis.figures import histogram

        opened = self.service.opened(key, measure)
        opened.check_classes((first, second))
        rows, split = self._evaluated(opened)
        compared = class_pair(opened, rows, first, second)
        if compared is None:
            named = f"“{first[:80]}”" if first == second else f"“{first[:80]}” and “{second[:80]}”"
            of = "" if split == "all" else f" on the split {split}"
            raise NotThere(f"{named}: no two images to compare{of}")
        figure = histogram(compared.histogram, measure=opened.index.measure.name, bars=60)
        if first == second:
            figure.data = [one for one in figure.data if one.name.startswith("same")]

        def ends(pairs: list[tuple[int, int, float]]) -> list[dict[str, Any]]:
            images = opened.about_many([row for a, b, _ in pairs for row in (a, b)])
            return [
                {"first": images[2 * i], "second": images[2 * i + 1], "distance": distance}
                for i, (_, _, distance) in enumerate(pairs)
            ]

        return {
            "measure": opened.index.measure.name,
            "split": split,
            "images": list(compared.images),
            "of": list(compared.of),
            "mean": compared.mean,
            "nearest": ends(compared.nearest),
            "farthest": ends(compared.farthest),
            "figure": drawn(figure),
        }

    def _evaluated(self, opened: OpenIndex) -> tuple[NDArray[np.int64], str]:
        """The images that the analysis evaluated, or all, and the name of their side."""
        features = opened.index.features
        try:
            split = str(self.service.analyses.analysis(features.key).settings.get("split", "all"))
        except NotThere:
            split = "all"
        rows = features.table(split)["row"].to_numpy(np.int64)
        return rows[opened.places(rows) >= 0], split

    def typical(
        self, distances: Sequence[float], key: str | None, measure: str | None
    ) -> dict[str, Any]:
        """Fields of `Typical`: where distances lie among those of all evaluated pairs.

        Raises:
            NotThere: no analysis, or one without this measure.
        """
        # Here, as above: the page starts without what only the analysis needs.
        from alike.analysis.stored import not_analysed_by

        chosen = self.service.chosen_key(key)
        if measure is None:
            measure = self.service.opened(chosen).index.measure.name
        analysis = self.service.analyses.analysis(chosen)
        table = analysis.tables.get("roc")
        part = None if table is None else table[table["measure"] == measure]
        if part is None or part.empty:
            raise NotThere(
                not_analysed_by(self.service.store.features(chosen), analysis.settings, measure)
            )
        part = part[np.isfinite(part["threshold"])].sort_values("threshold")
        same, different = (
            1.0 - np.interp(distances, part["threshold"], part[share]) for share in ("tar", "far")
        )
        return {
            "measure": measure,
            "distances": list(distances),
            "same_farther": same.tolist(),
            "different_farther": different.tolist(),
        }

    def prediction(self, name: str, opened: OpenIndex, *, network: bool = True) -> dict[str, Any]:
        """Fields of `Prediction`.

        Raises:
            NotThere: an unknown image, or a network without stored logits.
            NeedsNetwork: there are no logits of the image, and the network may not be asked.
        """
        logits = self.service.tap(name, TAP, opened, network=network).astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        names = output_names(opened.index.features, len(shares))
        likely = np.argsort(-shares, kind="stable")[:LIKELY].tolist()
        return {
            "image": self.service.about(name, opened),
            "classes": [names[i] for i in likely],
            "shares": shares[likely].tolist(),
            "n_classes": len(names),
        }

    def listed(self, kind: str, key: str | None, measure: str | None = None) -> ImageList:
        """The list of a kind; by a measure, outliers of a set that is not analysed.

        Raises:
            NotThere: features that the measure cannot compare.
        """
        opened = self.service.opened(key, measure)
        listed = image_list(kind, opened, self.service.analyses)
        if measure is None or listed.measure == measure:
            return listed
        by = f"by {listed.measure}" if listed.measure else "of no measure"
        note = f"the list is {by}: of another are only the outliers of a set that is not analysed"
        return replace(listed, notes=(note,))


def drawn(figure: Any) -> dict[str, Any]:
    """A plotly figure as plain values: `data` and `layout`."""
    # As `to_json` gives it, except that the answer is written once for all of its parts.
    plain: dict[str, Any] = figure.to_dict()
    return {"data": plain["data"], "layout": plain["layout"]}
