"""The report's section on explanations: continuity as a table, explainer by network; pictures.

It shows what is stored (`keep_examples`, `continuity_of`, `keep_confused`, `alike explain
--continuity --confused 4`) and computes nothing.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from alike.analysis.explain.file_names import (
    BACKGROUND,
    CONFUSED,
    DIGEST,
    EXAMPLES,
    EXPLAINER,
    GRADE,
    PAIR_GRADE,
    PICTURE,
    TABLE,
)
from alike.analysis.explain.stored_grades import grade_command
from alike.analysis.report.older import changed, since
from alike.analysis.report.parts import Html, data_uri, prose, section, table, text
from alike.analysis.report.words import change, interval_words, number

if TYPE_CHECKING:
    from alike.extract.store import Store

LEAD = (
    "The pictures show the positions of evidence for a class. The grade under them is below zero "
    "if maps say more than where the network is active. Continuity compares the "
    "explanations R and R' of two similar inputs x and x' by |R − R'| / |x − x'|. The magnitudes "
    "of each explanation are scaled to a sum of 1. Smaller is more continuous. The slope says how "
    "fast the worst case grows as noise shrinks: 0 is continuous, 1 is a jump. Different ÷ same "
    "class is above 1 if images of one class have more similar explanations than images of two "
    "classes at the same distance of their pixels."
)
GRADED = (
    ("deletion", "deletion"),
    ("less that of energy", "deletion_to_energy"),
    ("less that of random orders", "deletion_to_random"),
    ("insertion", "insertion"),
    ("agreement", "agreement"),
    ("random weights", "randomised"),
)
PAIR_GRADED = (
    *GRADED[:3],
    ("less that of another image's map", "deletion_to_another"),
    *GRADED[3:],
)
RANDOMISED = (
    "Random weights: rank correlation with the map of the same network with its last weights "
    "permuted; near 0 is good."
)
OF_BACKGROUNDS = {"accuracy": "Accuracy", "likeness_off_object": "Likeness off the object"}
GRADED_BY = ("explain", "--grade")
HEADING = "<h3>Continuity of explanations</h3>"
SHOWN = (
    ("noise, worst", "noise", "max"),
    ("slope", "noise", "slope"),
    ("pixel shift, worst", "shift_pixel", "max"),
    ("half-pixel shift, worst", "shift_half", "max"),
    ("nearest of its class, median", "nearest_same", "median"),
    ("different ÷ same class", "same_class", "contrast"),
)


def explanations_section(keys: Mapping[str, str], store: "Store | None") -> str:
    """Return the section as HTML, "" if none is stored.

    Args:
        keys: what the report calls an extraction (`before`, `after`, `network`) -> its key.
        store: where they are.
    """
    if store is None:
        return ""
    tables = [_continuity(store, name, key) for name, key in keys.items()]
    continuity = [one for one in tables if len(one)]
    ages = "".join(dict.fromkeys(one.attrs["age"] for one in continuity))
    body = f"{HEADING}{_table(pd.concat(continuity), ages)}" if continuity else ""
    body += "".join(_graded(store, name, key) for name, key in keys.items())
    body += "".join(_pair_graded(store, name, key) for name, key in keys.items())
    body += "".join(_background(store, name, key) for name, key in keys.items())
    for (name, key), measured in zip(keys.items(), tables, strict=True):
        of = "" if name == "network" else f", {name}"
        place = EXAMPLES.format(key=key)
        caption = f"Evidence for the predicted class{of}"
        note = _class_grades(store, key, _drawn_by(store, place))
        body += _picture(store, key, place, caption, note)
        shown = list(dict.fromkeys(measured.get("explainer", ())))
        caption = f"The least continuous pairs of inputs{of}"
        note = _class_grades(store, key, shown)
        picture = PICTURE.format(key=key)
        body += _picture(store, key, picture, caption, note, "explain", "--continuity")
        caption = f"The most similar images of different classes{of}"
        note = _likeness_grades(store, key)
        picture = CONFUSED.format(key=key)
        body += _picture(store, key, picture, caption, note, "explain", "--confused", "4")
    return section("explanations", "Explanations", LEAD, body)


def _graded(store: "Store", name: str, key: str) -> str:
    """The grades of a network's explainers, "" if there are none."""
    try:
        grades, settings = store.read_table(GRADE.format(key=key))
    except FileNotFoundError:
        return ""
    caption = (
        f"{_images(grades)}. Deletion: mean probability of the predicted class while cells are "
        "blurred, the likeliest first; small is good. Insertion: while they are put back; large is "
        "good. Agreement: rank correlation with the fall if one cell alone is blurred. "
        f"{RANDOMISED}{since(store, key, settings, *GRADED_BY)}"
    )
    of = "" if name == "network" else f", {name}"
    columns = [("Explainer", "t"), *((title, "n") for title, _ in GRADED)]
    rows = [[str(row["explainer"]), *_spans(row, GRADED)] for row in grades.to_dict("records")]
    return f"<h3>Does the network follow its explanations?{text(of)}</h3>" + table(
        columns, rows, caption=caption
    )


