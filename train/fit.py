"""Lightning's Trainer around a step: device, precision, processes, and silence."""

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from alike.extract.errors import BadInput, ProcessDone
from alike.train.run_log import RunLog
from alike.train.step import ConsistencyStep


def fit(
    step: ConsistencyStep,
    log: RunLog,
    hardware: tuple[str, int, int],
    checkpoint: Path | None,
) -> None:
    """Train, from the start or from a checkpoint; processes other than the first end here.

    Args:
        step: what is trained, and how one step goes.
        log: notified of every step; keeps the log and the checkpoints.
        hardware: device (``auto``, ``cpu``, ``cuda``, ``cuda:1``), processes of a machine, and
            number of machines.
        checkpoint: to go on from, None to start.

    Raises:
        BadInput: a device that is not there.
        SystemExit: 143 after SIGTERM; the run goes on from its checkpoint when called again.
    """
    device, devices, nodes = hardware
    accelerator, numbers = _device(device, devices)
    with _quiet(), torch.random.fork_rng(devices=[]):
        trainer = Trainer(
            accelerator=accelerator,
            devices=numbers,
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
            precision=_precision(step.settings.precision, accelerator),
            max_epochs=step.settings.epochs,
            default_root_dir=log.out,
            callbacks=[log],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        try:
            trainer.fit(step, ckpt_path=str(checkpoint) if checkpoint else None)
        except SIGTERMException as ended:
            # Lightning's own ends with status 0, as if the run were finished.
            raise SystemExit(128 + signal.SIGTERM) from ended
        if not trainer.is_global_zero:
            raise ProcessDone(0)


def _device(device: str, devices: int) -> tuple[str, int | list[int]]:
    """Lightning's names: the accelerator, and how many or which of it."""
    there = torch.cuda.is_available()
    if device == "cpu" or (device == "auto" and not there):
        return "cpu", devices
    kind, _, number = device.partition(":")
    if not there or kind not in ("cuda", "auto") or not (number.isdecimal() or not number):
        raise BadInput(f"device {device!r}: auto, cpu, or a CUDA device of this machine expected")
    return "gpu", [int(number)] if number else devices


def _precision(asked: str, accelerator: str) -> Any:
    if asked != "auto":
        return asked
    wide = accelerator == "gpu" and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if wide else "32-true"


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning says nothing: what matters goes to the log and to `decisions`."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
