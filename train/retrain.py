"""Retraining a network so that images of one class get alike features."""

import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Trainer
from torch import nn

from extract.errors import BadImage, BadInput
from extract.network import Network
from extract.network_kinds import kind_of
from extract.progress import Progress, silent
from extract.split import image_id, split_of
from extract.weights import write_weights
from train.augment import augmentation_named
from train.images import CACHE_BYTES, Frames, Read, snapshot_hash
from train.losses import loss_named
from train.prepare import prepare
from train.probe import PROBE_SIZE, Probe
from train.run_files import (
    WEIGHTS,
    TrainRun,
    fingerprint_of,
    finished_run,
    forget_other_run,
    loads_back,
    write_run,
    write_train_images,
)
from train.run_log import CHECKPOINT, STEP_COLUMNS, RunLog, checkpoint_of
from train.settings import TrainSettings
from train.step import ConsistencyStep, Start

Images = Sequence[tuple[str, str]]


def retrain(
    network: Network,
    images: Images,
    read: Read,
    *,
    out: Path,
    held_out: Images | None = None,
    settings: TrainSettings | None = None,
    device: str = "auto",
    devices: int = 1,
    save_every: float = 20.0,
    progress: Progress = silent,
    **changes: Any,
) -> TrainRun:
    """Train a copy of a network with cross-entropy and a consistency loss.

    A run that was killed goes on from its last checkpoint when called again with the same things,
    to the same weights; a finished one is not done again.

    Args:
        network: from `load_network`; with weights ``none`` it is trained from scratch.
        images: (path, label) of the training images.
        read: path -> bytes of the image file.
        out: folder of this run; nothing is written elsewhere.
        held_out: (path, label) of images that must not be trained on: refused when one of them is
            among `images`; some of them are looked at after every epoch, for the log only.
        settings: how to train; `changes` are applied to it.
        device: ``auto``, ``cpu``, ``cuda``.
        devices: processes, one each; more than one only from a script or the command line, since
            Lightning starts it again for every process. Contrasts stay within a process.
        save_every: seconds between checkpoints, at least; they are made at the end of epochs.
        progress: told now and then.
        **changes: fields of `TrainSettings`, such as ``loss="ce"``, ``epochs=5``.

    Returns:
        Weights, log and decisions.

    Raises:
        BadInput: an unknown setting, fewer than two classes, images in both sets, a network that
            cannot be trained for classes.
    """
    began = time.monotonic()
    settings = _settled(settings, changes)
    loss = loss_named(settings.loss)
    frames = Frames(images, read, network.transform, cache_bytes=CACHE_BYTES, progress=progress)
    decisions = [f"left out {path}: {reason}" for path, reason in frames.bad]
    training, probed, role = _sides(frames, held_out, read, settings)
    size = _input_size(training)
    labels = [image.label for image in frames.images]
    module, start, names, made = prepare(network, labels, size, loss, settings.seed)
    decisions += made
    training.set_classes(names)
    probed = probed.subset([n for n, one in enumerate(probed.images) if one.label in names])
    probed.set_classes(names)
    training.augmentation = augmentation_named(settings.augment, size)

    snapshot = snapshot_hash(frames.images)
    fingerprint = fingerprint_of(network, settings, snapshot, devices)
    done = finished_run(out, fingerprint)
    if done is not None:
        return done
    resumed = checkpoint_of(out, fingerprint)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        out.mkdir(parents=True, exist_ok=True)
        if resumed is None:
            forget_other_run(out)
        write_train_images(out, frames.images)

    step = ConsistencyStep(module, loss, settings, start, training)
    log = RunLog(
        out,
        fingerprint,
        Probe.of(probed, role),
        patience=settings.patience,
        progress=progress,
        save_every=save_every,
    )
    _fit(step, log, (device, devices), resumed)
    decisions += _decided(step, log, resumed)
    final = _final_module(step, log)
    said = _provenance(network, settings, start, names, snapshot)
    write_weights(out / WEIGHTS, final, said)
    run = TrainRun(
        weights=out / WEIGHTS,
        weights_hash=loads_back(network, out / WEIGHTS),
        log=pd.DataFrame(log.rows),
        steps=pd.DataFrame(step.steps, columns=list(STEP_COLUMNS)),
        decisions=decisions,
        train_ids_hash=snapshot,
        class_names=tuple(names),
        seconds=time.monotonic() - began,
    )
    write_run(run, fingerprint, said)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return run


