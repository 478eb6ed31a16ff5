"""What a store keeps of the past: the policy of [keep], carried out by runs and by `store gc`."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from alike.extract.errors import AlikeError, BadInput
from alike.extract.secrets import masked
from alike.flows.history import History

if TYPE_CHECKING:
    from alike.extract.store import Store
    from alike.flows.sections import Keep
    from alike.flows.steps import PipelineRun

SERVED_AND_COMPARED = "served and compared"


@dataclass(frozen=True)
class Policy:
    """What a store is told to keep, by the last run.

    Attributes:
        removed_days: days for which images that left the set keep their features; None: for ever.
        networks: `all`, or `served and compared`.
        compared: keys of the networks that the run looked at.
    """

    removed_days: float | None = None
    networks: str = "all"
    compared: tuple[str, ...] = ()

    @staticmethod
    def of(store: "Store") -> "Policy":
        """The policy of the last run on a store; to keep all if none set one."""
        stored = store.settings().get("keep", {})
        known = {name: stored[name] for name in asdict(Policy()) if name in stored}
        return Policy(**{**known, "compared": tuple(known.get("compared", ()))})

    def is_of(self, keep: "Keep") -> bool:
        """Whether it is that of settings; which networks are compared is no setting."""
        return (self.removed_days, self.networks) == (keep.removed_days, keep.networks)

    def superseded(self, store: "Store") -> tuple[str, ...]:
        """Keys of the extractions that are deleted.

        Those of the accepted reference stay: an alarm compares with them.

        Raises:
            BadInput: no run has said which networks it compares.
        """
        if self.networks != SERVED_AND_COMPARED:
            return ()
        served = store.settings().get("served")
        if served is None or served not in self.compared:
            raise BadInput(
                f"no run has said which networks of {store.url} it serves and compares: run "
                '`alike run` with [keep] networks = "served and compared" first, or name one by '
                "--drop"
            )
        stay = {served, *self.compared, *_reference(store)}
        return tuple(key for key in store.groups() if key not in stay)


def _reference(store: "Store") -> set[str]:
    history = History(store)
    accepted = history.accepted()
    keys = {one.id: one.network.get("features", "") for one in history.records()}
    return {keys[accepted.run]} if accepted is not None and accepted.run in keys else set()


def purge_images(run: "PipelineRun") -> None:
    """Delete features of images that left the set long ago, before anything is made of features."""
    from alike.extract.store import purge_removed

    days = run.pipeline.keep.removed_days
    done = [] if days is None else purge_removed(run.store(), days)
    if done:
        rows, freed = sum(one.rows for one in done), sum(one.freed for one in done)
        line = (
            f"{rows} features of images that left the set more than {days:g} days ago were "
            f"deleted, {freed / 1e6:.3g} MB"
        )
        run.decide([line])
        run.passing.add(line)


def note_policy(run: "PipelineRun", compared: Collection[str] | None = None) -> Policy:
    """Take down the policy of the settings for `alike store gc`.

    Args:
        run: whose settings.
        compared: keys of the networks that the run looked at; None: those of the run before.
    """
    keep, store = run.pipeline.keep, run.store()
    before = Policy.of(store)
    keys = before.compared if compared is None else tuple(sorted(compared))
    policy = Policy(keep.removed_days, keep.networks, keys)
    if policy != before:
        store.remember_policy(asdict(policy))
    return policy


def drop_networks(run: "PipelineRun", compared: Collection[str]) -> None:
    """Take down the policy for `alike store gc`, and delete the features that it does not keep.

    Args:
        run: that has set the served network.
        compared: keys of the networks that the run looked at.
    """
    from alike.extract.store import collect_garbage

    store, policy = run.store(), note_policy(run, compared)
    try:
        superseded = policy.superseded(store)
        if superseded:
            litter = collect_garbage(store, drop=superseded)
            freed = sum(one.size for one in litter)
            line = (
                f"features of {', '.join(superseded)} were deleted, {freed / 1e6:.3g} MB: [keep] "
                f'networks = "{SERVED_AND_COMPARED}"'
            )
            run.notes.append(line)
            run.passing.add(line)
    except AlikeError as error:
        # A run that did its work does not fail for what it could not tidy up.
        run.notes.append(f"superseded networks were not deleted: {masked(str(error))}")
