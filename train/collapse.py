"""Notices that features collapse into one point, and what is done about it."""

import math
from dataclasses import dataclass, field
from typing import Any

NEAR = 0.01
INTER_COSINE = 0.98


@dataclass
class CollapseWatch:
    """Counts steps that look collapsed; halves λ after `patience` of them, at last stops.

    A step looks collapsed when the consistency term is within 1 % of its value for equal features
    (log(B-1) of a contrast, the margin of a hinge, ln 2 of a soft margin), or when images of
    different classes have a mean cosine above 0.98. An untrained network of ReLUs begins there, so
    both count only if they are less than half as far from it as at the first step.

    Attributes:
        patience: steps in a row until something is done.
        halvings: how often λ is halved before the run stops.
        factor: what λ is multiplied by now.
        count: steps in a row that look collapsed.
        halved: halvings done.
        stopped: why the run must stop, "" while it need not.
        first: how far the first step was from collapse: of the term as a share, and 1 - cosine.
    """

    patience: int = 200
    halvings: int = 3
    factor: float = 1.0
    count: int = 0
    halved: int = 0
    stopped: str = ""
    decisions: list[str] = field(default_factory=list)
    first: tuple[float, float] | None = None

    def see(
        self, step: int, consistency: float, signature: float | None, inter_cosine: float
    ) -> None:
        """Take in one step; may change `factor`, `stopped` and `decisions`."""
        if self.stopped:
            return
        if not math.isfinite(consistency):
            self.stopped = f"step {step}: the loss is {consistency}; stopped"
            self.decisions.append(self.stopped)
            return
        far = _distances(consistency, signature, inter_cosine)
        if self.first is None:
            self.first = far
        nearer = [far[at] < self.first[at] / 2.0 for at in range(2)]
        reason = _reason(consistency, signature, inter_cosine, nearer)
        self.count = self.count + 1 if reason else 0
        if self.count < self.patience:
            return
        self.count = 0
        if self.halved < self.halvings:
            self.halved += 1
            self.factor /= 2.0
            self.decisions.append(
                f"step {step}: collapse for {self.patience} steps ({reason}); "
                f"consistency weight halved to {self.factor:g} of what was asked"
            )
        else:
            self.stopped = (
                f"step {step}: still collapsed ({reason}) after {self.halved} halvings; stopped"
            )
            self.decisions.append(self.stopped)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def restore(self, state: dict[str, Any]) -> None:
        """Set what `state` gave."""
        for name, value in state.items():
            setattr(self, name, value)


def _distances(
    consistency: float, signature: float | None, inter_cosine: float
) -> tuple[float, float]:
    """How far a step is from collapse: of the term, as a share of its signature, and 1 - cosine."""
    off = math.inf if not signature else abs(consistency - signature) / abs(signature)
    return off, 1.0 - inter_cosine


def _reason(
    consistency: float, signature: float | None, inter_cosine: float, nearer: list[bool]
) -> str:
    near = signature is not None and abs(consistency - signature) <= NEAR * abs(signature)
    if near and nearer[0]:
        return f"loss {consistency:.4f} is that of equal features, {signature:.4f}"
    if inter_cosine > INTER_COSINE and nearer[1]:
        return f"cosine between classes is {inter_cosine:.3f}"
    return ""
