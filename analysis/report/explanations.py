"""The report's section on explanations: continuity as a table, explainer by network; pictures.

It shows what the store holds (`keep_examples`, `continuity_of`, `keep_confused`, `alike explain
--continuity --confused 4`) and computes nothing.
"""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from alike.analysis.explain.kept import CONFUSED, EXAMPLES, PICTURE, TABLE
from alike.analysis.report.parts import data_uri, section, table, text

if TYPE_CHECKING:
    from alike.extract.store import Store

LEAD = (
    "Where in the images the network finds its evidence, and whether small changes of an image "
    "change the explanation little: |R − R'| / |x − x'|, relevance scaled to 1; smaller is more "
    "continuous. Slope: how fast the worst case grows as noise shrinks, 0 continuous, 1 a jump. "
    "Different ÷ same class: above 1, images of one class are explained more alike than images of "
    "two, at the same distance of their pixels."
)
SHOWN = (
    ("noise, worst", "noise", "max"),
    ("slope", "noise", "slope"),
    ("pixel shift, worst", "shift_pixel", "max"),
    ("half-pixel shift, worst", "shift_half", "max"),
    ("nearest of its class, median", "nearest_same", "median"),
    ("different ÷ same class", "same_class", "contrast"),
)


def explanations_section(keys: Mapping[str, str], store: "Store | None") -> str:
    """Return the section as HTML, "" where the store holds no explanations.

    Args:
        keys: what the report calls an extraction (`before`, `after`, `network`) -> its key.
        store: where they are.
    """
    if store is None:
        return ""
    held = (_judged(store, name, key) for name, key in keys.items())
    judged = [found for found in held if found is not None]
    body = f"<h3>Continuity of explanations</h3>{_table(pd.concat(judged))}" if judged else ""
    for name, key in keys.items():
        of = "" if name == "network" else f", {name}"
        seen = f"Where the network finds evidence for the class that it predicts{of}"
        body += _picture(store, EXAMPLES.format(key=key), seen)
        body += _picture(store, PICTURE.format(key=key), f"The least continuous pairs{of}")
        alike = f"Images of different classes that the network takes for most alike{of}"
        body += _picture(store, CONFUSED.format(key=key), alike)
    return section("explanations", "Explanations", LEAD, body)


def _judged(store: "Store", name: str, key: str) -> pd.DataFrame | None:
    try:
        found, _ = store.read_table(TABLE.format(key=key))
    except FileNotFoundError:
        return None
    return found.assign(called=found["network"] if name == "network" else name)


def _table(judged: pd.DataFrame) -> str:
    """One row an explainer and network."""
    # Here, because explainers load torch: a report without explanations does not.
    from alike.analysis.explain import EXPLAINERS

    columns = [("Explainer", "t"), ("Network", "t"), *((title, "n") for title, _, _ in SHOWN)]
    rows = []
    for name, by_network in judged.groupby("explainer", sort=False):
        said = f"{name}: {EXPLAINERS[name].about}" if name in EXPLAINERS else str(name)
        for called, found in by_network.groupby("called", sort=False):
            by_kind = found.set_index("pairs")
            cells: list[object] = [said, str(called)]
            for _, kind, column in SHOWN:
                value = by_kind[column].get(kind, np.nan)
                cells.append((f"{value:.3g}" if np.isfinite(value) else "–", float(value)))
            rows.append(cells)
    counts = judged.groupby("pairs", sort=False)["n_pairs"].first()
    pairs = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in counts.items())
    return table(columns, rows, caption=f"Pairs judged, of each network: {pairs}.")


def _picture(store: "Store", name: str, caption: str) -> str:
    try:
        held = store.read_file(name)
    except FileNotFoundError:
        return ""
    small = io.BytesIO()
    with Image.open(io.BytesIO(held)) as image:
        image.convert("RGB").save(small, "JPEG", quality=88, subsampling=0)
    said = text(caption)
    return (
        f'<figure><img style="max-width:100%;height:auto" alt="{said}" '
        f'src="{data_uri(small.getvalue(), "jpeg")}"><figcaption>{said}</figcaption></figure>'
    )
