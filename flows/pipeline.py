"""The Prefect flow of a settings file: extract, index, analyse, retrain if triggered, report.

Import it only after `alike.flows.orchestration.prepare`: Prefect reads its settings as it is
imported.
"""

import logging
import multiprocessing
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, tags
from prefect.states import Completed

from alike.extract.errors import AlikeError, StoreBusy, StoreFull
from alike.extract.progress import Progress, silent
from alike.extract.secrets import flat, masked
from alike.flows.check import check
from alike.flows.finished import Finished
from alike.flows.log_lines import ON_STDERR, Tell, say, unsaid
from alike.flows.names import run_tags
from alike.flows.orchestration import full_disk
from alike.flows.overrides import Overrides, given_settings
from alike.flows.parent import end_with_parent
from alike.flows.publishing import publish
from alike.flows.run import refusal_recorded, run_settings_file
from alike.flows.settings import read_pipeline
from alike.flows.turns import collapse_late_runs, slot_of_store
from alike.flows.unchanged import unchanged_run

__all__ = ["Finished", "run_pipeline", "scheduled"]


def run_pipeline(
    path: Path,
    progress: Progress = silent,
    tell: Tell = unsaid,
    *,
    rehash: bool = False,
) -> Finished:
    """Run the flow of a settings file under Prefect; see `run_settings_file`.

    Raises:
        StoreFull: also if Prefect failed, and its disk is full.
    """
    pipeline = read_pipeline(path)
    with tags(*run_tags(pipeline)):
        try:
            return _flow(str(path), progress, tell, rehash)
        except AlikeError:
            raise
        except Exception as error:
            full = full_disk(pipeline.output.folder)
            if not full:
                raise
            raise StoreFull(full) from error


@flow(name="alike", persist_result=False)
def scheduled(path: str, settings: Overrides | None = None, rehash: bool = False) -> Any:
    """Run the flow of a settings file, by the clock or from the server.

    Args:
        path: of the settings file, on the machine that runs it.
        settings: that this run has otherwise than the file.
        rehash: read every image, also those whose size and times are as before.

    Returns:
        The report's path; or a completed state `Skipped`, if another run works on the store and
        `[prefect] busy` is `skip`.
    """
    _end_with_the_schedule()
    given = given_settings(settings) if settings else {}
    pipeline = read_pipeline(Path(path), given)
    if given:
        log(f"set for this run: {', '.join(sorted(flat(given)))}")
    collapse_late_runs(log)
    done = None
    # The end of another run in the same folder is waited for below, or this one is skipped.
    with suppress(StoreBusy):
        done = None if rehash else unchanged_run(pipeline, log)
    if done is None:
        wait = pipeline.prefect.busy == "wait"
        try:
            with slot_of_store(pipeline, log if wait else None):
                with refusal_recorded(pipeline, log):
                    check(pipeline)
                done = run_settings_file(
                    Path(path), silent, log, rehash=rehash, overrides=given, wait=wait
                )
        except StoreBusy as error:
            if wait:
                raise
            return Completed(name="Skipped", message=masked(str(error)))
    _log_decisions(done)
    publish(pipeline, done)
    return str(done.report)


@flow(name="alike", persist_result=False, validate_parameters=False)
def _flow(path: str, progress: Any, tell: Any, rehash: bool) -> Finished:  # no Protocol: no schema
    def both(line: str, /, *, level: str = "info") -> None:
        tell(line, level=level)
        log(line, level=level, on_stderr=tell is say)

    pipeline = read_pipeline(Path(path))
    with slot_of_store(pipeline):
        done = run_settings_file(Path(path), progress, both, rehash=rehash)
    _log_decisions(done)
    publish(pipeline, done)
    return done


def _end_with_the_schedule() -> None:
    """In a process that `alike schedule` started for this run: end when that is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(parent.pid)


def _log_decisions(done: Finished) -> None:
    """Log what a run decided; one that computed nothing repeats what was logged before."""
    for line in () if done.reused else done.decisions:
        log(line)


def log(line: str, /, *, level: str = "info", on_stderr: bool = False) -> None:
    """Log a line for the server: that of the step that runs, or of the run.

    Args:
        line: its secrets are masked.
        level: `info`, `warning` or `error`.
        on_stderr: it was written there already, and is not written again.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    get_run_logger().log(number, masked(line), extra={ON_STDERR: on_stderr})
