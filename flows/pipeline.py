"""The Prefect flow of a settings file: extract, index, analyse, retrain if triggered, report.

Import it only after `alike.flows.orchestration.prepare`: Prefect reads its settings as it is
imported.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from alike.extract.progress import Progress, silent
from alike.flows.run import Finished, run_settings_file

__all__ = ["Finished", "run_pipeline", "scheduled"]


def run_pipeline(
    path: Path,
    progress: Progress = silent,
    tell: Callable[[str], object] = lambda line: None,
) -> Finished:
    """Run the flow of a settings file under Prefect; see `run_settings_file`."""
    return _flow(str(path), progress, tell)


@flow(name="alike", persist_result=False, validate_parameters=False)
def scheduled(path: str) -> str:
    """Run the flow of `pipeline.toml`; returns the report's path."""
    return str(run_settings_file(Path(path), silent, get_run_logger().info).report)


@flow(name="alike", persist_result=False, validate_parameters=False)
def _flow(path: str, progress: Any, tell: Any) -> Finished:  # of a Protocol there is no schema
    return run_settings_file(Path(path), progress, tell)
