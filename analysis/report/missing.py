"""What the scale between floor and ceiling lacks, and the commands that make it."""

from collections.abc import Collection
from typing import Any

from alike.analysis.report.lookup import (
    CEILING,
    FLOOR,
    HEADLINE,
    UNTRAINED,
    Analysed,
    accuracy_of,
)
from alike.analysis.report.parts import prose, text
from alike.extract.command import analyse_again, extract_again

LOGITS = "logits"


def missing_rungs(roles: Collection[str], analysis: Analysed, measure: str, store: Any) -> str:
    """A paragraph of HTML: each rung that is missing, why, and what to run; empty if none is.

    Args:
        roles: of the rungs that are there.
        analysis: whose scale is shown.
        measure: of the headline.
        store: of its features; None: unknown.
    """
    if store is None or analysis.key not in store.groups():
        return ""
    features = store.features(analysis.key)
    left_out = dict(dict(analysis.settings).get("left_out") or {})
    says: list[str] = []
    measures: list[str] = []
    if "floor" not in roles:
        says.append(_reason("raw pixels (the floor)", left_out.get(FLOOR)))
        measures += [] if FLOOR in left_out else [FLOOR]
    untrained = None if "untrained" in roles else _untrained(measure, features)
    if untrained is not None:
        says.append(_reason("the untrained network", left_out.get(UNTRAINED)))
    if "ceiling" not in roles:
        without, runnable = _without_ceiling(analysis, features)
        says.append(_reason("the classifier (the ceiling)", left_out.get(CEILING) or without))
        measures += [CEILING] if runnable and CEILING not in left_out else []
    if not says:
        return ""
    steps = _steps(analysis, store, measures, untrained)
    run = f" To add what can be added, run {', then '.join(steps)}." if steps else ""
    return f'<p class="fine missing">Missing on this scale: {"; ".join(says)}.{run}</p>'


def _reason(name: str, why: str | None) -> str:
    return prose(f"{name}, because {why}" if why else name)


def _untrained(measure: str, features: Any) -> str | None:
    """Key of the untrained network, empty if it was not extracted; None if there can be none."""
    if measure != HEADLINE or str(features.attrs.get("weights")) == "none":
        return None
    store = features.store
    for key in store.groups():
        attrs = store.features(key).attrs
        if attrs["network"] == features.attrs["network"] and attrs.get("weights") == "none":
            return str(key)
    return ""


def _without_ceiling(analysis: Analysed, features: Any) -> tuple[str | None, bool]:
    """Why there is no ceiling, and whether another analysis gives one."""
    if LOGITS not in features.arrays:
        return f"{LOGITS} are not stored (`{extract_again(features, (LOGITS,))}`)", False
    if accuracy_of(analysis) is None:
        return "the classes of the network are not those of the images", False
    return None, True


def _steps(analysis: Analysed, store: Any, measures: list[str], untrained: str | None) -> list[str]:
    """Commands: the extraction of the untrained network, and an analysis with all that it had."""
    if not measures and untrained is None:
        return []
    settings, features = dict(analysis.settings), store.features(analysis.key)
    steps = [_code(extract_again(features, untrained=True))] if untrained == "" else []
    random = untrained if untrained is not None else settings.get("untrained")
    words = () if random is None else ("--untrained", random or "KEY")
    steps.append(_code(analyse_again(features, settings, measures, *words)))
    if untrained == "":
        steps[-1] += " with the KEY that it prints"
    return steps


def _code(command: str) -> str:
    return f"<code>{text(command)}</code>"
