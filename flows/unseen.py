"""Images that a network was trained on must not judge it: found by what its weights came from."""

from pathlib import Path
from typing import TYPE_CHECKING

from extract.errors import BadInput

if TYPE_CHECKING:
    from extract.store_features import Features


def trained_on(features: "Features", split: str | None = "held_out") -> int:
    """How many images of a split the network of an extraction was trained on, as far as known.

    Known is what `alike retrain` and a run wrote beside weights of theirs.

    Args:
        features: the extraction.
        split: `train`, `held_out` or None for all images.
    """
    from train.run_files import trained_ids

    ids = trained_ids(Path(str(features.attrs["weights"])))
    return int(features.table(split)["image_id"].isin(ids).sum()) if ids else 0


def check_unseen(features: "Features") -> None:
    """Refuse to call images held out that the network was trained on.

    Raises:
        BadInput: some of them were.
    """
    seen = trained_on(features)
    if seen:
        raise BadInput(told(features, seen))


def told(features: "Features", seen: int) -> str:
    """What is wrong, and the next action."""
    share = features.store.split()[0]
    return (
        f"{seen} of {len(features.table('held_out'))} held-out images of {features.key} were "
        f"trained on by {features.attrs['weights']}, and would flatter it: the store's train "
        f"share is {share:g}; extract with the one of that training (--train-share 0.5 unless "
        "it was given; in pipeline.toml [images] train_share)"
    )
