"""A card of a network on a set of images: what one would cite, and what it rests on.

It holds nothing but what the store has, and no time, so the same store gives the same bytes.
"""

import hashlib
from importlib.metadata import version
from typing import Any

from alike.analysis.report.lookup import (
    NETWORK,
    Analysed,
    main_measure,
    rungs,
    score_of,
    table_of,
    worst_class,
)
from alike.analysis.report.parts import definitions, section, table, text
from alike.analysis.report.words import interval_words, number, words
from alike.extract.identity import network_title

VERSION = 1
"""Of the card's form."""
MOST_CLASSES = 200
"""Classes that the page names; the JSON document names all."""
ABOUT = ("network", "args", "weights_hash", "transform", "precision", "taps", "class_names")
SETTINGS = (
    "split", "where", "seed", "bins", "precision", "budget", "scores_version", "features_digest",
    "measure_digests", "left_out", "warnings", "untrained", "human",
)  # fmt: skip


def card_of(analysis: Analysed, features: Any) -> dict[str, Any]:
    """The card of an analysis, as plain data.

    Args:
        analysis: of the extraction.
        features: the extraction, of the same store.
    """
    settings, store = dict(analysis.settings), features.store
    attrs, measure = dict(features.attrs), main_measure(analysis)
    split = str(settings["split"])
    ids = sorted(features.only(settings.get("where")).table(split)["image_id"].astype(str))
    scores = table_of(analysis, "scores")
    source = str(store.source()[0]).rstrip("/").rpartition("/")[2]
    card = {
        "card": VERSION,
        "alike": version("alike"),
        "key": analysis.key,
        "network": {
            **{name: attrs.get(name) for name in ABOUT},
            # A file of the user's own by its name: where it lies is of one machine.
            "network": str(attrs.get("network")).rpartition("/")[2],
        },
        "weights": str(attrs.get("weights")).rpartition("/")[2],
        "title": network_title(attrs),
        "images": {
            "source": source,
            "split": split,
            "evaluated": analysis.n_images,
            "in_split": len(ids),
            "classes": list(analysis.classes),
            "ids_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        },
        "measure": measure,
        "scores": _records(scores[scores["measure"].isin([measure, NETWORK])]),
        "scale": _records(rungs(analysis, None, measure)),
        "worst_class": _worst_class(analysis, measure),
        "people": _records(table_of(analysis, "human", measure)),
        "bayes": _records(table_of(analysis, "bayes")),
        "twins": settings.get("twins"),
        "decisions": store.decisions(),
        "settings": {name: settings.get(name) for name in SETTINGS},
    }
    return {**card, "citation": _citation(card, analysis)}


def _worst_class(analysis: Analysed, measure: str) -> dict[str, Any] | None:
    """The class of the lowest sameness; its interval knows that it was chosen as the lowest."""
    worst = worst_class(analysis, measure)
    if worst is None:
        return None
    score = score_of(analysis, measure, "worst_class_sameness")
    ends = (None, None) if score is None else (score.low, score.high)
    low, high = (None if end is None or end != end else end for end in ends)
    return {"class": worst[0], "sameness": worst[1], "low": low, "high": high}


def _records(rows: Any) -> list[dict[str, Any]]:
    """Rows as plain data; NaN, which JSON has not, is None."""
    records = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return [{str(name): value for name, value in record.items()} for record in records]


def _citation(card: dict[str, Any], analysis: Analysed) -> str:
    """One line to cite."""
    sameness = score_of(analysis, card["measure"], "sameness")
    images, where = card["images"], card["settings"]["where"]
    only = f" with {where}" if where else ""
    if sameness is None:
        headline = "no sameness"
    else:
        span = interval_words(sameness.low, sameness.high)
        headline = f"sameness {number(sameness.value)}" + (
            f" (95 % interval {span})" if span else ""
        )
    return (
        f"{card['title']} ({card['network']['weights_hash']}) on "
        f"{images['source']}, {images['evaluated']} {images['split']} images{only} of "
        f"{len(images['classes'])} classes: {headline} by {card['measure']}. "
        f"Alike {card['alike']}, scores version {card['settings']['scores_version']}, features "
        f"{card['settings']['features_digest']}."
    )


def card_page(card: dict[str, Any]) -> str:
    """The card as one HTML page that loads nothing."""
    heads = [
        ("Measure", "t"),
        ("Score", "t"),
        ("Value", "n"),
        ("95 % interval", "t"),
        ("Note", "t"),
    ]
    rows = [
        [row["measure"], words(row["score"]).label, number(row["value"], words(row["score"]).form),
         interval_words(row["low"], row["high"], words(row["score"]).form), row["note"]]
        for row in card["scores"]
    ]  # fmt: skip
    tabled = {"scores", "scale", "people", "bayes", "network", "images", "settings", "citation"}
    rest = {name: value for name, value in card.items() if name not in tabled}
    body = f"<p>{text(card['citation'])}</p>" + section("scores", "Scores", "", table(heads, rows))
    for name in ("scale", "people", "bayes"):
        if card[name]:
            columns = [(head, "t") for head in card[name][0]]
            cells = [[_cell(value) for value in row.values()] for row in card[name]]
            body += section(name, name.capitalize(), "", table(columns, cells))
    for name in ("network", "images", "settings"):
        facts = {fact: _first(value) for fact, value in card[name].items()}
        body += section(name, name.capitalize(), "", definitions(facts))
    body += section("rest", "Further", "", definitions(rest))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src '
        "'unsafe-inline'\">\n"
        f"<title>{text(card['title'])}</title>\n<style>\n"
        "body { font: 15px system-ui; margin: 2em }\n"
        "td, th { padding: 2px 10px; text-align: left; vertical-align: top }\n"
        "th button { all: unset }\n</style>\n"
        f"</head>\n<body>\n<h1>{text(card['title'])}</h1>\n{body}\n</body>\n</html>\n"
    )


def _first(value: Any) -> Any:
    """A list of classes as the page has it: of many the first, and how many are left out."""
    if not isinstance(value, list) or len(value) <= MOST_CLASSES:
        return value
    left_out = f"and {len(value) - MOST_CLASSES:,} more, which the card as .json names"
    return [*value[:MOST_CLASSES], left_out]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
