"""Retraining a network so that images of one class get alike features."""

import os
import time
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
from alike.train.images import CACHE_BYTES, Frames, Read, snapshot_hash
from alike.train.losses import loss_named
from alike.train.prepare import prepare
from alike.train.probe import Probe
from alike.train.run_files import (
    WEIGHTS,
    TrainRun,
    fingerprint_of,
    finished_run,
    forget_other_run,
    loads_back,
    trained_images,
    write_run,
    write_train_images,
)
from alike.train.run_log import CHECKPOINT, STEP_COLUMNS, RunLog, checkpoint_of
from alike.train.settings import TrainSettings
from alike.train.split import Images, sides
from alike.train.start import Start
from alike.train.step import ConsistencyStep


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
        validation: (path, label) of images by which networks are chosen: looked at after every
            epoch instead of `held_out`, and what early stopping goes by.
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
        Diverged: the network's numbers are no longer finite; no weights are written.
    """
    began = time.monotonic()
    settings = (settings or TrainSettings()).changed(**changes)
    loss = loss_named(settings.loss)
    frames = Frames(images, read, network.transform, cache_bytes=CACHE_BYTES, progress=progress)
    decisions = [f"left out {path}: {reason}" for path, reason in frames.bad]
    training, probed, role = sides(frames, held_out, read, settings, validation)
    size = _input_size(training)
    labels = [image.label for image in frames.images]
    module, start, names, made = prepare(network, labels, size, loss, settings.seed)
    decisions += made
    training.set_classes(names)
    probed = probed.subset([n for n, one in enumerate(probed.images) if one.label in names])
    probed.set_classes(names)
    training.augmentation = augmentation_named(settings.augment, size)

    snapshot = snapshot_hash(frames.images)
    # What stops a training early decides its weights.
    stops = bool(settings.patience and validation)
    judged = f"{snapshot} {snapshot_hash(probed.images)}" if stops else snapshot
    fingerprint = fingerprint_of(network, settings, judged, devices)
    done = finished_run(out, fingerprint)
    if done is not None:
        return done
    resumed = checkpoint_of(out, fingerprint)
    earlier, unknown = _seen_before(network)
    decisions += unknown
    if os.environ.get("LOCAL_RANK", "0") == "0":
        out.mkdir(parents=True, exist_ok=True)
        if resumed is None:
            forget_other_run(out)
        write_train_images(out, frames.images, snapshot, earlier)

    step = ConsistencyStep(module, loss, settings, start, training)
    log = RunLog(
        out,
        fingerprint,
        Probe.of(probed, role),
        patience=settings.patience,
        progress=progress,
        save_every=save_every,
    )
    fit(step, log, (device, devices), resumed)
    decisions += _decided(step, log, resumed)
    final = _final_module(step, log)
    _check_finite(final, step)
    decisions += settle_statistics(final, step)
    said = _provenance(network, settings, start, names, snapshot)
    # None: not known, and so for all networks that come from this one.
    said["earlier_ids_hashes"] = None if unknown else sorted(set(earlier["train_ids_hash"]))
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


def _seen_before(network: Network) -> tuple[pd.DataFrame, list[str]]:
    """Images that the weights to start from were trained on, or why these are not known."""
    try:
        return trained_images(network.weights), []
    except BadInput as error:
        return trained_images("none"), [str(error)]


def _input_size(frames: Frames) -> tuple[int, int]:
    height, width = frames.stack([0]).shape[-2:]
    return int(height), int(width)


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


def _check_finite(module: nn.Module, step: ConsistencyStep) -> None:
    """Refuse to write weights that give no features."""
    state = module.state_dict()
    broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        rate = step.settings.peak_rate(step.start.trained)
        raise Diverged(
            f"training diverged: {len(broken)} of {len(state)} tensors of the network are not "
            f"finite, the first is {broken[0]}; give a rate below {rate:g} (lr), or a smaller "
            "weight of the loss"
        )


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
