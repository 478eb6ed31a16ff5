"""One run of a settings file, step by step; `alike.flows.pipeline` hands it to Prefect."""

import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alike.extract.errors import StoreBusy, StoreDamaged
from alike.extract.progress import Progress
from alike.extract.secrets import masked, masked_all
from alike.extract.store import Store
from alike.flows import beside, steps
from alike.flows.alarm import watch
from alike.flows.beside import Beside
from alike.flows.decisions import Accepted, DecisionLog
from alike.flows.finished import Finished
from alike.flows.history import History, image_changes
from alike.flows.keeping import drop_networks, note_policy, purge_images
from alike.flows.log_lines import Tell, unsaid
from alike.flows.memo import RunFile, alone_in, digest
from alike.flows.mending import damaged_key, mend, mend_settings
from alike.flows.mirror import mirror
from alike.flows.names import network_labels
from alike.flows.orchestration import step
from alike.flows.recording import (
    failure,
    finished,
    images_of,
    last_good,
    over_time,
    record_of,
    versions,
)
from alike.flows.retraining import Rounds
from alike.flows.settings import read_pipeline
from alike.flows.steps import PipelineRun
from alike.flows.unchanged import leave

if TYPE_CHECKING:
    from alike.analysis.stored import Analysis
    from alike.extract.networks import Network
    from alike.flows.sections import Pipeline


_DATED = re.compile(r"\d{4}-\d\d-\d\d-\d{6}(-\d+)?\.html")


def run_settings_file(
    path: Path,
    progress: Progress,
    tell: Tell = unsaid,
    *,
    rehash: bool = False,
    overrides: Mapping[str, Any] | None = None,
    wait: bool = False,
) -> Finished:
    """Run the steps of a settings file that must run, record the run, and raise its alarms.

    Args:
        path: of the settings file.
        progress: called as each step proceeds.
        tell: called with a line before a step runs again, and as `alike.flows.alarm.watch` does.
        rehash: read every image to list it, also those whose size and times are as before.
        overrides: settings in place of those of the file, as `read_pipeline` takes them.
        wait: for the end of another run that works in the same folder.

    Raises:
        BadInput: settings that cannot work.
        StoreBusy: another run works in the same folder, and it is not waited for.
    """
    pipeline = read_pipeline(path, overrides)
    with alone_in(pipeline.output.folder, waiting=tell if wait else None):
        run = PipelineRun(pipeline, progress, tell=tell, rehash=rehash)
        try:
            mend_settings(run)
            done = run_mended(run)
        except BaseException as error:
            _mask(error)
            record_failure(run, error)
            raise
        finally:
            run.workers.close()
        last = last_good(History(run.store()).records())
        leave(run, done, last.id if last else "")
        mirror(pipeline.output.folder, pipeline.output.mirror, tell)
        return replace(done, alarms=watch(pipeline, run.store(), tell))


def run_mended(run: PipelineRun) -> Finished:
    """`run_steps`; features and twins that turn out damaged are made again, and the steps too.

    Raises:
        StoreDamaged: something else is damaged, or it is so after it was made again.
    """
    mended: set[str] = set()
    while True:
        try:
            return run_steps(run)
        except StoreDamaged as error:
            part = damaged_key(error) or error.file
            line = "" if part in mended else mend(run, error)
            if not line:
                raise
            mended.add(part)
            run.begin_again(line)


