"""Which relevance rule serves which layer."""

from dataclasses import dataclass

from torch import Tensor

from alike.analysis.explain.lrp.rules import Rule

Limits = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Composite:
    """Which rule serves which layer; rules by name, or given as a Rule.

    Attributes:
        name: its name.
        pixels: rule of the layers that see the network's input.
        convolution: rule of the other convolutions, and of linear layers applied to each position.
        dense: rule of linear layers that see one vector an image.
        sums: `same_sign` (a sum above zero is owed to its positive terms, below zero to its
            negative ones: conserves and never explodes) or `signed` (in proportion to the terms).
        meaning: one line.
    """

    name: str
    pixels: str | Rule
    convolution: str | Rule
    dense: str | Rule
    sums: str
    meaning: str
