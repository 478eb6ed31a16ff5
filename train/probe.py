"""A quick look at a network during training: accuracy and sameness of a few hundred images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from alike.extract.networks import Tap, TappedNetwork
from alike.train.images import Frames

PROBE_SIZE = 200
PROBE_BATCH = 100


@dataclass(frozen=True)
class Probe:
    """Some images looked at after every epoch; no decision about weights depends on them.

    Attributes:
        frames: the images.
        rows: which of them.
        role: ``held_out``, ``validation`` or ``train``.
    """

    frames: Frames
    rows: tuple[int, ...]
    role: str

    @classmethod
    def of(cls, frames: Frames, role: str, size: int = PROBE_SIZE) -> "Probe":
        """About `size` images, evenly over the classes."""
        # The first of each class in a random order, then the second: a prefix of that is balanced.
        draw = np.random.default_rng(0)
        targets = frames.targets.numpy()
        order = draw.permutation(len(targets))
        ranks = np.empty(len(targets), dtype=np.int64)
        for one in np.unique(targets):
            members = order[targets[order] == one]
            ranks[members] = np.arange(len(members))
        rows = np.lexsort((order, ranks))[:size]
        return cls(frames, tuple(int(row) for row in np.sort(rows)), role)


def look(net: nn.Module, taps: dict[str, Tap], probe: Probe) -> dict[str, float]:
    """Evaluate a network on a probe, in eval mode, without gradient; its mode is put back.

    Returns:
        accuracy in [0, 1]; sameness = 2·AUC - 1 of the cosine of pooled maps over all pairs of the
        probe, every class weighing the same, in [-1, 1]; intra and inter: mean cosine of pairs of
        one class and of two.
    """
    device = next(net.parameters()).device
    training = net.training
    net.eval()
    network = TappedNetwork(net, list(taps.values()))
    logits, features = [], []
    with torch.no_grad():
        for first in range(0, len(probe.rows), PROBE_BATCH):
            frames = probe.frames.stack(probe.rows[first : first + PROBE_BATCH]).to(device)
            captured = network(probe.frames.transform.normalise(frames))
            logits.append(captured["logits"].float().cpu())
            if "last_conv" in captured:
                features.append(captured["last_conv"].float().mean((2, 3)).cpu())
    net.train(training)
    labels = probe.frames.targets[list(probe.rows)]
    right = torch.cat(logits).argmax(1) == labels
    scores = {"accuracy": float(right.float().mean())}
    if features:
        scores |= _pairs(torch.cat(features).numpy(), labels.numpy())
    return scores


def _pairs(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    units = (features / np.maximum(norms, 1e-12)).astype(np.float64)
    first, second = np.triu_indices(len(labels), 1)
    cosines = (units @ units.T)[first, second]
    same = labels[first] == labels[second]
    alike, other = cosines[same], cosines[~same]
    if not len(alike) or not len(other):
        return {}
    sizes = np.unique(labels, return_inverse=True, return_counts=True)
    n = sizes[2][sizes[1]].astype(np.float64)
    weights = 1.0 / (n[first] * np.where(same, n[first] - 1.0, n[second]))
    order = np.argsort(other, kind="stable")
    grown = np.append(0.0, np.cumsum(weights[~same][order]))
    at = [np.searchsorted(other[order], alike, side) for side in ("left", "right")]
    below = (grown[at[0]] + grown[at[1]]) / (2.0 * grown[-1])
    area = float(np.average(below, weights=weights[same]))
    return {
        "sameness": 2.0 * area - 1.0,
        "intra": float(alike.mean()),
        "inter": float(other.mean()),
    }
