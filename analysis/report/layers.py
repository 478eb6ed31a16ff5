"""Where in the network images of one class become alike: a figure and a table over its layers."""

from typing import Any

import pandas as pd

from alike.analysis.figures import layer_figure
from alike.analysis.report.lookup import table_of
from alike.analysis.report.parts import Html, details, figure, section, table, text
from alike.analysis.report.subject import Subject, titled
from alike.analysis.report.words import interval_words, number, words

SCORES = ("sameness", "knn_probe", "linear_probe", "cka")
LEAD = (
    "Every block's output, averaged over positions, on the same images. Sameness is by the cosine "
    "of these means. Probes are fitted on train images, on standardised channels. CKA compares a "
    "layer with the last one: 1 for equal up to rotation and scale."
)


def layers_section(subject: Subject) -> str:
    """The profile of each network; nothing where no layers are stored."""
    parts: list[str] = []
    for name, analysis in subject.named:
        profile = table_of(analysis, "layers")
        if profile.empty:
            continue
        names = [score for score in SCORES if (profile["score"] == score).any()]
        title = titled(name, "Layer by layer")
        plot = layer_figure(profile, {score: words(score).label for score in names})
        anchor = f"layers-{len(parts)}"
        parts.append(figure(plot, anchor, title=title) + details("Table", _table(profile, names)))
    return section("layers", "Layers", LEAD, "".join(parts))


def _table(profile: pd.DataFrame, names: list[str]) -> str:
    heads = [("Layer", "t"), ("Channels", "n"), *((words(name).label, "n") for name in names)]
    rows: list[list[Any]] = []
    for (_, layer, dim), part in profile.groupby(["place", "layer", "dim"], sort=True):
        of = part.set_index("score")
        cells = []
        for name in names:
            if name not in of.index:
                cells.append(("", -1.0))
                continue
            value, low, high = of.loc[name, ["value", "low", "high"]].astype(float)
            form = words(name).form
            span = interval_words(low, high, form)
            under = f'<span class="sub">{text(span)}</span>' if span else ""
            cells.append((Html(text(number(value, form)) + under), value))
        rows.append([str(layer), (str(dim), dim), *cells])
    return table(heads, rows)
