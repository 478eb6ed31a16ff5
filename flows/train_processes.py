"""Retraining by several processes: torchrun starts them, this process waits.

The job is a file in the folder of the retraining, which all machines must see. Process 0 of all
writes what a retraining by one process writes. torchrun ends the others if one of them ends.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alike.extract.documents import read_json_file
from alike.extract.errors import AlikeError, BadInput
from alike.extract.progress import Progress
from alike.flows.sections import Pipeline, Retrain

if TYPE_CHECKING:
    from alike.train.run_files import TrainRun
    from alike.train.settings import TrainSettings

JOB, REFUSAL, SAID = "job.json", "refusal.json", "processes.log"
MODULE = "alike.flows.train_process"
"""That torchrun starts; it loads the network and trains."""
PORT = 29400
"""Of a rendezvous that names none; torchrun's own."""

Labelled = list[tuple[str, str]]


class ProcessesEnded(AlikeError):
    """A process of a retraining ended before its time; the next run goes on from a checkpoint."""


@dataclass(frozen=True)
class Job:
    """What the processes train.

    Attributes:
        images: section of the settings.
        network: section of the settings.
        weights: to start from.
        settings: of the trainer.
        training: (path, label) of the images.
        validation: the same of those by which networks are chosen.
        device: ``auto``, ``cpu``, ``cuda``.
        processes: of each machine.
        nodes: machines.
        save_every: seconds between checkpoints, at least.
    """

    images: dict[str, Any]
    network: dict[str, Any]
    weights: str
    settings: dict[str, Any]
    training: Labelled
    validation: Labelled
    device: str
    processes: int
    nodes: int
    save_every: float


def retrain_by_processes(
    pipeline: Pipeline,
    weights: str,
    images: tuple[Labelled, Labelled],
    settings: "TrainSettings",
    out: Path,
    progress: Progress,
    tell: Callable[[str], object],
    save_every: float = 20.0,
) -> "TrainRun":
    """`alike.train.retrain.retrain` of a run, by the processes of `[retrain]`.

    Args:
        pipeline: the settings.
        weights: to start from.
        images: (path, label) for training, and for validation.
        settings: of the trainer.
        out: folder of the retraining.
        progress: as there.
        tell: called with a line for whoever starts the other machines.
        save_every: seconds between checkpoints, at least.

    Raises:
        BadInput: as there.
        ProcessesEnded: a process ended before its time.
    """
    from alike.train.retrain import Diverged
    from alike.train.run_files import run_in

    retrain = pipeline.retrain
    assert retrain is not None
    processes, nodes = retrain.world
    out.mkdir(parents=True, exist_ok=True)
    job = Job(
        images=pipeline.images.model_dump(mode="json"),
        network=pipeline.network.model_dump(mode="json"),
        weights=weights,
        settings=settings.to_dict(),
        training=images[0],
        validation=images[1],
        device=pipeline.extract.device,
        processes=processes,
        nodes=nodes,
        save_every=save_every,
    )
    _write_job(out / JOB, job)
    (out / REFUSAL).unlink(missing_ok=True)
    try:
        if nodes > 1:
            tell(f"start on each of the other machines: {shown_command(retrain, out)}")
        status = _watch(_command(retrain, out), out, progress)
        refusal = _refusal(out)
        if refusal is not None:
            raise (Diverged if refusal["kind"] == "Diverged" else BadInput)(refusal["message"])
        if status:
            raise ProcessesEnded(
                f"retraining by {processes * nodes} processes ended before its time: "
                f"{_cause(status, out)}; run the same again: it goes on from its last checkpoint "
                f"(all that they said is in {out / SAID})"
            )
    finally:
        # It may hold the address of the images, with what gives access to them.
        (out / JOB).unlink(missing_ok=True)
        (out / REFUSAL).unlink(missing_ok=True)
    return run_in(out)


def _write_job(path: Path, job: Job) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(job), file)


def _refusal(out: Path) -> dict[str, str] | None:
    try:
        return read_json_file(out / REFUSAL, dict[str, str], "run it again")
    except FileNotFoundError:
        return None


def _arguments(retrain: Retrain, out: Path) -> list[str]:
    """Arguments of torchrun: the same on every machine."""
    processes, nodes = retrain.world
    if nodes == 1:
        meeting = ["--standalone"]
    else:
        host, _, port = str(retrain.rendezvous).partition(":")
        meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{port or PORT}"]
        meeting += [f"--rdzv-id={out.name}"]
    size = [f"--nproc-per-node={processes}", f"--nnodes={nodes}"]
    return [*size, *meeting, "-m", MODULE, str(out / JOB)]


def shown_command(retrain: Retrain, out: Path) -> str:
    """What is started on the other machines."""
    return f"torchrun {' '.join(_arguments(retrain, out))}"


def _command(retrain: Retrain, out: Path) -> list[str]:
    return [sys.executable, "-m", MODULE, "--torchrun", str(os.getpid()), *_arguments(retrain, out)]


def _watch(command: Sequence[str], out: Path, progress: Progress) -> int:
    """Run torchrun, tell its progress; its exit status."""
    with (out / SAID).open("wb") as said:
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=said, text=True) as started:
            try:
                for line in started.stdout or ():
                    progress(*json.loads(line))
                return started.wait()
            finally:
                if started.poll() is None:
                    started.terminate()


def _cause(status: int, out: Path) -> str:
    """Why torchrun failed: of one that was killed the processes name only what followed."""
    return f"torchrun was ended by signal {-status}" if status < 0 else _last_line(out)


def _last_line(out: Path) -> str:
    """What torchrun says of the process that ended first."""
    lines = (out / SAID).read_text(errors="replace").splitlines()
    causes = [line for line in lines if "exitcode" in line]
    cause = (causes or [line for line in lines if line.strip()] or ["no reason was given"])[-1]
    return " ".join(cause.split())
