"""The folder of a run: what it was made from, what came out, and whether it is done already."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from alike.extract.display import Displayed, Summary
from alike.extract.documents import (
    damaged,
    read_json,
    read_json_file,
    seal,
    unseal,
)
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.identity import file_hash
from alike.extract.networks import (
    RUN_RECORD,
    RUN_WEIGHTS,
    Network,
    load_network,
    safe_name,
)
from alike.extract.replacing import check_target
from alike.train.losses import loss_named
from alike.train.run_log import CHECKPOINT, write_aside, write_json
from alike.train.settings import TrainSettings
from alike.train.trained_images import TRAIN_IMAGES, LabelledImage
from alike.train.trained_images import trained_images as trained_images

WEIGHTS = RUN_WEIGHTS
RUN = RUN_RECORD
FILES = (WEIGHTS, TRAIN_IMAGES, "log.csv", "steps.csv")
"""What a finished run holds beside `run.json`."""


@dataclass(frozen=True, repr=False)
class TrainRun(Displayed):
    """A finished retraining.

    Attributes:
        weights: safetensors file; `load_network(name, weights=...)` reads it.
        weights_hash: of the network that this file gives.
        log: one row an epoch: losses, weight of the consistency term, accuracy, probe, seconds.
        steps: one row a step: losses, weight, accuracy of the batch, cosine between classes.
        decisions: what was decided on the way, each a sentence.
        train_ids_hash: SHA-256 of the sorted ids and labels of the images trained on.
        class_names: in the order of the logits.
        seconds: of the call that trained, without importing libraries.
    """

    weights: Path
    weights_hash: str
    log: pd.DataFrame
    steps: pd.DataFrame
    decisions: list[str]
    train_ids_hash: str
    class_names: tuple[str, ...]
    seconds: float

    def _summary(self) -> Summary:
        facts: dict[str, object] = {"epochs": len(self.log), "classes": len(self.class_names)}
        if len(self.log):
            last = self.log.iloc[-1]
            facts |= {name: float(last[name]) for name in ("loss", "accuracy") if name in last}
        facts |= {"seconds": float(self.seconds), "weights": str(self.weights)}
        return Summary("retrained network", facts, self.decisions, {"epochs": self.log})


def fingerprint_of(network: Network, settings: TrainSettings, snapshot: str, devices: int) -> str:
    """SHA-256 of everything that decides a run."""
    decides = {
        # Not the place of a network's file: its text is in the hash, and a folder may be moved.
        "network": safe_name(network.name),
        "weights_hash": network.weights_hash,
        "transform": network.transform.to_dict(),
        "settings": _deciding(settings),
        "images": snapshot,
        "devices": devices,
    }
    if devices > 1:
        # Before 0.2 each process had batches of its own.
        decides["batch"] = "shared by all processes"
    if network.modules_hash:
        decides["modules"] = network.modules_hash
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _deciding(settings: TrainSettings) -> dict[str, Any]:
    """As before there were averages, where there is none: finished runs stay finished.

    The fixed head of 0.1.0 was another one, so runs with it are not those of today.
    """
    decides = settings.to_dict()
    if settings.average == "none":
        del decides["average"]
    if loss_named(settings.loss).head == "etf":
        decides["head"] = "simplex 2"
    return decides


def write_run(run: TrainRun, fingerprint: str, provenance: dict[str, object]) -> None:
    """Write ``run.json``, the last file of a run: a run is finished if it is there."""
    document: dict[str, object] = {
        "files": {name: file_hash(run.weights.parent / name) for name in FILES},
        "fingerprint": fingerprint,
        "weights_hash": run.weights_hash,
        "train_ids_hash": run.train_ids_hash,
        "class_names": list(run.class_names),
        "decisions": run.decisions,
        "seconds": run.seconds,
        **provenance,
    }
    write_json(run.weights.parent / RUN, seal(document))


def run_in(out: Path) -> TrainRun:
    """The run that another process finished in this folder.

    Raises:
        StoreDamaged: there is none, or it is damaged.
    """
    run = _read_run(out, None)
    if run is None:
        raise damaged(str(out / RUN), "no finished run", "train again")
    return run


def finished_run(out: Path, fingerprint: str) -> TrainRun | None:
    """The run in this folder if it is finished and was made from the same things."""
    run = _read_run(out, fingerprint)
    if run is not None:
        run.decisions.append("already trained from the same things; not done again")
    return run


def _read_run(out: Path, fingerprint: str | None) -> TrainRun | None:
    """The finished run of a folder; None if there is none, or of another fingerprint."""
    place, way_out = str(out / RUN), "it is trained again"
    try:
        written = read_json_file(out / RUN, dict[str, Any], way_out)
        content = json.dumps(unseal(written, place, way_out))
        document = read_json(content, _Said, place, way_out)
        other = fingerprint is not None and document.fingerprint != fingerprint
        if other or not (out / WEIGHTS).is_file():
            return None
        if any(file_hash(out / name) != held for name, held in document.files.items()):
            return None
        log, steps = pd.read_csv(out / "log.csv"), pd.read_csv(out / "steps.csv")
    # What cannot be read is no finished run: it is trained again.
    except (OSError, StoreDamaged, ValueError):
        return None
    return TrainRun(
        weights=out / WEIGHTS,
        weights_hash=document.weights_hash,
        log=log,
        steps=steps,
        decisions=list(document.decisions),
        train_ids_hash=document.train_ids_hash,
        class_names=document.class_names,
        seconds=document.seconds,
    )


@dataclass(frozen=True)
class _Said:
    """What `run.json` must hold."""

    fingerprint: str
    weights_hash: str
    train_ids_hash: str
    class_names: tuple[str, ...]
    decisions: tuple[str, ...]
    seconds: float
    files: dict[str, str] = field(default_factory=dict)
    """Hashes of the files beside it; version 0.1 kept none."""


def check_out(out: Path, start: str) -> None:
    """Refuse a folder whose files a run would write over although no run of ours wrote them.

    Args:
        out: folder of the run.
        start: weights that the run starts from.

    Raises:
        BadInput: it holds such files, or the weights to start from, or is no folder that can be
            written.
    """
    check_target(out, folder=True)
    if Path(start) == (out / WEIGHTS).resolve():
        raise BadInput(
            f"{out} holds the weights to start from, which the run would write over: name another "
            "folder for the result"
        )
    names = (RUN, *FILES, CHECKPOINT)
    other = next((one for one in names if (out / one).exists() and not (out / one).is_file()), None)
    if other is not None:
        raise BadInput(f"{out / other} is no plain file, a run writes one there: move it away")
    if (out / RUN).is_file() or (out / TRAIN_IMAGES).is_file():
        return
    foreign = next((name for name in (*FILES, CHECKPOINT) if (out / name).exists()), None)
    if foreign is not None:
        raise BadInput(
            f"{out} holds {foreign}, which no retraining wrote: name another folder, or move it "
            "away"
        )


def begin_run(out: Path, *, anew: bool) -> list[str]:
    """Take away what an earlier, different run left half done in the folder.

    What such a run finished stays until the new weights are there: see `replace_run`.

    Args:
        out: folder of the run.
        anew: it does not go on from a checkpoint.

    Returns:
        Sentences on a checkpoint that is not gone on from, and on weights that will be replaced.
    """
    said = []
    if anew:
        if (out / CHECKPOINT).is_file():
            said.append(
                f"{out} held a checkpoint that is damaged, or of other settings, images or another "
                "version: the training began anew"
            )
        for name in (CHECKPOINT, "log.csv", "steps.csv"):
            (out / name).unlink(missing_ok=True)
    if (out / WEIGHTS).is_file():
        said.append(f"{out} held the weights of another run, or unfinished ones: replaced")
    return said


def replace_run(out: Path) -> None:
    """Take away the record of an earlier run, just before its weights are written over."""
    for name in (RUN, WEIGHTS):
        (out / name).unlink(missing_ok=True)


def write_train_images(
    out: Path, images: Sequence[LabelledImage], snapshot: str, earlier: pd.DataFrame
) -> None:
    """Write which images were trained on, by this run and by those that it goes back to.

    Args:
        out: folder of the run.
        images: that this run trains on.
        snapshot: `snapshot_hash` of them.
        earlier: `trained_images` of the weights that it starts from.
    """
    own = pd.DataFrame(
        {
            "image_id": [image.image_id for image in images],
            "path": [image.path for image in images],
            "label": [image.label for image in images],
            "train_ids_hash": snapshot,
        }
    )
    earlier = earlier[earlier["train_ids_hash"] != snapshot]
    table = pd.concat([own, earlier], ignore_index=True) if len(earlier) else own
    write_aside(out / TRAIN_IMAGES, table.to_parquet(index=False))


def loads_back(network: Network, weights: Path) -> str:
    """Hash of the network that a written weights file gives when it is loaded."""
    with torch.random.fork_rng(devices=[]):
        return load_network(network.name, str(weights)).weights_hash
