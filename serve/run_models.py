"""What the questions about past runs are answered with: the documents of `alike runs … --json`."""

from typing import Any

from alike.serve.models import Model, Number

Scores = dict[str, dict[str, list[Number]]]
"""Measure to score to value, low end and high end of its 95 % interval."""


class ListedRun(Model):
    """A run.

    Attributes:
        run: its id.
        time: of its start, ISO 8601 to the minute.
        state: `good`, `failed`, or `reference`: accepted as that of alarms.
        images: with features; null of a run that failed.
        bad: images without.
        sameness: of the first network.
        accuracy: of the first network.
        seconds: that it took.
        says: what changed since the good run before, or the error.
    """

    run: str
    time: str
    state: str
    images: Number
    bad: Number
    sameness: Number
    accuracy: Number
    seconds: float
    says: str


class UnchangedRuns(Model):
    """Runs that found nothing changed.

    Attributes:
        since: id of the run that the state is of.
        times: how many they were.
        last: when the last of them was, ISO 8601.
    """

    since: str
    times: int
    last: str


class RunList(Model):
    """The document of `alike runs ls --json`.

    Attributes:
        runs: that did something or failed, oldest first.
        unchanged: runs that found nothing changed since the last; null if there are none.
        faults: files of the history that were left out, and why.
    """

    runs: list[ListedRun]
    unchanged: UnchangedRuns | None
    faults: list[str]


class RunNetwork(Model):
    """A further network of a run; each as in `Run`.

    Attributes:
        network: name, weights, features.
        counts: images at each stage.
        series: of its scores.
        measure: of its headline.
        scores: with intervals.
        paired: differences from the reference.
        images: digest of the table of its images.
    """

    network: dict[str, str]
    counts: dict[str, int]
    series: str
    measure: str
    scores: Scores
    paired: Scores
    images: str


class Run(RunNetwork):
    """The document of `alike runs show --json`: all that is recorded of a run.

    Attributes:
        id: of the run.
        time: of its start, ISO 8601.
        seconds: that it took.
        state: `good` or `failed`.
        who: user that ran it.
        host: machine that it ran on.
        git: revision of the settings file's repository.
        versions: of the packages that compute.
        settings: dotted names to values, secrets masked.
        changed: settings that the good run before had otherwise.
        changes: images added, removed and relabelled since then.
        reasons: what ran again, and why.
        stages: seconds of every step that ran.
        rates: images a second of every extraction.
        recall: of the index, with its interval.
        decisions: sentences.
        notes: what a reader must know.
        artefacts: file to hash of its bytes.
        question: digest of all that the report depends on.
        error: of a failed run.
        others: further networks by their labels.
        titles: network and weights in words by the same labels, "" for the first network; those
            whose features are gone are left out.
    """

    id: str
    time: str
    seconds: float
    state: str
    who: str
    host: str
    git: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    changed: dict[str, list[Any]]
    changes: dict[str, int]
    reasons: list[str]
    stages: dict[str, float]
    rates: dict[str, float]
    recall: list[Number]
    decisions: list[str]
    notes: list[str]
    artefacts: dict[str, str]
    question: str
    error: str
    others: dict[str, RunNetwork]
    titles: dict[str, str]


class CountRow(Model):
    """Images at a stage, run by run.

    Attributes:
        count: the stage.
        before: of the first run.
        after: of the last.
        difference: of the two.
        network: label of a further network; empty: the first.
        values: of each run; null where it has none.
    """

    count: str
    before: int | None
    after: int | None
    difference: int | None
    network: str
    values: list[int | None]


class ScoreRow(Model):
    """A score, run by run.

    Attributes:
        measure: of the score.
        score: its name.
        before: of the first run.
        after: of the last.
        difference: of the two; null also if they mean different things.
        network: label of a further network; empty: the first.
        values: of each run; null where it has none.
        low: ends of the 95 % intervals of the values.
        high: the other ends.
    """

    measure: str
    score: str
    before: Number
    after: Number
    difference: Number
    network: str
    values: list[Number]
    low: list[Number]
    high: list[Number]


class RunDifference(Model):
    """The document of `alike runs diff --json`: runs side by side.

    Attributes:
        runs: ids; the first is "before", the last is "after".
        times: of their starts, ISO 8601.
        states: of each, `good` or `failed`.
        errors: of each; empty if it did not fail.
        settings: dotted name to its value in each run.
        versions: package to its version in each run.
        network: name, weights and features of the first network of each run.
        further: label of a further network to the same of it.
        counts: images at each stage.
        scores: with intervals.
        measures: label of a network (empty: the first) to the measure of its headline in each run.
        comparable: label to whether the scores of each run mean the same as those of the last.
        series: says so if some of the first network do not.
    """

    runs: list[str]
    times: list[str]
    states: list[str]
    errors: list[str]
    settings: dict[str, list[Any]]
    versions: dict[str, list[Any]]
    network: dict[str, list[Any]]
    further: dict[str, dict[str, list[Any]]]
    counts: list[CountRow]
    scores: list[ScoreRow]
    measures: dict[str, list[str]]
    comparable: dict[str, list[bool]]
    series: str
