"""Images that a network was trained on must not evaluate it: read from beside its weights."""

from typing import TYPE_CHECKING

from alike.extract.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from alike.extract.store import Features


def keep_trained(features: "Features") -> None:
    """Keep in the store which images the network of an extraction was trained on.

    From then on the store proves by itself that what is held out was never trained on, whatever
    becomes of the folder that the weights lie in. Weights that no run of ours wrote, or without
    their list, leave the store as it is.
    """
    from alike.train.trained_images import trained_images

    try:
        images = trained_images(str(features.attrs["weights"]))
    except BadInput:
        return
    if len(images):
        features.store.write_table(_place(features), images)
        features.store.mark_trained(images["image_id"])


def trained_on(features: "Features", split: str | None = "held_out") -> int:
    """How many images of a split the network of an extraction was trained on, as far as known.

    Known is what `keep_trained` kept, else what `alike retrain` and a run wrote beside weights of
    theirs.

    Args:
        features: the extraction.
        split: `train`, `held_out` or None for all images.

    Raises:
        BadInput: it is not known, for weights of theirs that stand alone without that list, or
            that are gone.
    """
    ids = set(_trained(features)["image_id"])
    return int(features.table(split)["image_id"].isin(ids).sum()) if ids else 0


def _trained(features: "Features") -> "pd.DataFrame":
    from alike.train.trained_images import trained_images

    try:
        return features.store.read_table(_place(features))[0]
    except FileNotFoundError:
        return trained_images(str(features.attrs["weights"]))


def _place(features: "Features") -> str:
    return f"tables/{features.key}/trained_images.parquet"


def check_held_out(features: "Features", split: str = "held_out") -> list[str]:
    """Refuse to call images held out, or for validation, that the network was trained on.

    Returns:
        Notes: weights that were taken away from the list of their images are evaluated all the
        same, since the images may well be others.

    Raises:
        BadInput: some of them were.
    """
    try:
        seen = trained_on(features, split)
    except BadInput as error:
        return [str(error)]
    if seen:
        raise BadInput(_refusal(features, seen, split))
    return []


def held_out_notes(features: "Features") -> list[str]:
    """The same as notes, for a step that evaluates nothing."""
    try:
        return check_held_out(features)
    except BadInput as error:
        return [str(error)]


def _refusal(features: "Features", seen: int, split: str) -> str:
    share = features.store.split().train_share
    side = split.replace("_", "-")
    return (
        f"{seen} of {len(features.table(split))} {side} images of {features.key} were "
        f"trained on by {features.attrs['weights']}, and would flatter it: the store's train "
        f"share is {share:g}; extract with the one of that training (--train-share 0.5 unless "
        "it was given; in pipeline.toml [images] train_share)"
    )
