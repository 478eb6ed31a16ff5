"""Retraining a network so that images of one class get alike features."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.networks import Network, kind_of, write_weights
from alike.extract.progress import Progress, silent
from alike.train.augment import augmentation_named
from alike.train.batchnorm import settle_statistics
from alike.train.fit import fit
from alike.train.images import CACHE_BYTES, Frames, Read
from alike.train.losses import loss_named
from alike.train.prepare import prepare
from alike.train.probe import Probe
from alike.train.run_files import (
    WEIGHTS,
    TrainRun,
    begin_run,
    check_out,
    fingerprint_of,
    finished_run,
    loads_back,
    replace_run,
    trained_images,
    write_run,
    write_train_images,
)
from alike.train.run_log import CHECKPOINT, STEP_COLUMNS, RunLog, checkpoint_of
from alike.train.settings import TrainSettings
from alike.train.split import Images, labelled, split_images
from alike.train.step import ConsistencyStep
from alike.train.trained_images import LabelledImage, snapshot_hash


def is_first_process() -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


class Diverged(BadInput):
    """A training after which the network's numbers are not finite: these settings cannot work."""


def retrain(
    network: Network,
    images: Images,
    read: Read,
    *,
    out: Path,
    held_out: Images | None = None,
    validation: Images | None = None,
    settings: TrainSettings | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    save_every: float = 20.0,
    progress: Progress = silent,
    **changes: Any,
) -> TrainRun:
    """Train a copy of a network with cross-entropy and a consistency loss.

    A run that was killed goes on from its last checkpoint when called again with the same things,
    to the same weights; a finished one is not done again.

    Args:
        network: from `load_network`; with weights ``none`` it is trained from scratch.
        images: (path, label) of the training images; those whose label is None are left out.
        read: path -> bytes of the image file.
        out: folder of this run; nothing is written elsewhere.
        held_out: (path, label) of images that must not be trained on: refused when one of them is
            among `images`; some of them are looked at after every epoch, for the log only.
        validation: (path, label) of images by which networks are chosen: looked at after every
            epoch instead of `held_out`, and what early stopping goes by.
        settings: how to train; `changes` are applied to it.
        device: ``auto``, ``cpu``, ``cuda``.
        devices: processes of a machine, one each; they share every batch, and the loss is that of
            the whole batch. More than one only from a script, the command line or torchrun, since
            Lightning starts it again for every process unless torchrun has.
        nodes: machines; more than one only by torchrun, with a folder `out` that all of them see.
        save_every: seconds between checkpoints, at least; they are made at the end of epochs.
        progress: called now and then.
        **changes: fields of `TrainSettings`, such as ``loss="ce"``, ``epochs=5``.

    Returns:
        Weights, log and decisions.

    Raises:
        BadInput: an unknown setting, fewer than two classes, images in both sets, a network that
            cannot be trained for classes, or a folder with files that no run of ours wrote.
        Diverged: the network's numbers are no longer finite; no weights are written.
    """
    began = time.monotonic()
    settings = (settings or TrainSettings()).changed(**changes)
    check_out(out, network.weights)
    task = _task(network, images, (held_out, validation), read, settings, progress)
    fingerprint = fingerprint_of(network, settings, task.evaluated, devices * nodes)
    finished = finished_run(out, fingerprint)
    if finished is not None:
        return finished
    checkpoint = checkpoint_of(out, fingerprint)
    ancestors = _ancestors(network)
    replaced: list[str] = []
    if is_first_process():
        out.mkdir(parents=True, exist_ok=True)
        replaced = begin_run(out, anew=checkpoint is None)
        if not (out / WEIGHTS).is_file():
            # First of all, so that the folder is known as that of a run.
            write_train_images(out, task.images, task.snapshot, ancestors.images)
    log = RunLog(
        out,
        fingerprint,
        task.probe,
        patience=settings.patience,
        progress=progress,
        save_every=save_every,
    )
    fit(task.step, log, (device, devices, nodes), checkpoint)
    final = _final_module(task.step, log)
    _check_finite(final, task.step)
    decisions = [
        *task.decisions,
        *ancestors.doubts,
        *_decisions(task.step, log, checkpoint),
        *settle_statistics(final, task.step),
        *replaced,
    ]
    provenance = _provenance(network, settings, task, ancestors)
    replace_run(out)
    write_train_images(out, task.images, task.snapshot, ancestors.images)
    write_weights(out / WEIGHTS, final, provenance)
    run = TrainRun(
        weights=out / WEIGHTS,
        weights_hash=loads_back(network, out / WEIGHTS),
        log=pd.DataFrame(log.rows),
        steps=pd.DataFrame(task.step.steps, columns=list(STEP_COLUMNS)),
        decisions=decisions,
        train_ids_hash=task.snapshot,
        class_names=tuple(task.names),
        seconds=time.monotonic() - began,
    )
    write_run(run, fingerprint, provenance)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return run


