"""Which images make up each training batch: a pure function of seed, epoch and batch number.

PML's MPerClassSampler is not used: it draws from global state (no exact resume), repeats images of
small classes within a batch, and an epoch has its own length of 100,000 unless set otherwise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from alike.train.whole_batch import part_of


@dataclass(frozen=True)
class PlannedBatch:
    """One batch before its images are read.

    Attributes:
        rows: positions in the list of training images.
        seed: of the augmentation of this batch.
        share: (rank, world) of this process.
    """

    rows: tuple[int, ...]
    seed: int
    share: tuple[int, int] = (0, 1)

    @property
    def part(self) -> slice:
        """Which of the rows this process has."""
        return part_of(len(self.rows), *self.share)


class PlannedBatches(Sampler[PlannedBatch]):
    """Batches of P classes with K images each, or plain random batches.

    Every class appears equally often; an image comes back only after all others of its class. With
    several processes each has its part of every batch (`alike.train.whole_batch`).

    Args:
        labels: (N,) class index of each image.
        batch_size: images a batch, about P·K.
        per_class: K, at least 2 if a class has 2; raised if all classes fit into a batch.
        balanced: False for random batches of the whole list.
        seed: of the plan.
        share: (rank, world) of this process.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        *,
        per_class: int = 4,
        balanced: bool = True,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.labels = np.asarray(labels)
        self.members = [np.flatnonzero(self.labels == one) for one in np.unique(self.labels)]
        self.classes_a_batch = min(len(self.members), max(2, batch_size // max(per_class, 1)))
        self.per_class = max(1, batch_size // self.classes_a_batch)
        self.batch_size = min(batch_size, len(self.labels))
        self.balanced = balanced
        self.seed = seed
        self.share = share
        self.epoch = 0

    @property
    def all_classes(self) -> bool:
        """Whether every batch holds every class, so that its statistics are those of the set."""
        return not self.balanced or self.classes_a_batch == len(self.members)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration plans; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of one epoch: as many as show about N images."""
        return max(1, round(len(self.labels) / self.batch_size))

    def __iter__(self) -> Iterator[PlannedBatch]:
        """Plan the epoch."""
        total = len(self)
        draw = np.random.default_rng([self.seed, self.epoch])
        plan = self._balanced(draw, total) if self.balanced else self._random(draw, total)
        for number, rows in enumerate(plan):
            seed = np.random.SeedSequence([self.seed, self.epoch, number]).generate_state(1)
            yield PlannedBatch(tuple(int(row) for row in rows), int(seed[0]), self.share)

    def _random(self, draw: np.random.Generator, total: int) -> Iterator[np.ndarray]:
        queue = _Queue(np.arange(len(self.labels)), draw)
        for _ in range(total):
            yield queue.take(self.batch_size)

    def _balanced(self, draw: np.random.Generator, total: int) -> Iterator[np.ndarray]:
        classes = _Queue(np.arange(len(self.members)), draw)
        queues = [_Queue(rows, draw) for rows in self.members]
        for _ in range(total):
            numbers = classes.take(self.classes_a_batch)
            yield np.concatenate([queues[number].take(self.per_class) for number in numbers])


class _Queue:
    """Members in a random order, shuffled anew whenever all were taken."""

    def __init__(self, members: np.ndarray, draw: np.random.Generator) -> None:
        self.members = members
        self.draw = draw
        self.waiting = draw.permutation(members)

    def take(self, count: int) -> np.ndarray:
        """Up to `count` different members; fewer only when there are not so many."""
        count = min(count, len(self.members))
        members, self.waiting = self.waiting[:count], self.waiting[count:]
        if len(members) < count:
            # The rest comes from the next order, without those that this batch has already.
            order = self.draw.permutation(self.members)
            rest = order[~np.isin(order, members)][: count - len(members)]
            self.waiting = order[~np.isin(order, rest)]
            members = np.concatenate((members, rest))
        return members
