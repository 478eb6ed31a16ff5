"""The vectors of a measure in a training step: a loss trains what is measured afterwards.

Their gradients are those of `alike.extract.measures.gradients`.
"""

from torch import Tensor

from alike.extract.errors import BadInput
from alike.extract.measures import MEASURES, Measure
from alike.extract.measures.gradients import has_gradient, vectors_with_gradient
from alike.train.map_losses import StepView
from alike.train.vector_losses import Vectors


def vectors_of(name: str) -> Vectors:
    """The vectors (B, D) of a measure in a training step.

    Args:
        name: a key of `MEASURES`.

    Raises:
        BadInput: an unknown measure, or one that cannot be trained, with the reason.
    """
    if name not in MEASURES:
        raise BadInput(f"measure {name!r} is not known; choose one of {', '.join(trainable())}")
    measure = MEASURES[name]
    reason = _hindrance(measure)
    if reason:
        names = ", ".join(trainable())
        raise BadInput(f"measure {name} cannot be trained: {reason}; choose one of {names}")

    def vectors(view: StepView) -> Tensor:
        return vectors_with_gradient(measure, view.taps(measure.taps), view.classifier)

    return vectors


def trainable() -> list[str]:
    """Names of the measures that have vectors with gradient."""
    return [name for name, measure in MEASURES.items() if not _hindrance(measure)]


def _hindrance(measure: Measure) -> str:
    if measure.taps == ("pixels",):
        return "it does not look at the network"
    if measure.form == "euclidean":
        return "its distance has no bound, and training would shrink or blow up the features"
    if any(step.fit for step in measure.chain):
        return "it is fitted on features that training changes"
    if not has_gradient(measure):
        return "one of its steps (ranks) has no gradient"
    return ""