def run_steps(run: PipelineRun) -> Finished:
    """Extract, index, analyse, retrain if triggered, and report; the caller holds the folder."""
    own = steps.load(run.pipeline, run.pipeline.network.weights)
    log = DecisionLog(run.memo, run.folder, run.pipeline, own.weights_hash, own.modules_hash)
    accepted = log.accepted()
    run.notes.extend(log.lost())
    weights = accepted.weights if accepted else run.pipeline.network.weights
    label, *_ = labels = network_labels(run.pipeline.networks)
    others = beside.others_of(run)
    if others:
        extract = step(beside.extract_networks, f"extract {', '.join(labels)}")
        key, *keys = extract(run, weights, others)
        others = [replace(one, key=of) for one, of in zip(others, keys, strict=True)]
    else:
        key = step(steps.extract_images, f"extract {label}")(run, weights, "network")
    from alike.index.places import why_not_whole

    report = run.folder / "report.html"
    with run.store().files.snapshot():
        _note_changes(run, key)
        question = _question(run, own, key, others)
        earlier = None
        # The report shows nothing of the index, which others ask.
        if not run.seconds and not why_not_whole(run.store(), key, run.pipeline.index.measure):
            earlier = run.memo.outputs("report", question)
        if earlier is not None:
            run.decide(earlier["decisions"])
            note_policy(run)
            _record_again(run, key, report, digest(question), others)
            done = _finished(run, key, report, earlier["decisions"], reused=True)
            return replace(done, networks=_networks(labels, key, others))
    purge_images(run)
    untrained, others = _untrained(run, own, Accepted(weights, key), others)
    step(steps.build, f"index {label}")(run, key, "network")
    random = None if untrained == key else untrained
    before = step(steps.evaluate_group, f"analyse {label}")(run, key, "network", random)
    step(steps.explain, f"explain {label}")(run, key, weights, "network")
    rounds = Rounds(run, log, Accepted(weights, key), before, untrained)
    rounds.go()
    _compare_with(run, rounds, others)
    question, history = _question(run, own, rounds.served, others), History(run.store())
    if not (run.reasons or run.seconds):
        # Else the report follows from what ran.
        run.explain("report", run.reason_of("report", question))
    run.memo.forget("report")
    record, images = record_of(run, history, rounds.current, digest(question), others)
    past = over_time([*history.records(), record])
    step(_report, "report")(run, before, rounds, report, past)
    files: tuple[RunFile, ...] = (report, *run.files)
    lasting = run.lasting(run.decisions)
    run.memo.record("report", question, {"decisions": lasting}, files)
    history.write(finished(record, run, report), images)
    run.store().set_served(rounds.served)
    beside_it = {key for one in others for key in (one.key, one.untrained) if key}
    drop_networks(run, rounds.compared | beside_it)
    done = _finished(run, rounds.served, report, run.decisions)
    return replace(done, networks=_networks(labels, key, others))


def _networks(labels: Sequence[str], key: str, others: list[Beside]) -> dict[str, str]:
    """Names of several networks to their features; none of a single one."""
    keys = [key, *(one.key for one in others)]
    return dict(zip(labels, keys, strict=True)) if others else {}


def _untrained(
    run: PipelineRun, own: "Network", network: Accepted, others: list[Beside]
) -> tuple[str | None, list[Beside]]:
    """Key of the first architecture with random weights, and the others with theirs.

    None if the settings ask for none. Of a network without weights it is the network itself, with
    which those that are retrained from it are compared.
    """
    if not run.pipeline.analyse.untrained:
        return None, others
    if others:
        key, *keys = step(beside.extract_untrained, "extract untrained")(run, own, others)
        return key, [replace(one, untrained=of) for one, of in zip(others, keys, strict=True)]
    if network.weights == "none":
        return network.key, others
    extract = step(steps.extract_images, "extract untrained")
    return extract(run, "none", "untrained", own), others


def _compare_with(run: PipelineRun, rounds: Rounds, others: list[Beside]) -> None:
    """Analyse the other networks, and compare all, the first before and after retraining."""
    from alike.analysis.report import main_measure

    if not others:
        beside.forget_comparison(run)
        return
    for one in others:
        step(beside.analyse_beside, f"analyse {one.label}")(run, one)
    keys = [rounds.first, *([rounds.after.key] if rounds.after else [])]
    every = list(dict.fromkeys([*keys, *(one.key for one in others)]))
    measure = main_measure(rounds.current)
    step(beside.compare_networks, "compare networks")(run, every, measure)


def _note_changes(run: PipelineRun, key: str) -> None:
    """Say what changed of the images since the last run that was recorded."""
    history = History(run.store())
    before = last_good(history.records())
    images = history.images(before) if before else None
    changes = image_changes(images, images_of(run.store().features(key)))
    words = {
        "added": ("image is new", "images are new"),
        "removed": ("image is gone", "images are gone"),
        "relabelled": ("label changed", "labels changed"),
    }
    run.changes = ", ".join(f"{n} {words[kind][n != 1]}" for kind, n in changes.items() if n)


def _record_again(
    run: PipelineRun, key: str, report: Path, question: str, others: Sequence[Beside]
) -> None:
    """Nothing has changed since a run: say so, or record it if that run was killed before."""
    from alike.analysis.stored import Analysis

    history = History(run.store())
    before = last_good(history.records())
    if before is not None and before.question == question:
        history.again(before.id)
        return
    analysis = Analysis.load(run.store(), key)
    record, images = record_of(run, history, analysis, question, others)
    history.write(finished(record, run, report), images)


@contextmanager
def refusal_recorded(pipeline: "Pipeline", tell: Tell = unsaid) -> Iterator[None]:
    """Inside, what goes wrong before the first step is recorded as a run that failed.

    The rules are looked at too. Where there is no store yet, none is made and nothing is recorded;
    nor is it while another run works in the output folder, which looks at the rules itself.

    Args:
        pipeline: the settings, which may be refused.
        tell: called as `alike.flows.alarm.watch` does.

    Raises:
        BaseException: what went wrong, its secrets masked.
    """
    began = time.monotonic()
    try:
        yield
    except BaseException as error:
        _mask(error)
        with suppress(Exception):
            # First of all: the output folder is not made for a run that is refused.
            Store.open(pipeline.store_place)
            with alone_in(pipeline.output.folder):
                record_failure(PipelineRun(pipeline, tell=tell, began=began), error)
        raise


