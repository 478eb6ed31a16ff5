"""The other networks of a settings file, each analysed as a run of it alone would, and compared.

They are extracted in the same pass over the images as the first one, which is the one that is
indexed, retrained and served.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alike.extract.errors import BadInput
from alike.flows import steps
from alike.flows.names import network_labels
from alike.flows.steps import Asked, PipelineRun

if TYPE_CHECKING:
    from alike.extract.networks import Network
    from alike.extract.store import Features

_COMPARISON = "networks"
"""The artefact of the comparison."""


@dataclass(frozen=True)
class Beside:
    """Another network of the run.

    Attributes:
        label: as the run names it.
        network: with the weights of the settings.
        taps: that are stored.
        key: of its features; empty before they are extracted.
        untrained: key of the same architecture with random weights; None: not evaluated.
    """

    label: str
    network: "Network"
    taps: tuple[str, ...]
    key: str = ""
    untrained: str | None = None


def others_of(run: PipelineRun) -> list[Beside]:
    """The second and further networks of the settings, loaded."""
    pipeline = run.pipeline
    labels = network_labels(pipeline.networks)[1:]
    return [
        Beside(label, steps.load_one(one, one.weights), steps.taps_of(pipeline, one))
        for label, one in zip(labels, pipeline.others, strict=True)
    ]


def extract_networks(run: PipelineRun, weights: str, others: Sequence[Beside]) -> tuple[str, ...]:
    """Features of the first network, with these weights, and of all others, in one pass."""
    first = Asked(
        "network",
        steps.load(run.pipeline, weights),
        steps.taps_of(run.pipeline, run.pipeline.network),
    )
    asked = [Asked(one.label, one.network, one.taps) for one in others]
    return steps.extract_together(run, [first, *asked])


def extract_untrained(
    run: PipelineRun, own: "Network", others: Sequence[Beside]
) -> tuple[str, ...]:
    """The same architectures with random weights, in one pass; the keys of their features."""
    settings = run.pipeline.networks
    trained = [own, *(one.network for one in others)]
    names = ["untrained", *(f"untrained {one.label}" for one in others)]
    asked = [
        Asked(name, steps.load_one(one, "none", like), steps.taps_of(run.pipeline, one))
        for name, one, like in zip(names, settings, trained, strict=True)
    ]
    return steps.extract_together(run, asked)


def analyse_beside(run: PipelineRun, one: Beside) -> None:
    """The tables of another network, as a run of it alone would make them."""
    measures, absent = _measurable(run.store().features(one.key), run.pipeline.analyse.measures)
    if absent:
        run.decide([f"{one.label} is not analysed by {', '.join(absent)}: it has no such array"])
    untrained = None if one.untrained == one.key else one.untrained
    steps.evaluate_group(run, one.key, one.label, untrained, measures)


def _measurable(
    features: "Features", measures: tuple[str, ...]
) -> tuple[tuple[str, ...] | None, list[str]]:
    """The measures whose arrays are stored, and the others; None if all are or none is named."""
    from alike.analysis.analyse import HEADLINE
    from alike.extract.measures import SET_MEASURES, measure_named

    def reads(name: str) -> tuple[str, ...]:
        return ("last_conv",) if name in SET_MEASURES else tuple(measure_named(name).taps)

    absent = [name for name in measures if not set(reads(name)) <= set(features.arrays)]
    if not absent:
        return None, []
    return tuple(name for name in measures if name not in absent) or (HEADLINE,), absent


def compare_networks(run: PipelineRun, keys: Sequence[str], measure: str) -> None:
    """Rank networks and compare every two, for the report; kept in the store.

    Args:
        run: the run.
        keys: of the networks, each once.
        measure: by which; the headline's.
    """
    from alike.analysis.analyse import VERSION
    from alike.analysis.ranking import PLACE as RANKING
    from alike.analysis.ranking import VERSION as RANKING_VERSION
    from alike.analysis.similarity import PLACE as PAIRS
    from alike.flows.comparing import compare_all

    store = run.store()
    groups = [store.features(key) for key in keys]
    inputs: dict[str, Any] = {
        "digest": [one.digest for one in groups],
        "images": [steps.set_digest(one) for one in groups],
        "classes": [one.attrs.get("class_names") for one in groups],
        "share": steps.sides_of(store),
        "version": VERSION,
        "ranking_version": RANKING_VERSION,
        "measure": measure,
        "seed": run.pipeline.analyse.seed,
        **steps.human_digest(run),
    }
    files = [run.file(place) for place in (RANKING, PAIRS)]
    if run.reuse(_COMPARISON, inputs, "compare networks", files) is not None:
        return
    with run.timed("compare networks"), run.workers.jobs() as jobs:
        try:
            compare_all(
                store,
                keys=keys,
                measure=measure,
                split="held_out",
                seed=run.pipeline.analyse.seed,
                human=steps.human_answers(run),
                jobs=jobs,
                progress=run.progress,
            )
        except BadInput as error:
            # A network that has no image in common with the others costs the comparison alone.
            run.decide([f"the networks are not compared: {error}"])
            for file in files:
                file.unlink(missing_ok=True)
            return
    run.keep(_COMPARISON, inputs, {"keys": list(keys)}, files)


def forget_comparison(run: PipelineRun) -> None:
    """Delete what a run with other networks compared: a report of one network shows none of it.

    What another command compared since stays.
    """
    for file in run.memo.unchanged(_COMPARISON):
        file.unlink(missing_ok=True)
    run.memo.forget(_COMPARISON)