def _settled(settings: TrainSettings | None, changes: dict[str, Any]) -> TrainSettings:
    known = [field.name for field in fields(TrainSettings)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise BadInput(f"unknown training settings {unknown}; known are {', '.join(known)}")
    return replace(settings or TrainSettings(), **changes)


def _sides(
    frames: Frames, held_out: Images | None, read: Read, settings: TrainSettings
) -> tuple[Frames, Frames, str]:
    """Images to train on, images to look at after each epoch, and what those are."""
    if not frames.images:
        raise BadInput("no usable training image; check the source and its labels")
    unseen = _held_out_frames(frames, held_out, read) if held_out else None
    if settings.patience:
        share = 1.0 - settings.validation
        sides = [split_of(image.image_id, share, "validation") for image in frames.images]
        kept = [row for row, side in enumerate(sides) if side == "train"]
        validation = [row for row, side in enumerate(sides) if side == "held_out"]
        if not kept or not validation:
            raise BadInput(
                f"validation {settings.validation}: too few images for early stopping; "
                "set patience to 0 or give more images"
            )
        return frames.subset(kept), frames.subset(validation), "validation"
    if unseen is not None and unseen.images:
        return frames, unseen, "held out"
    return frames, frames, "train"


def _held_out_frames(frames: Frames, held_out: Images, read: Read) -> Frames:
    trained = {image.image_id for image in frames.images}
    both = [path for path, _ in held_out if _id_of(path, read) in trained]
    if both:
        raise BadInput(
            f"{len(both)} held-out images are among the training images, the first is {both[0]}; "
            "split by content hash, as `alike` does"
        )
    each = max(1, PROBE_SIZE // max(1, len({label for _, label in held_out})))
    seen: dict[str, int] = {}
    some = []
    for path, label in held_out:
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= each:
            some.append((path, label))
    return Frames(some, read, frames.transform)


def _id_of(path: str, read: Read) -> str:
    try:
        return image_id(read(path))
    except BadImage:
        return ""


def _input_size(frames: Frames) -> tuple[int, int]:
    height, width = frames.stack([0]).shape[-2:]
    return int(height), int(width)


def _fit(step: ConsistencyStep, log: RunLog, where: tuple[str, int], resumed: Path | None) -> None:
    device, devices = where
    accelerator = {"auto": "gpu" if torch.cuda.is_available() else "cpu", "cuda": "gpu"}
    with _quiet(), torch.random.fork_rng(devices=[]):
        trainer = Trainer(
            accelerator=accelerator.get(device, device),
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            precision=_precision(step.settings.precision, accelerator.get(device, device)),
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
        trainer.fit(step, ckpt_path=str(resumed) if resumed else None)
        if not trainer.is_global_zero:
            raise SystemExit(0)


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


def _decided(step: ConsistencyStep, log: RunLog, resumed: Path | None) -> list[str]:
    return [
        *(["resumed from the checkpoint of a run that had been cut short"] if resumed else []),
        *step.watch.decisions,
        *([log.stopped] if log.stopped else []),
    ]


def _final_module(step: ConsistencyStep, log: RunLog) -> nn.Module:
    if log.best:
        step.net.load_state_dict(log.best["state"])
    return step.net.cpu().eval()


def _provenance(
    network: Network, settings: TrainSettings, start: Start, names: list[str], snapshot: str
) -> dict[str, object]:
    """What the weights file says of itself."""
    args = dict(network.args)
    parameter = kind_of(network.name).classes_argument()
    if start.fresh_head and parameter:
        args[parameter] = len(names)
    return {
        "network": network.name,
        "args": args,
        "transform": network.transform.to_dict(),
        "class_names": names,
        "parent_weights": network.weights,
        "parent_weights_hash": network.weights_hash,
        "train_ids_hash": snapshot,
        "settings": settings.to_dict(),
    }
