"""A step of a run as a Prefect task: its name, its retries, its progress, its log.

Nothing is cached or persisted by Prefect: steps exchange keys of stored artefacts, and whether one
must run again is decided from the store (`alike.flows.memo`), which survives Prefect. That is why a
step may be tried again as a whole: what it had stored is not computed twice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from alike.extract.errors import NoCluster
from alike.extract.faults import passes
from alike.extract.secrets import masked, masked_all
from alike.flows.log_lines import step_named
from alike.flows.names import artifact_key
from alike.flows.progress_artifact import progress_artifact

if TYPE_CHECKING:
    from alike.flows.steps import PipelineRun

JITTER = 0.2
"""Share by which a pause may be longer, so that many pipelines do not come back at once."""


def run_task(
    function: Callable[..., Any], name: str, run: "PipelineRun", arguments: tuple[Any, ...]
) -> Any:
    """Run a step as the task `name`; its first word is a tag, for limits of the server.

    Args:
        function: the step; gets the run and the arguments.
        name: of the task, such as ``extract resnet18``.
        run: what all steps share.
        arguments: of the step.

    Raises:
        Exception: what the step raised last, its secrets masked.
    """
    settings = run.pipeline.prefect
    again = False

    def attempt() -> Any:
        nonlocal again
        try:
            with _logged(run), _progress_shown(run, name):
                return function(run, *arguments)
        except Exception as error:
            # The server keeps what an error says.
            error.args = tuple(masked_all(list(error.args)))
            left = settings.retries + 1 - _attempt()
            workers = run.workers
            # A scheduler that answered before is started anew by whoever started it.
            back = isinstance(error, NoCluster) and workers.reached
            workers.reached = workers.reached or passes(error)
            again = left > 0 and (back or passes(error))
            if again:
                run.tell(f"{name}: {_one_line(error)}: tried again, {left} times at most")
                # Of workers that died none is asked again.
                workers.close()
            raise

    pauses = [settings.retry_seconds * 2.0**number for number in range(settings.retries)]
    as_task = task(
        name=name,
        task_run_name=lambda: name,
        tags=[name.split()[0]],
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=settings.retries,
        retry_delay_seconds=pauses,
        retry_jitter_factor=JITTER,
        retry_condition_fn=lambda *_: again,
    )
    with step_named(name):
        return as_task(attempt)()


def _attempt() -> int:
    """Number of this attempt, from 1."""
    context = TaskRunContext.get()
    return context.task_run.run_count if context else 1


def _one_line(error: Exception) -> str:
    return masked(" ".join(f"{type(error).__name__} {error}".split()))


@contextmanager
def _logged(run: "PipelineRun") -> Iterator[None]:
    """Log what took how long, and what was not run again."""
    log, before, reused = get_run_logger(), dict(run.seconds), len(run.reused)
    yield
    for label, seconds in run.seconds.items():
        if before.get(label) != seconds:
            rate = run.rates.get(label)
            log.info(f"{label}: {seconds:.1f} s" + (f", {rate:.1f} images/s" if rate else ""))
    for label in run.reused[reused:]:
        log.info(f"{label}: nothing changed, not run again")


@contextmanager
def _progress_shown(run: "PipelineRun", name: str) -> Iterator[None]:
    """Show the step's progress on the server too."""
    log, listener = get_run_logger(), run.progress
    with progress_artifact(artifact_key(run.pipeline, f"progress {name}")) as artifact:

        def both(stage: str, done: int, total: int, note: str = "") -> None:
            listener(stage, done, total, note)
            if total:
                artifact(stage, done, total, note)
            elif note:
                log.info(masked(f"{stage}: {note}"))

        run.progress = both
        try:
            yield
        finally:
            run.progress = listener
