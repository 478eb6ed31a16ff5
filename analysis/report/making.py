"""The section that says how a report was made: images, settings, versions, times, decisions."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from alike.analysis.report.answer import images_words
from alike.analysis.report.parts import definitions, details, facts, prose, section, table, text
from alike.analysis.report.subject import Subject, titled
from alike.analysis.report.words import count, number, seconds, words
from alike.analysis.scores import table as score_table
from alike.analysis.twins import twin_sentences
from alike.extract.notes import source_notes, stored_warning, tap_notes
from alike.extract.secrets import shown_place

MOST_BAD = 500
MOST_TWINS = 200
FACTS = ("source", "network", "weights", "created")


def making(subject: Subject, run: Mapping[str, Any], store: Any) -> str:
    """Everything needed to assess and to repeat the run; what `run` lacks is left out."""
    bad = _bad(run)
    parts = [
        _images(run, bad),
        _list("Unusual taps", _notes(subject, store)),
        _list("Decisions during the run", run.get("decisions") or []),
        _twins(subject, store),
        _decided_on(store),
        _reused(run),
        facts("Similarity of the two networks' features (1 is the greatest)", _likeness(run)),
        _stages(run.get("stages") or {}),
        _bad_table(bad),
        _settings(subject, run, store),
        details("Versions", definitions(run.get("versions") or {})),
        details("What the scores mean", _glossary()),
    ]
    return section("making", "How it was made", "", "".join(parts))


def suspicions(subject: Subject, store: Any) -> list[str]:
    """What throws doubt on all numbers: features without any, older ones, a wrong preprocessing."""
    flat = [
        titled(name, f"Beware: {warning}.")
        for name, analysis in subject.named
        for warning in dict(analysis.settings or {}).get("warnings", ())
    ]
    return flat + _older(subject, store) + _preprocessing(subject, store)


def _older(subject: Subject, store: Any) -> list[str]:
    """That images or features came or changed after an analysis."""
    if store is None:
        return []
    notes = [analysis.outdated(store.features(analysis.key)) for _, analysis in subject.named]
    return [f"Beware: {note}." for note in notes if note]


def _preprocessing(subject: Subject, store: Any) -> list[str]:
    if store is None:
        return []
    warnings = {
        name: stored_warning(store.features(analysis.key).attrs) for name, analysis in subject.named
    }
    return [titled(name, f"Beware: {warning}") for name, warning in warnings.items() if warning]


def _notes(subject: Subject, store: Any) -> list[str]:
    """Images left out, guesses of the source and taps of an unusual kind, each once."""
    if store is None:
        return []
    groups = [store.features(analysis.key).attrs for _, analysis in subject.named]
    notes = (note for attrs in groups for note in (*source_notes(attrs), *tap_notes(attrs)))
    return list(dict.fromkeys(notes))


def _images(run: Mapping[str, Any], bad: pd.DataFrame) -> str:
    counts = run.get("images") or {}
    if not counts:
        return ""
    parts = [f"{count(counts['listed'])} images listed"] if "listed" in counts else []
    parts += [f"{count(counts['ok'])} usable"] if "ok" in counts else []
    n_bad = counts.get("bad", len(bad))
    parts.append(f"{count(n_bad)} left out" if n_bad else "none left out")
    return f"<p>{text(', '.join(parts))}.</p>"


def _reused(run: Mapping[str, Any]) -> str:
    if "reused" not in run:
        return ""
    reused = run["reused"]
    if isinstance(reused, list | tuple) and reused:
        sentence = f"Reused from an earlier run, as nothing had changed: {', '.join(reused)}."
    elif reused:
        sentence = "Nothing had changed since the last run. All stored results were reused."
    else:
        sentence = "Everything was computed in this run."
    return f"<p>{text(sentence)}</p>"


def _shown(cell: Any) -> Any:
    """A path, or what is said of one, as it may be shown."""
    return shown_place(cell) if isinstance(cell, str) else cell


def _twins(subject: Subject, store: Any) -> str:
    """The twins of the last analysis, and the headline without them; the first pairs by name."""
    record = dict(subject.last.settings or {}).get("twins") or {}
    sentences = twin_sentences(record, store)
    if not sentences:
        return ""
    pairs = subject.last.tables.get("twins", pd.DataFrame())
    names = ["path_a", "path_b", "side_a", "side_b", "how"]
    heads = [("image", "t"), ("twin", "t"), ("side", "t"), ("its side", "t"), ("how", "t")]
    first = pairs[names].head(MOST_TWINS).map(_shown) if len(pairs) else pd.DataFrame(columns=names)
    body = table(heads, first.itertuples(index=False)) if len(first) else ""
    lines = "".join(f"<p>{prose(sentence)}</p>" for sentence in sentences)
    return f"<h3>Twins</h3>{lines}" + (details(f"{len(first)} pairs", body) if body else "")


def _decided_on(store: Any) -> str:
    """How many decisions were ever taken by the images that are evaluated here, and by others."""
    counts = {} if store is None else store.decisions()
    if not counts:
        return ""
    on_held_out, on_validation = counts.get("held_out", 0), counts.get("validation", 0)
    sentence = (
        f"Decisions about networks taken so far in this store: {on_validation} by the validation "
        f"images, {on_held_out} by the held-out images."
    )
    if on_held_out:
        sentence += " Scores on images that were decided by flatter the network that was chosen."
    return f"<p>{text(sentence)}</p>"


def _likeness(run: Mapping[str, Any]) -> dict[str, str]:
    names = {
        "linear_cka": "linear CKA",
        "linear_cka_unbiased": "linear CKA, unbiased",
        "rsa": "RSA (Spearman of the pair distances)",
    }
    values = run.get("likeness") or {}
    return {shown: number(values[name]) for name, shown in names.items() if name in values}


def _list(title: str, items: Iterable[Any]) -> str:
    lines = "".join(f"<li>{text(item)}</li>" for item in items)
    return f'<h3>{text(title)}</h3><ul class="plain">{lines}</ul>' if lines else ""


def _stages(stages: Mapping[str, Any]) -> str:
    times = {str(k): float(v) for k, v in stages.items() if v is not None}
    if not times:
        return ""
    longest = max(max(times.values()), 1e-9)
    rows = "".join(
        f'<span>{text(name)}</span><span class="bar" style="width:{100 * value / longest:.1f}%">'
        f'</span><span class="t">{text(seconds(value))}</span>'
        for name, value in times.items()
    )
    return f'<h3>Time: {text(seconds(sum(times.values())))}</h3><div class="bars">{rows}</div>'


def _bad(run: Mapping[str, Any]) -> pd.DataFrame:
    bad = run.get("bad")
    if bad is None:
        return pd.DataFrame()
    return bad if isinstance(bad, pd.DataFrame) else pd.DataFrame(list(bad))


def _bad_table(bad: pd.DataFrame) -> str:
    if bad.empty:
        return ""
    names = [name for name in ("path", "state", "reason") if name in bad.columns]
    first = bad[names].head(MOST_BAD).map(_shown)
    rest = len(bad) - len(first)
    note = f"{count(rest)} more are listed in the store." if rest else ""
    body = table([(name, "t") for name in names], first.itertuples(index=False), caption=note)
    return f"<h3>Images left out ({count(len(bad))})</h3>{body}"


def _settings(subject: Subject, run: Mapping[str, Any], store: Any) -> str:
    facts = {key: run[key] for key in FACTS if run.get(key)}
    if store is not None:
        facts["store"] = getattr(store, "url", store)
    body = definitions(facts) + definitions(_flat(run.get("settings") or {}))
    for name, analysis in subject.named:
        title = "Analysis" if name == "network" else f"Analysis {name}"
        own = {
            "features": analysis.key,
            "images": images_words(analysis),
            "classes": count(len(analysis.classes)),
            **_flat(dict(analysis.settings or {})),
        }
        body += f"<h3>{title}</h3>{definitions(own)}"
    return details("Settings", body)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names, the way that pipeline.toml would write them."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _glossary() -> str:
    scores = [words(name) for name in score_table.SCORES]
    return definitions({word.label: word.says for word in scores})