def _pair_graded(store: "Store", name: str, key: str) -> str:
    """The grades of likeness of a network, "" if there are none."""
    try:
        grades, settings = store.read_table(PAIR_GRADE.format(key=key))
    except FileNotFoundError:
        return ""
    caption = (
        f"{_images(grades, 'pairs')}, {settings['measure']}. Deletion: mean similarity to the "
        "other image while cells are blurred, the likeliest first; small is good. Insertion: while "
        f"they are put back; large is good. Energy, {settings['draws']} random orders and the same "
        "method's map towards another image are controls; for the last, pairs exchange partners in "
        "twos, and the interval is of the means of two. Agreement: rank correlation with the fall "
        f"if one cell alone is blurred. {RANDOMISED}{since(store, key, settings, *GRADED_BY)}"
    )
    of = "" if name == "network" else f", {name}"
    columns = [("Pairs", "t"), ("Explainer", "t"), *((title, "n") for title, _ in PAIR_GRADED)]
    rows = [
        [str(row["pairs"]), str(row["explainer"]), *_spans(row, PAIR_GRADED)]
        for row in grades.to_dict("records")
    ]
    return f"<h3>Does the similarity follow the maps of likeness?{text(of)}</h3>" + table(
        columns, rows, caption=caption
    )


def _background(store: "Store", name: str, key: str) -> str:
    """What a network takes from the ground behind objects, "" if that was not probed."""
    try:
        probe, settings = store.read_table(BACKGROUND.format(key=key))
    except FileNotFoundError:
        return ""
    shown = probe[probe["score"].isin(["sameness", "accuracy"])]
    scores = [one for one in ("sameness", "accuracy") if one in set(shown["score"])]
    rows: list[list[object]] = []
    for images, of_images in shown.groupby("images", sort=False):
        by_score = of_images.set_index("score")
        cells = [_span(*by_score.loc[one, ["value", "low", "high"]]) for one in scores]
        rows.append([f"{by_score['note'].iloc[0]} ({images})", *cells])
    shares = probe.set_index("score")
    off = ""
    if "likeness_off_object" in shares.index:
        share, even, less = (
            shares.loc[one]
            for one in ("likeness_off_object", "area_off_object", "likeness_less_area")
        )
        _, _, counted = str(share["note"]).partition("; ")
        off = (
            f" {number(share['value'])} of an image's likeness to its class lies off its object; "
            f"if likeness were even, {number(even['value'])} would. The difference is "
            f"{number(less['value'])} ({interval_words(less['low'], less['high'])})"
            f"{f'; {counted}' if counted else ''}."
        )
    caption = (
        f"{settings['images']} images, {settings['measure']}. Objects were cut out by masks. "
        "Mixed-same less mixed-random is what the network takes from grounds that go with a class."
        f"{off}"
    )
    # Tables of the first days of the probe do not have the reasons.
    for score, reason in settings.get("scores_left_out", {}).items():
        caption += f" {OF_BACKGROUNDS[score]} is left out: {reason}."
    caption += since(
        store, key, settings, "probe background", "--masks", str(settings.get("masks"))
    )
    of = "" if name == "network" else f", {name}"
    columns = [("Images", "t"), *((one.capitalize(), "n") for one in scores)]
    return f"<h3>What does the network take from backgrounds?{text(of)}</h3>" + table(
        columns, rows, caption=caption
    )


def _images(grades: pd.DataFrame, what: str = "images") -> str:
    """How many images were graded, how many count, and into how many cells they were cut."""
    first = grades.iloc[0]
    # Tables of the first days of grades do not have the number.
    counted = grades.get("n_counted", grades["n_images"])
    few = grades[counted < grades["n_images"]]
    said = f"{first['n_images']} {what}, {first['cells']} cells"
    if not len(few):
        return said
    counts = ", ".join(f"{row.explainer} {row.n_counted}" for row in few.itertuples())
    return f"{said}; a map that is the same everywhere does not count, so the means are of {counts}"


def _spans(row: Mapping[str, object], numbers: Sequence[tuple[str, str]]) -> list[object]:
    """A cell for each number of a grade, with its interval below."""
    return [
        _span(*(float(str(row[f"{column}{end}"])) for end in ("", "_low", "_high")))
        for _, column in numbers
    ]