def _mask(error: BaseException) -> None:
    """Mask the secrets of an error: Prefect shows it on its server and in its log."""
    error.args = tuple(masked_all(list(error.args)))


def record_failure(run: PipelineRun, error: BaseException) -> None:
    """Record a run that failed, and look at the rules: there may be no good run for long.

    Nothing is written if there is no store yet, or if another run is at work: its record says how
    it ended.
    """
    try:
        store = Store.open(run.store_url)
    # There is none yet, or it cannot be read: then that is why the run failed.
    except Exception:
        return
    try:
        if not isinstance(error, StoreBusy):
            history = History(store)
            history.write(failure(run, error, history.newest()))
        watch(run.pipeline, store, run.tell)
    # It must not hide why the run failed; the client of an object store has errors of its own.
    except Exception as fault:
        line = " ".join(str(fault).split()) or type(fault).__name__
        run.tell(f"that this run failed is not in the history: {line}", level="warning")


def _question(
    run: PipelineRun, own: "Network", key: str, others: Sequence[Beside]
) -> dict[str, Any]:
    """All that the report of a run depends on, for the network that it serves at its end."""
    from alike.analysis.analyse import VERSION

    store = run.store()
    every = [[one.network.identity, store.features(one.key).digest] for one in others]
    return {
        **({"others": every} if others else {}),
        "settings": run.pipeline.written,
        **steps.human_digest(run),
        "images": steps.view_digest(store),
        "share": steps.sides_of(store),
        "version": VERSION,
        "network": own.identity,
        "served": key,
        "features": store.features(key).digest,
    }


def _finished(
    run: PipelineRun, key: str, report: Path, decisions: Sequence[str], *, reused: bool = False
) -> Finished:
    store = run.store()
    store.set_served(key)
    bad = len(store.features(key).bad())
    seconds = {} if reused else run.seconds
    return Finished(report, key, reused, tuple(decisions), seconds, bad, tuple(run.notes))


def _report(
    run: PipelineRun, before: "Analysis", rounds: Rounds, path: Path, past: dict[str, Any]
) -> None:
    from alike.analysis.report import main_measure, write_dated, write_report

    store = run.store()
    view = store.images()
    bad = store.features(before.key).bad()
    pipeline = run.pipeline
    facts = {
        "title": pipeline.title or Path(pipeline.images.source).name,
        "source": masked(pipeline.images.source),
        "history": past,
        "network": pipeline.network.name,
        "weights": pipeline.network.weights,
        "settings": pipeline.shown,
        "versions": versions(),
        "stages": run.seconds,
        "reused": run.reused,
        "images": {"listed": len(view), "ok": len(view) - len(bad), "bad": len(bad)},
        "bad": bad.to_dict(orient="records"),
        "decisions": run.decisions,
        "control": rounds.control,
        "verdict": rounds.verdict,
        "created": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    if rounds.after is not None:
        measure = main_measure(before)
        facts["likeness"] = steps.how_alike(run, before.key, rounds.after.key, measure)
    write_report(
        path,
        before=before,
        after=rounds.after,
        comparison=rounds.comparison,
        store=store,
        run=facts,
    )
    folder = run.folder / "reports"
    newest = dated_name(folder, time.strftime("%Y-%m-%d-%H%M%S"))
    write_dated(path, newest)
    drop_reports(folder, run.pipeline.keep.reports, newest)


def dated_name(folder: Path, date: str) -> Path:
    """Name of a new report in a folder: its date, and a number where one of that second is there.

    Example:
        >>> dated_name(Path("reports"), "2026-01-31-020000").name
        '2026-01-31-020000.html'
    """
    names = (f"{date}{f'-{number}' if number > 1 else ''}.html" for number in itertools.count(1))
    return next(folder / name for name in names if not (folder / name).exists())


def drop_reports(folder: Path, most: int | None, newest: Path) -> None:
    """Delete the oldest dated reports beyond so many; other files in the folder stay.

    Args:
        folder: of the reports.
        most: that stay; None: all.
        newest: the report of this run. One of a later date was written before it, by a clock that
            was ahead, and goes first.
    """

    def age(report: Path) -> tuple[bool, list[int]]:
        date = [int(number) for number in report.stem.split("-")]
        return date <= [int(number) for number in newest.stem.split("-")], date

    reports = sorted((one for one in folder.glob("*.html") if _DATED.fullmatch(one.name)), key=age)
    for one in reports[: len(reports) - most] if most else ():
        one.unlink(missing_ok=True)
