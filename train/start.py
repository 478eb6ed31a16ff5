"""What a run starts from."""

from dataclasses import dataclass

from alike.extract.networks import Tap
from alike.train.head import Head


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        head: the classifier, after any replacement.
        taps: ``last_conv`` (absent if the network has no map), ``logits``, and ``fc`` if the
            loss reads it.
        linear: logits are a linear function of the mean of ``last_conv``: CAM applies.
        trained: the weights were not random.
        fresh_head: the head has new weights.
        fixed_head: the head does not learn.
    """

    head: Head
    taps: dict[str, Tap]
    linear: bool
    trained: bool
    fresh_head: bool
    fixed_head: bool