@dataclass(frozen=True)
class _Task:
    """What is trained on what.

    Attributes:
        step: the network, its loss and its images.
        probe: images that are evaluated after each epoch.
        images: all that were given and could be decoded.
        snapshot: `snapshot_hash` of them.
        evaluated: that, and of the images that may stop the training early.
        names: of the classes, in the order of the logits.
        decisions: what was decided on the way.
    """

    step: ConsistencyStep
    probe: Probe
    images: list[LabelledImage]
    snapshot: str
    evaluated: str
    names: list[str]
    decisions: list[str]


def _task(
    network: Network,
    images: Images,
    others: tuple[Images | None, Images | None],
    read: Read,
    settings: TrainSettings,
    progress: Progress,
) -> _Task:
    loss = loss_named(settings.loss)
    roles = zip((images, *others), ("training", "held-out", "validation"), strict=True)
    (images, left_out), (held_out, unwatched), (validation, unused) = (
        labelled(given, role) for given, role in roles
    )
    frames = Frames(images, read, network.transform, cache_bytes=CACHE_BYTES, progress=progress)
    split = split_images(frames, held_out, read, settings, validation)
    size = _input_size(split.training)
    labels = [image.label for image in frames.images]
    preparation = prepare(network, labels, size, loss, settings.seed)
    split = split.set_classes(preparation.names)
    split.training.augmentation = augmentation_named(settings.augment, size)
    snapshot = snapshot_hash(frames.images)
    # What stops a training early decides its weights.
    stops = bool(settings.patience and validation)
    data_hash = f"{snapshot} {snapshot_hash(split.watched.images)}" if stops else snapshot
    return _Task(
        step=ConsistencyStep(preparation.module, loss, settings, preparation.start, split.training),
        probe=Probe.of(split.watched, split.role),
        images=frames.images,
        snapshot=snapshot,
        evaluated=data_hash,
        names=preparation.names,
        decisions=[
            *(f"left out {path}: {reason}" for path, reason in frames.bad),
            *left_out,
            *unwatched,
            *unused,
            *split.notes,
            *preparation.decisions,
        ],
    )


@dataclass(frozen=True)
class _Ancestors:
    """The networks that the weights to start from go back to.

    Attributes:
        images: that they were trained on, as `trained_images` gives them.
        doubts: why that is not known, [] if it is.
    """

    images: pd.DataFrame
    doubts: list[str]

    @property
    def hashes(self) -> list[str] | None:
        """Of their sets of images; None if not known, and so for all that come from them."""
        return None if self.doubts else sorted(set(self.images["train_ids_hash"]))


def _ancestors(network: Network) -> _Ancestors:
    try:
        return _Ancestors(trained_images(network.weights), [])
    except BadInput as error:
        return _Ancestors(trained_images("none"), [str(error)])


def _input_size(frames: Frames) -> tuple[int, int]:
    height, width = frames.stack([0]).shape[-2:]
    return int(height), int(width)


def _decisions(step: ConsistencyStep, log: RunLog, checkpoint: Path | None) -> list[str]:
    return [
        *(["resumed from the checkpoint of a run that had been cut short"] if checkpoint else []),
        *step.watch.decisions,
        *([log.stopped] if log.stopped else []),
    ]


def _final_module(step: ConsistencyStep, log: RunLog) -> nn.Module:
    if log.best:
        step.net.load_state_dict(log.best["state"])
    if step.average is not None:
        step.average.write_to(step.net)
    return step.net.cpu().eval()


def _check_finite(module: nn.Module, step: ConsistencyStep) -> None:
    """Refuse to write weights that give no features."""
    state = module.state_dict()
    not_finite = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if not_finite:
        rate = step.settings.peak_rate(step.start.trained)
        raise Diverged(
            f"training diverged: {len(not_finite)} of {len(state)} tensors of the network are not "
            f"finite, the first is {not_finite[0]}; give a rate below {rate:g} (lr), or a smaller "
            "weight of the loss"
        )


def _provenance(
    network: Network, settings: TrainSettings, task: _Task, ancestors: _Ancestors
) -> dict[str, object]:
    """What the weights file says of itself."""
    args = dict(network.args)
    parameter = kind_of(network.name).classes_argument()
    if task.step.start.fresh_head and parameter:
        args[parameter] = len(task.names)
    return {
        "network": network.name,
        "args": args,
        "transform": network.transform.to_dict(),
        "class_names": task.names,
        "parent_weights": network.weights,
        "parent_weights_hash": network.weights_hash,
        "train_ids_hash": task.snapshot,
        "settings": settings.to_dict(),
        "earlier_ids_hashes": ancestors.hashes,
    }
