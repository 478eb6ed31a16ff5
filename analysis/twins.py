"""What twins do to an analysis: which there are, on which sides, and the headline without them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from alike.extract.command import command_of

if TYPE_CHECKING:
    from alike.analysis.blocks import EvaluationSet
    from alike.extract.store import Features

Sameness = Callable[["EvaluationSet"], float]
"""Sameness by the headline's measure of some of the evaluated images."""


def twin_findings(
    features: "Features", images: "EvaluationSet", sameness: float, sameness_of: Sameness
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The twins among the images of an extraction, and what they do to the headline.

    Args:
        features: the extraction.
        images: that were evaluated.
        sameness: of those, by the headline's measure.
        sameness_of: gives the same of fewer images; called only if twins were evaluated.

    Returns:
        The table of `alike.extract.twins.twin_table`, and a record: `mode` (together or ignore),
        `pairs` (within a side and across two, by name), `across` (pairs that stand on two sides),
        `unsigned` (images whose twins are not known), `plain` (of all `images`, those too small or
        too flat to have a twin; None if that is not known), `left_out` (evaluated images that have
        a twin among those kept), `sameness`, and `sameness_without` them (None if none was left
        out).
    """
    # Here, because a report of what was found needs neither numba nor torch.
    from alike.extract.twins import twin_table, unsigned_rows, within_and_across

    pairs = twin_table(features.store)
    rows = features.table("all")["row"]
    pairs = pairs[pairs["row_a"].isin(rows) & pairs["row_b"].isin(rows)].reset_index(drop=True)
    sides = within_and_across(pairs)
    plain = features.store.plain_rows()
    distinct = first_of_each(images.rows, pairs[pairs["how"] != "group"])
    without = None if distinct.all() else sameness_of(images.take(distinct))
    record = {
        "mode": features.store.twins(),
        "pairs": sides,
        "across": sum(count for name, count in sides.items() if "/" in name),
        "unsigned": len(unsigned_rows(features.store, features.bad()["row"].to_numpy())),
        "plain": None if plain is None else int(rows.isin(plain).sum()),
        "images": len(rows),
        "left_out": int((~distinct).sum()),
        "sameness": sameness,
        "sameness_without": without,
    }
    return pairs, record


def first_of_each(rows: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
    """Whether a row is kept if of every component of twins one image is.

    Args:
        rows: (N,) of the images.
        pairs: row_a, row_b; those with an end outside of `rows` join nothing.

    Returns:
        (N,) bool: the smallest row of each component, and every image without a twin.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    place = pd.Series(np.arange(len(rows)), rows)
    inside = pairs[pairs["row_a"].isin(rows) & pairs["row_b"].isin(rows)]
    first = place.reindex(inside["row_a"]).to_numpy()
    second = place.reindex(inside["row_b"]).to_numpy()
    n = len(rows)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    order = np.argsort(rows)
    distinct = np.zeros(n, dtype=bool)
    distinct[order[np.unique(labels[order], return_index=True)[1]]] = True
    return distinct


def twin_sentences(record: Mapping[str, Any], store: Any = None) -> list[str]:
    """What a reader must know of the twins of an analysis; nothing if there are none.

    Args:
        record: of `twin_findings`.
        store: of the images, which the command that finds more is about; None: unknown.
    """
    sentences = []
    total = sum(record.get("pairs", {}).values())
    if total:
        parts = [
            f"{count} {'across' if '/' in name else 'within'} {_words(name)}"
            for name, count in record["pairs"].items()
        ]
        sentences.append(f"{total} pairs of twins or of one group: {', '.join(parts)}.")
    if record.get("across"):
        sentences.append(
            "Twins on two sides flatter what was trained on the one and is evaluated on the other."
        )
    if record.get("left_out"):
        sentences.append(
            f"With one image of each set of twins ({record['left_out']} fewer) sameness is "
            f"{record['sameness_without']:.4f} instead of {record['sameness']:.4f}."
        )
    if record.get("unsigned"):
        command = "" if store is None else f": run `{command_of('twins', store)}`"
        sentences.append(f"The twins of {record['unsigned']} images are not known{command}.")
    if record.get("plain"):
        from alike.extract.twins import SMALLEST

        sentences.append(
            f"{record['plain']} of {record['images']} images are smaller than {SMALLEST} pixels or "
            "flat: they are taken to have no twins."
        )
    return sentences


def _words(name: str) -> str:
    return name.replace("/", " and ").replace("_", "-")