def _span(value: float, low: float, high: float) -> tuple[Html, float]:
    """A cell: a number with its interval below, and what it is sorted by."""
    span = interval_words(low, high)
    under = f'<span class="sub">{text(span)}</span>' if span else ""
    return Html(text(number(value)) + under), value if np.isfinite(value) else -2.0


def _continuity(store: "Store", name: str, key: str) -> pd.DataFrame:
    """The stored table of a network; empty if there is none."""
    try:
        table, settings = store.read_table(TABLE.format(key=key))
    except FileNotFoundError:
        return pd.DataFrame()
    table.attrs["age"] = since(store, key, settings, "explain", "--continuity")
    return table.assign(called=table["network"] if name == "network" else name)


def _table(continuity: pd.DataFrame, ages: str) -> str:
    """One row an explainer and network."""
    # Here, because explainers load torch: a report without explanations does not.
    from alike.analysis.explain import EXPLAINERS

    columns = [("Explainer", "t"), ("Network", "t"), *((title, "n") for title, _, _ in SHOWN)]
    rows = []
    for name, by_network in continuity.groupby("explainer", sort=False):
        label = f"{name}: {EXPLAINERS[name].about}" if name in EXPLAINERS else str(name)
        for network, rows_of_network in by_network.groupby("called", sort=False):
            by_kind = rows_of_network.set_index("pairs")
            cells: list[object] = [label, str(network)]
            for _, kind, column in SHOWN:
                value = by_kind[column].get(kind, np.nan)
                cells.append((f"{value:.3g}" if np.isfinite(value) else "–", float(value)))
            rows.append(cells)
    counts = continuity.groupby("pairs", sort=False)["n_pairs"].first()
    pairs = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in counts.items())
    return table(columns, rows, caption=f"Pairs of each network: {pairs}.{ages}")


def _drawn_by(store: "Store", name: str) -> list[str]:
    """By which explainers a picture of examples was drawn; older ones do not say."""
    try:
        png = store.read_file(name)
    except FileNotFoundError:
        return []
    with Image.open(io.BytesIO(png)) as image:
        said = image.info.get(EXPLAINER)
    return [said] if said else ["cam", "gradcam"]


def _class_grades(store: "Store", key: str, explainers: Sequence[str]) -> str:
    """The grade of each explainer of a class under its maps."""
    try:
        grades, settings = store.read_table(GRADE.format(key=key))
    except FileNotFoundError:
        return _no_grade(store, key)
    age = since(store, key, settings, *GRADED_BY)
    return _under_maps(grades, explainers, _images(grades)) + age


def _likeness_grades(store: "Store", key: str) -> str:
    """The grade of `likeness` for pairs of different classes under their maps."""
    try:
        grades, settings = store.read_table(PAIR_GRADE.format(key=key))
    except FileNotFoundError:
        return _no_grade(store, key)
    grades = grades[grades["pairs"] == "different classes"]
    if grades.empty:
        return _no_grade(store, key)
    what = f"{_images(grades, 'pairs')} of different classes, {settings['measure']}"
    return _under_maps(grades, ["likeness"], what) + since(store, key, settings, *GRADED_BY)


def _under_maps(grades: pd.DataFrame, explainers: Sequence[str], what: str) -> str:
    """Deletion less that of energy, with its interval, of each explainer that was graded."""
    by_name = grades.set_index("explainer")
    said = []
    for name in explainers:
        if name not in by_name.index:
            said.append(f"{name} not graded")
            continue
        value, low, high = (
            float(by_name.loc[name, f"deletion_to_energy{end}"]) for end in ("", "_low", "_high")
        )
        span = interval_words(low, high, signed=True)
        said.append(f"{name} {change(value)}" + (f" ({span})" if span else ""))
    return f"Grade of the maps, deletion less that of energy: {', '.join(said)}; {what}."


def _no_grade(store: "Store", key: str) -> str:
    line = "No grade of the maps was measured"
    if key not in store.groups():
        return f"{line}."
    return f"{line}: `{grade_command(store.features(key))}` does."


def _picture(store: "Store", key: str, name: str, caption: str, note: str, *command: str) -> str:
    """A stored picture; `command` are name and options of what makes it, or nothing: a run."""
    try:
        png = store.read_file(name)
    except FileNotFoundError:
        return ""
    jpeg = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        texts = {str(name): one for name, one in image.info.items()}
        if command:
            note += since(store, key, texts, *command)
        elif changed(store, key, texts.get(DIGEST)):
            note += " The features have changed since: the next run draws it again."
        image.convert("RGB").save(jpeg, "JPEG", quality=88, subsampling=0)
    safe = text(caption)
    return (
        f'<figure><img class="whole" alt="{safe}" '
        f'src="{data_uri(jpeg.getvalue(), "jpeg")}"><figcaption>{safe}. {prose(note)}</figcaption>'
        "</figure>"
    )
