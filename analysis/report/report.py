"""`write_report`: one HTML file that answers at the top and is complete below.

The file loads nothing: plotly's script, the data of the figures and the thumbnails are inside it,
and a content security policy forbids the browser to fetch anything else.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from alike.analysis.figures import figures
from alike.analysis.report.answer import answer
from alike.analysis.report.classes import classes
from alike.analysis.report.data import data_section
from alike.analysis.report.distances import distances
from alike.analysis.report.explanations import explanations_section
from alike.analysis.report.history import over_time, since
from alike.analysis.report.images import images
from alike.analysis.report.layers import layers_section
from alike.analysis.report.lookup import Analysed, main_measure, rungs
from alike.analysis.report.making import making, suspicions
from alike.analysis.report.missing import missing_rungs
from alike.analysis.report.networks import networks_section
from alike.analysis.report.parts import figure, prose, text
from alike.analysis.report.people import people_section, people_sentences
from alike.analysis.report.scores import measures, scores, tiles
from alike.analysis.report.subject import Subject
from alike.extract.command import analyse_again
from alike.extract.errors import AlikeError, BadInput
from alike.extract.progress import Progress, silent
from alike.extract.replacing import aside, check_target

if TYPE_CHECKING:
    from alike.analysis.report.thumbnails import Pictures

POLICY = (
    # Plotly's WebGL points, drawn where a map has many, compile functions from text.
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; worker-src blob:; base-uri 'none'; form-action 'none'"
)
COMPLETE = "This file is complete: it loads nothing from anywhere."
SCRIPTS = ("shown.js", "report.js")
"""The first is also that of the served page."""
INTERVALS = (
    "Intervals are 95 % intervals over samples of images. They do not include the variation "
    "between training runs."
)
PARTS = (
    ("scores", "Scores"),
    ("since", "Since last time"),
    ("distances", "Distances"),
    ("classes", "Classes"),
    ("images", "Images"),
    ("map", "Map"),
    ("explanations", "Explanations"),
    ("measures", "Measures"),
    ("layers", "Layers"),
    ("data", "Data"),
    ("people", "People"),
    ("networks", "Networks"),
    ("over_time", "Over time"),
    ("making", "How it was made"),
)


def write_report(
    path: str | Path,
    *,
    before: Analysed,
    after: Analysed | None = None,
    comparison: pd.DataFrame | None = None,
    store: Any = None,
    run: Mapping[str, Any] | None = None,
    thumbnails: bool = True,
    maps: bool = True,
    progress: Progress = silent,
) -> Path:
    """Write the report of one analysis, or of two side by side.

    Args:
        path: the HTML file; written aside and renamed.
        before: the analysis to report, or the one before retraining.
        after: the analysis after retraining, of the same images.
        comparison: paired differences, as `alike.analysis.compare.compare` gives them.
        store: the store of the features; gives thumbnails, maps and the list of bad images.
        run: the manifest: title, source, network, weights, settings, versions, stages (step ->
            seconds), images {listed, ok, bad}, bad (path, state, reason), decisions, verdict,
            created,
            reused (names of steps), control (a comparison: the same training without the loss
            against `after`), likeness (linear_cka, rsa), history (runs: records of good runs, the
            last one this; of: how many there are). Whatever is missing is left out.
        thumbnails: show images; needs the store and the images where they were.
        maps: show the map; needs the store. Up to 10,000 images it is made where it is missing.
        progress: told how far the map is.

    Returns:
        The path.

    Raises:
        BadInput: nothing can be written there.
    """
    _one_meaning(before, after, store)
    target = Path(path)
    check_target(target)
    subject = Subject(before, after, comparison, main_measure(before))
    pictures, why_not = _pictures(store) if store is not None and thumbnails else (None, "")
    middle = images(subject, pictures, why_not)
    if store is not None and maps:
        # Here, because vectors are made with torch: a report of tables alone does not load it.
        from alike.analysis.report.map import map_section

        middle += map_section(subject, store, pictures, progress)
    middle += explanations_section({name: analysed.key for name, analysed in subject.named}, store)
    body = _body(subject, dict(run or {}), store, middle)
    with aside(target) as part:
        title = str((run or {}).get("title") or "Alike report")
        part.write_text(_page(title, body), encoding="utf-8")
    return target


def _one_meaning(before: Analysed, after: Analysed | None, store: Any) -> None:
    """Refuse two analyses whose scores mean different things.

    Raises:
        BadInput: their scores have different versions.
    """
    both = [int(dict(one.settings).get("scores_version", 1)) for one in (before, after) if one]
    if len(set(both)) > 1 and after is not None:
        old = before if both[0] < both[1] else after
        again = f"analyse {old.key} again"
        if store is not None and old.key in store.groups():
            again = f"run `{analyse_again(store.features(old.key), dict(old.settings))}` again"
        msg = (
            f"{before.key} and {after.key} were analysed with scores of versions {both[0]} and "
            f"{both[1]}, which mean different things: {again}"
        )
        raise BadInput(msg)


def _pictures(store: Any) -> "tuple[Pictures | None, str]":
    """The reader of images, or the sentence that says why there is none."""
    # Here, because images are decoded with torch.
    from alike.analysis.report.thumbnails import Pictures

    try:
        return Pictures(store), ""
    except (AlikeError, OSError) as error:
        return None, f"No images are shown: {error}"


def _body(subject: Subject, run: dict[str, Any], store: Any, middle: str) -> str:
    sections = [
        scores(subject),
        since(run),
        distances(subject),
        classes(subject),
        middle,
        measures(subject),
        layers_section(subject),
        data_section(subject, store),
        people_section(subject),
        "" if store is None else networks_section(subject, store),
        over_time(run),
        making(subject, run, store),
    ]
    main = "".join(sections)
    links = "".join(
        f'<a href="#{name}">{title}</a>' for name, title in PARTS if f'<section id="{name}"' in main
    )
    return (
        f'<nav><div class="in"><span class="mark">Alike</span>{links}<span class="space"></span>'
        '<button class="theme" type="button" aria-label="Colour theme">Auto</button></div></nav>'
        f"{top(subject, run, store)}<main>{main}</main>{_foot(run)}"
    )


def top(subject: Subject, run: dict[str, Any], store: Any) -> str:
    """The headline, the sentences below it, the few numbers that matter, and the scale."""
    first = answer(
        subject.before, subject.after, subject.comparison, subject.measure, run.get("control")
    )
    steps = rungs(subject.before, subject.after, subject.measure)
    scale = (
        figure(figures.ladder(steps), "ladder", title="Between floor and ceiling")
        if len(steps)
        else ""
    )
    keys = ("title", "network", "source", "created")
    kicker = " · ".join(dict.fromkeys(_last_part(str(run[key])) for key in keys if run.get(key)))
    verdict = str(run.get("verdict") or "")
    sentences = [
        *suspicions(subject, store),
        *first.sentences,
        *people_sentences(subject.last, subject.measure),
        *([f"{verdict[:1].upper()}{verdict[1:]}."] if verdict else []),
    ]
    lines = "".join(f"<p>{prose(line)}</p>" for line in sentences)
    lines += f'<p class="fine">{text(INTERVALS)}</p>'
    return (
        f'<header class="top {first.tone}"><p class="kicker">{text(kicker)}</p>'
        f'<h1>{text(first.headline)}</h1><div class="answer">{lines}</div>'
        f"{tiles(subject)}{scale}"
        f"{missing_rungs(set(steps['role']), subject.last, subject.measure, store)}"
        "<noscript><p>The figures need JavaScript. The tables have the numbers too.</p>"
        "</noscript>"
        "</header>"
    )


def _last_part(name: str) -> str:
    """A path without its folders; the whole of it stands among the settings."""
    return name.rstrip("/").rpartition("/")[2]


def _foot(run: dict[str, Any]) -> str:
    date = f" on {text(run['created'])}" if run.get("created") else ""
    return f"<footer>Written by Alike{date}. {COMPLETE}</footer>"


def write_dated(report: Path, to: Path) -> None:
    """Write a copy of a report that shares plotly's script, 5 MB, with others in its folder.

    Args:
        report: from `write_report`.
        to: the copy; the script lies beside it.
    """
    import plotly

    page = report.read_text(encoding="utf-8")
    name = f"plotly-{plotly.__version__}.min.js"
    script = to.parent / name
    for old, new in (
        (_plotly(), f'<script src="{name}"></script>'),
        (POLICY, POLICY.replace("script-src", "script-src 'self' file:")),
        (COMPLETE, f"It loads {name}, which lies beside it, and nothing else."),
    ):
        before, found, after = page.partition(old)
        if not found:
            raise ValueError(f"{report} is not a report of this version: no {old[:40]}")
        page = f"{before}{new}{after}"
    # One that is damaged leaves all dated reports without figures.
    if not script.exists() or script.read_bytes() != _script().encode():
        with aside(script) as partial:
            partial.write_text(_script(), encoding="utf-8")
    with aside(to) as partial:
        partial.write_text(page, encoding="utf-8")


def _script() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def _plotly() -> str:
    return f"<script>{_script()}</script>"


def _page(title: str, body: str) -> str:
    own = resources.files("alike.analysis.report")
    style = own.joinpath("report.css").read_text(encoding="utf-8")
    script = "".join(own.joinpath(one).read_text(encoding="utf-8") for one in SCRIPTS)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        f"{_plotly()}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )
