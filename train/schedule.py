"""How the learning rate and the weight of the consistency term change over a run."""

import math


def ramp(step: int, warmup_steps: int) -> float:
    """λ(t)/λ_max = exp(-5 (1 - min(1, t/T_w))²): 0.007 at the start, 1 from T_w on.

    The Gaussian ramp of Laine and Aila 2017; features must have formed before they are pulled.
    """
    if warmup_steps <= 0:
        return 1.0
    left = 1.0 - min(1.0, step / warmup_steps)
    return math.exp(-5.0 * left * left)


def rate(step: int, total: int, warmup_steps: int, frozen_steps: int = 0) -> float:
    """Learning rate as a share of its peak: linear rise, then half a cosine down to 1 %.

    Args:
        step: optimiser step, from 0.
        total: steps of the run.
        warmup_steps: length of the rise.
        frozen_steps: steps at the start with rate 0 (the body while a new head learns).
    """
    if step < frozen_steps:
        return 0.0
    since, span = step - frozen_steps, max(1, total - frozen_steps)
    if since < warmup_steps:
        return (since + 1) / warmup_steps
    part = (since - warmup_steps) / max(1, span - warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, part)))
