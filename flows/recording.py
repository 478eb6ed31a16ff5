"""The record of a run, taken from what the run left in its store; see `alike.flows.history`."""

import getpass
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from alike.extract.errors import AlikeError, BadInput
from alike.extract.secrets import flat, masked, masked_all
from alike.flows.history import (
    FurtherNetwork,
    History,
    RunRecord,
    image_changes,
    new_id,
    now,
)
from alike.flows.memo import RunFile, digest, hash_of

if TYPE_CHECKING:
    from alike.analysis.stored import Analysis
    from alike.extract.store import Features, Store
    from alike.flows.beside import Beside
    from alike.flows.history import Score
    from alike.flows.steps import PipelineRun

VERSIONS = ("alike", "torch", "torchvision", "zarr", "dask", "faiss-gpu", "faiss-cpu", "prefect")
SHOWN = 200
"""Runs that a report shows over time."""


def versions() -> dict[str, str]:
    """Versions of the packages that compute."""
    present = {}
    for name in VERSIONS:
        try:
            present[name] = version(name)
        except PackageNotFoundError:  # faiss is there under one of its two names
            continue
    return present


def record_of(
    run: "PipelineRun",
    history: History,
    analysis: "Analysis",
    question: str,
    others: "Sequence[Beside]" = (),
) -> tuple[RunRecord, dict[str, pd.DataFrame]]:
    """The record of a run that comes to its end, and the tables of its images by their digests.

    Args:
        run: its steps.
        history: of its store.
        analysis: of the network that is served at its end.
        question: digest of all that its report depends on.
        others: further networks, analysed.
    """
    from alike.analysis.report import main_measure

    store, pipeline = run.store(), run.pipeline
    features = store.features(analysis.key)
    images = images_of(features)
    records = history.records()
    before = last_good(records)
    settings = flat(pipeline.shown)
    measure = main_measure(analysis)
    record = RunRecord(
        **_who(run, records[-1].id if records else ""),
        state="good",
        settings=settings,
        changed=_changed(before.settings if before else settings, settings),
        network={
            "name": pipeline.network.name,
            "weights": str(features.attrs.get("weights_hash", "")),
            "features": features.key,
        },
        counts=_counts(features, analysis, images),
        changes=image_changes(history.images(before) if before else None, images),
        reasons=list(run.reasons),
        stages={name: round(seconds, 3) for name, seconds in run.seconds.items()},
        rates={name: round(rate, 2) for name, rate in run.rates.items()},
        series=digest([analysis.scores_version, measure])[:16],
        measure=measure,
        scores=scores_of(analysis),
        recall=_recall(run, store, features.key),
        decisions=masked_all(run.decisions),
        notes=masked_all([*run.notes, *history.faults]),
        images=_digest_of(images),
        question=question,
    )
    tables = {record.images: images}
    further = {}
    for one in others:
        further[one.label], of_it = _further(store, one)
        tables[further[one.label].images] = of_it
    record = replace(record, others=further)
    reference = history.accepted()
    of_reference = [one for one in records if reference and one.id == reference.run]
    if of_reference and of_reference[0].network["features"] != features.key:
        record = replace(record, paired=_paired_or_none(store, of_reference[0], record))
    if of_reference:
        record = replace(record, others=_paired_others(store, of_reference[0], record))
    return record, tables


def _digest_of(images: pd.DataFrame) -> str:
    return digest(images.astype(str).to_dict("list"))[:32]


def _further(store: "Store", one: "Beside") -> tuple[FurtherNetwork, pd.DataFrame]:
    """What the record says of a further network, and the table of its images."""
    from alike.analysis.report import main_measure
    from alike.analysis.stored import Analysis

    features, analysis = store.features(one.key), Analysis.load(store, one.key)
    images, measure = images_of(features), main_measure(analysis)
    network = {
        "name": one.network.name,
        "weights": str(features.attrs.get("weights_hash", "")),
        "features": one.key,
    }
    return FurtherNetwork(
        network=network,
        counts=_counts(features, analysis, images),
        series=digest([analysis.scores_version, measure])[:16],
        measure=measure,
        scores=scores_of(analysis),
        images=_digest_of(images),
    ), images


def _paired_others(
    store: "Store", reference: RunRecord, record: RunRecord
) -> dict[str, FurtherNetwork]:
    """The further networks, with differences where the reference's features were others."""
    others = dict(record.others)
    for label, one in others.items():
        before, now = reference.of(label), record.of(label)
        if before and now and before.network["features"] != now.network["features"]:
            others[label] = replace(one, paired=_paired_or_none(store, before, now))
    return others


def finished(record: RunRecord, run: "PipelineRun", report: Path) -> RunRecord:
    """The record with what is only known once the report is written."""
    files: dict[RunFile, None] = dict.fromkeys([report, *run.files])
    artefacts = {run.memo.place_of(file): hash_of(file) for file in files}
    return replace(record, seconds=_seconds(run), artefacts=artefacts)


