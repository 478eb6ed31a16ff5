"""The Prefect flow of a settings file: extract, index, analyse, retrain if triggered, report.

Import it only after `alike.flows.orchestration.prepare`: Prefect reads its settings as it is
imported.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from alike.extract.progress import Progress, silent
from alike.extract.secrets import masked
from alike.flows.finished import Finished
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
    return _flow(str(path), progress, tell, rehash)


@flow(name="alike", persist_result=False, validate_parameters=False)
def scheduled(path: str) -> str:
    """Run the flow of `pipeline.toml`; returns the report's path."""
    log = get_run_logger()

    def tell(line: str) -> None:
        log.info(masked(line))

    done = unchanged_run(read_pipeline(Path(path)), tell)
    return str((done or run_settings_file(Path(path), silent, tell)).report)


@flow(name="alike", persist_result=False, validate_parameters=False)
def _flow(path: str, progress: Any, tell: Any, rehash: bool) -> Finished:  # no Protocol: no schema
    return run_settings_file(Path(path), progress, tell, rehash=rehash)
