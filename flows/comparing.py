"""Every network of a store against every other, as the command line and `rank_networks` ask."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from alike.analysis.blocks import Jobs
    from alike.analysis.people import HumanAnswers
    from alike.analysis.ranking import Ranking
    from alike.analysis.similarity import NetworkPairs
    from alike.extract.store import Store


def compare_all(
    store: "Store",
    *,
    measure: str,
    split: str,
    where: str | None = None,
    seed: int = 0,
    human: "HumanAnswers | None" = None,
    jobs: "Jobs",
    keys: Sequence[str] | None = None,
    progress: Progress = silent,
) -> "tuple[Ranking, NetworkPairs]":
    """Rank the networks and compare every two; both are kept in the store for the report.

    Args:
        store: with the extractions.
        measure: a key of `MEASURES`, of all.
        split: which images.
        where: only images with these values, such as `subset=val`.
        seed: of what is drawn.
        human: what people said about the images, by rows of the store; None: nothing is known.
        jobs: where blocks run.
        keys: of the extractions; None: all of the store.
        progress: told after every few blocks.

    Raises:
        BadInput: fewer than two networks that can be measured, or no images in common.
    """
    from alike.analysis.ranking import PLACE, rank_networks
    from alike.analysis.similarity import network_pairs

    store.require_writable(PLACE)
    networks = [store.features(key).only(where) for key in keys or store.groups()]
    ranking = rank_networks(
        networks, split=split, measure=measure, seed=seed, human=human, jobs=jobs,
        progress=progress,
    )  # fmt: skip
    pairs = network_pairs(
        networks, split=split, measure=measure, seed=seed, jobs=jobs, progress=progress
    )
    ranking.save(store)
    pairs.save(store)
    return ranking, pairs
