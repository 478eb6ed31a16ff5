"""One training step: forward, cross-entropy, consistency, and what is watched meanwhile."""

import math
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from alike.extract.measures.gradients import unit
from alike.extract.networks import TappedNetwork
from alike.train.average import WeightAverage
from alike.train.batches import PlannedBatches
from alike.train.collapse import CollapseWatch
from alike.train.images import Frames
from alike.train.losses import Loss
from alike.train.map_losses import StepView
from alike.train.masks import cam_mask, grad_cam_mask
from alike.train.optimiser import frozen_steps, make_optimiser
from alike.train.schedule import ramp
from alike.train.settings import TrainSettings
from alike.train.similarity import same_class
from alike.train.start import Start
from alike.train.whole_batch import (
    batch_norms,
    gathered,
    own_statistics,
    part_of,
    share_statistics,
    summed,
    world_size,
)

WATCH_EVERY = 10


class ConsistencyStep(LightningModule):
    """Cross-entropy + λ(t) · consistency for a network, as Lightning's Trainer runs it.

    All chance in a step (dropout, stochastic depth) comes from a seed made of the run's seed, the
    step and the process, so that a run that was killed goes on exactly as it would have. Several
    processes share each batch, and the loss of each is that of the whole batch.
    """

    def __init__(
        self, net: nn.Module, loss: Loss, settings: TrainSettings, start: Start, frames: Frames
    ) -> None:
        super().__init__()
        self.net = net
        self.row = loss
        self.settings = settings
        self.start = start
        self.frames = frames
        channels = start.taps["last_conv"].shape[0] if "last_conv" in start.taps else 0
        self.consistency = loss.make(start.head.classes, channels) if loss.make else None
        self.tapped = TappedNetwork(net, list(start.taps.values()))
        self.watch = CollapseWatch(patience=settings.collapse_steps)
        kind = settings.average
        self.average = None if kind == "none" else WeightAverage(net, kind)
        self.batches: PlannedBatches | None = None
        self.total_steps = 1
        self.frozen = 0
        self.held = False
        self.seen: list[tuple[int, Tensor]] = []
        self.steps: list[list[float]] = []

    def setup(self, stage: str) -> None:
        """Plan the batches of this process."""
        self.batches = PlannedBatches(
            self.frames.targets.tolist(),
            self.settings.images_a_step(len(self.frames)),
            per_class=self.settings.per_class,
            balanced=self.settings.balanced,
            seed=self.settings.seed,
            share=(self.trainer.global_rank, self.trainer.world_size),
        )
        if self.trainer.world_size > 1:
            share_statistics(self.net)
        self.total_steps = self.settings.epochs * len(self.batches)
        self.frozen = frozen_steps(self.start, self.settings, self.total_steps)

    def teardown(self, stage: str) -> None:
        """Give the network back as it was: what follows is done by one process."""
        own_statistics(self.net)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Planned batches, each made by the images themselves in one call."""
        return DataLoader(self.frames, sampler=self.batches, batch_size=None)

    def on_train_epoch_start(self) -> None:
        """Training mode, which Lightning (2.2 and later) leaves to whoever owns the network."""
        self.net.train()
        self.held = False

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed what chance the step has."""
        key = [self.settings.seed, self.global_step, self.trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        self._hold_statistics(self.global_step < self.frozen)

    def _hold_statistics(self, hold: bool) -> None:
        """Leave the statistics of a body's BatchNorms alone while its weights are frozen."""
        if hold == self.held:
            return
        self.held = hold
        for layer in batch_norms(self.net):
            layer.train(not hold)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch: frames (b, 3, h, w) uint8 of this process, class indices (B,)."""
        frames, labels = batch
        inputs = self.frames.transform.normalise(frames).contiguous(
            memory_format=torch.channels_last
        )
        plain = self.consistency is None
        outputs = {"logits": self.net(inputs)} if plain else self.tapped(inputs)
        with torch.autocast(self.device.type, enabled=False):
            logits = gathered(outputs["logits"].float(), len(labels))
            entropy = functional.cross_entropy(logits, labels, label_smoothing=self.row.smoothing)
            right = (logits.detach().argmax(1) == labels).float().mean()
            term, weight, cosine = entropy.new_zeros((3,))
            total = entropy
            if self.consistency is not None:
                term, weight, cosine = self._consistency(entropy, outputs, labels)
                total = entropy + weight * term
        row = torch.stack((total, entropy, term, weight, right, cosine)).detach()
        self.seen.append((len(labels), row))
        return total

    def _consistency(
        self, entropy: Tensor, outputs: dict[str, Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The consistency term, its weight λ now, and the mean cosine between classes."""
        assert self.consistency is not None
        maps, size = outputs["last_conv"], len(labels)
        mine = labels[part_of(size, self.trainer.global_rank, self.trainer.world_size)]
        own = {name: value.float() for name, value in outputs.items()}
        floats = {name: gathered(value, size) for name, value in own.items()}
        wide = floats["last_conv"]

        def mask() -> Tensor:
            if self.start.linear:
                return cam_mask(wide, self._head_weight(), labels)
            return gathered(grad_cam_mask(maps, own["logits"], mine), size)

        term = self.consistency(StepView(wide, labels, mask, floats, self._head_weight))
        weight = entropy.new_tensor(self._weight_now())
        if self.row.gradient_share is not None:
            weight = weight * _balance(entropy, term, maps) * self.row.gradient_share
        return term, weight, _cosine_between(wide, labels)

    def _head_weight(self) -> Tensor:
        weight: Tensor = self.net.get_submodule(self.start.head.path).weight  # type: ignore[assignment]
        return weight.detach().float().flatten(1)

    def _weight_now(self) -> float:
        weight = self.row.weight if self.settings.weight is None else self.settings.weight
        rise = ramp(self.global_step, int(self.settings.warmup * self.total_steps))
        return weight * self.watch.factor * rise

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Average, and look for collapse every few steps: reading off a GPU makes it wait."""
        if self.average is not None:
            self.average.see(self.net, self.global_step, self.total_steps)
        if len(self.seen) >= WATCH_EVERY:
            self.look()
        if self.watch.stopped:
            self.trainer.should_stop = True

    def look(self) -> None:
        """Move the values of the last steps into `steps` and show them to the watch."""
        if not self.seen:
            return
        first = self.global_step - len(self.seen)
        values = torch.stack([row for _, row in self.seen])
        if self.trainer.world_size > 1:
            # They are the same but for rounding: all must take the same decisions.
            values = torch.as_tensor(self.trainer.strategy.broadcast(values))
        rows = values.tolist()
        for number, ((size, _), row) in enumerate(zip(self.seen, rows, strict=True)):
            self.steps.append([first + number, *row])
            # The total must be a number, with a consistency term or without.
            value = row[2] if self.consistency is not None and math.isfinite(row[0]) else row[0]
            signature = self.row.collapsed(size) if self.row.collapsed else None
            self.watch.see(first + number, value, signature, row[5])
        self.seen.clear()

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, as `alike.train.optimiser` makes them."""
        optimiser, schedule = make_optimiser(self.net, self.start, self.settings, self.total_steps)
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what Lightning does not know of."""
        self.look()
        checkpoint["alike"] = {"watch": self.watch.state(), "steps": self.steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self.watch.restore(checkpoint["alike"]["watch"])
        self.steps = checkpoint["alike"]["steps"]


def _balance(entropy: Tensor, term: Tensor, maps: Tensor) -> Tensor:
    """|d entropy/d maps| / |d term/d maps|; 0 if the term has no gradient."""
    (of_entropy,) = torch.autograd.grad(entropy, maps, retain_graph=True)
    (of_term,) = torch.autograd.grad(term, maps, retain_graph=True)
    size, other = (_norm(one) for one in (of_term, of_entropy))
    return torch.where(size > 0, other / size.clamp_min(1e-30), 0.0)


@torch.no_grad()
def _norm(part: Tensor) -> Tensor:
    """Length of a gradient of which every process has a part."""
    # torch's own of a whole one, so that one process gives what it gave before.
    wide = part.float()
    return wide.norm() if world_size() == 1 else summed(wide.square().sum()).sqrt()


@torch.no_grad()
def _cosine_between(maps: Tensor, labels: Tensor) -> Tensor:
    features = unit(maps.mean((2, 3)))
    _, different = same_class(labels)
    count = different.sum().clamp_min(1)
    return (features @ features.T).masked_fill(~different, 0.0).sum() / count
