"""The Prefect flow of a settings file: extract, index, analyse, retrain if triggered, report.

Import it only after `alike.flows.orchestration.prepare`: Prefect reads its settings as it is
imported.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, tags

from alike.extract.progress import Progress, silent
from alike.extract.secrets import masked
from alike.flows.finished import Finished
from alike.flows.names import run_tags
from alike.flows.publishing import publish
from alike.flows.run import run_settings_file
from alike.flows.settings import read_pipeline
from alike.flows.unchanged import unchanged_run

__all__ = ["Finished", "run_pipeline", "scheduled"]


def run_pipeline(
    path: Path,
    progress: Progress = silent,
    tell: Callable[[str], object] = lambda line: None,
    *,
    rehash: bool = False,
) -> Finished:
    """Run the flow of a settings file under Prefect; see `run_settings_file`."""
    with tags(*run_tags(read_pipeline(path))):
        return _flow(str(path), progress, tell, rehash)


@flow(name="alike", persist_result=False, validate_parameters=False)
def scheduled(path: str) -> str:
    """Run the flow of `pipeline.toml`; returns the report's path."""
    pipeline = read_pipeline(Path(path))
    done = unchanged_run(pipeline, log) or run_settings_file(Path(path), silent, log)
    publish(pipeline, done)
    return str(done.report)


@flow(name="alike", persist_result=False, validate_parameters=False)
def _flow(path: str, progress: Any, tell: Any, rehash: bool) -> Finished:  # no Protocol: no schema
    def both(line: str) -> None:
        tell(line)
        log(line)

    done = run_settings_file(Path(path), progress, both, rehash=rehash)
    publish(read_pipeline(Path(path)), done)
    return done


def log(line: str) -> None:
    """Log a line for the server: that of the step that runs, or of the run."""
    get_run_logger().info(masked(line))