def failure(run: "PipelineRun", error: BaseException, after: str = "") -> RunRecord:
    """The record of a run that failed; `after` is the id of the run before."""
    line = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return RunRecord(
        **_who(run, after),
        state="failed",
        settings=flat(run.pipeline.shown),
        reasons=list(run.reasons),
        stages={name: round(seconds, 3) for name, seconds in run.seconds.items()},
        decisions=masked_all(run.decisions),
        notes=masked_all(run.notes),
        error=masked(line),
    )


def last_good(records: list[RunRecord]) -> RunRecord | None:
    """The last run that came to its end."""
    return next((one for one in reversed(records) if one.good), None)


def images_of(features: "Features") -> pd.DataFrame:
    """Row, label and side of the images with features."""
    table = features.table()[["row", "label", "split"]].rename(columns={"split": "side"})
    return table.reset_index(drop=True)


def scores_of(analysis: "Analysis") -> "dict[str, dict[str, Score]]":
    """Every score of an analysis by measure, with its interval."""
    scores: dict[str, dict[str, Score]] = {}
    for row in analysis.tables["scores"].itertuples(index=False):
        value = [_rounded(number) for number in (row.value, row.low, row.high)]
        scores.setdefault(str(row.measure), {})[str(row.score)] = value
    return scores


def paired(store: "Store", reference: RunRecord, run: RunRecord) -> "dict[str, Score]":
    """Differences from a reference of another network, each by its own features, same images.

    Raises:
        BadInput: the features of one are gone, or they have no images in common.
    """
    from alike.analysis.compare import compare

    keys = [one.network["features"] for one in (reference, run)]
    gone = [key for key in keys if key not in store.groups()]
    if gone:
        raise BadInput(f"the features {gone[0]} are gone: accept a newer run as the reference")
    table = compare(store.features(keys[0]), store.features(keys[1]), measure=run.measure)
    columns = [table[name] for name in ("score", "difference", "low", "high")]
    return {
        str(name): [_rounded(number) for number in numbers]
        for name, *numbers in zip(*columns, strict=True)
    }


def _paired_or_none(
    store: "Store", reference: RunRecord, run: RunRecord
) -> "dict[str, dict[str, Score]]":
    try:
        return {reference.id: paired(store, reference, run)}
    except AlikeError:
        # The rule that needs it says why there is none.
        return {}


def over_time(records: list[RunRecord]) -> dict[str, Any]:
    """What a report shows of the past: the good runs, the last one being its own.

    Args:
        records: oldest first.
    """
    good = [one for one in records if one.good]
    return {"runs": [asdict(one) for one in good[-SHOWN:]], "of": len(good)}


def _who(run: "PipelineRun", after: str) -> dict[str, Any]:
    return {
        "id": new_id(after),
        "time": now(),
        "seconds": _seconds(run),
        "who": user(),
        "host": socket.gethostname(),
        "git": revision(run.pipeline.place),
        "versions": versions(),
    }


def user() -> str:
    """Name of the user; empty in a container that has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def revision(folder: Path | None) -> dict[str, Any]:
    """Git revision of a folder, and whether tracked files are changed; {} without a repository."""
    if folder is None:
        return {}

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)

    try:
        head = git("rev-parse", "HEAD")
        if head.returncode:
            return {}
        changed = bool(git("diff", "--quiet", "HEAD").returncode)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"revision": head.stdout.strip(), "changed": changed}


def _seconds(run: "PipelineRun") -> float:
    return round(time.monotonic() - run.began, 3)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = sorted(before.keys() | after.keys())
    return {
        name: [before.get(name), after.get(name)]
        for name in names
        if before.get(name) != after.get(name)
    }


def _counts(features: "Features", analysis: "Analysis", images: pd.DataFrame) -> dict[str, int]:
    view = features.store.images()
    bad = len(features.bad())
    sides = images["side"].value_counts()
    return {
        "listed": len(view),
        "bad": bad,
        "ok": len(view) - bad,
        "distinct": len(images),
        **{side: int(sides.get(side, 0)) for side in ("train", "validation", "held_out")},
        "unlabelled": int(images["label"].isna().sum()),
        "classes": len(analysis.classes),
        "evaluated": analysis.n_images,
    }


def _recall(run: "PipelineRun", store: "Store", key: str) -> "Score":
    from alike.index.places import card_of

    try:
        card = card_of(store, key, run.pipeline.index.measure)
    except AlikeError:
        return []
    if card is None:
        return []
    # An index without an estimate is exact.
    return [_rounded(number) for number in card.recall or (1.0, 1.0, 1.0)]


def _rounded(number: Any) -> float | None:
    return None if number is None or pd.isna(number) else float(f"{float(number):.9g}")
