"""The Prefect flow of a settings file: extract, index, analyse, retrain if triggered, report.

Import it only after `alike.flows.orchestration.prepare`: Prefect reads its settings as it is
imported.
"""

from pathlib import Path
from typing import Any

from prefect import flow

from alike.extract.progress import Progress, silent
from alike.flows.run import Finished, run_settings_file

__all__ = ["Finished", "run_pipeline", "scheduled"]


def run_pipeline(path: Path, progress: Progress = silent) -> Finished:
    """Run the flow of a settings file under Prefect."""
    return _flow(str(path), progress)


@flow(name="alike", persist_result=False, validate_parameters=False)
def scheduled(path: str) -> str:
    """Run the flow of `pipeline.toml`; returns the report's path."""
    return str(run_settings_file(Path(path), silent).report)


@flow(name="alike", persist_result=False, validate_parameters=False)
def _flow(path: str, progress: Any) -> Finished:  # Prefect cannot make a schema of a Protocol
    return run_settings_file(Path(path), progress)
