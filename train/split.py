"""Which images are trained on, and which are only looked at."""

from collections.abc import Sequence

from alike.extract.errors import BadImage, BadInput
from alike.extract.images import image_id, split_of
from alike.train.images import Frames, Read
from alike.train.probe import PROBE_SIZE
from alike.train.settings import TrainSettings

Images = Sequence[tuple[str, str]]


def sides(
    frames: Frames,
    held_out: Images | None,
    read: Read,
    settings: TrainSettings,
    validation: Images | None = None,
) -> tuple[Frames, Frames, str]:
    """Images to train on, images to look at after each epoch, and what those are.

    Args:
        frames: all images that were given to train on.
        held_out: images that must not be trained on.
        read: path -> bytes.
        settings: where they ask for early stopping and there are no validation images, a part of
            `frames` is kept out for it.
        validation: images by which networks are chosen: looked at instead of `held_out`.

    Raises:
        BadInput: no images, images on both sides, too few for a validation part.
    """
    if not frames.images:
        raise BadInput("no usable training image; check the source and its labels")
    chosen_by = _held_out_frames(frames, validation, read) if validation else None
    if chosen_by is not None and chosen_by.images:
        return frames, chosen_by, "validation"
    unseen = _held_out_frames(frames, held_out, read) if held_out else None
    if settings.patience:
        share = 1.0 - settings.validation
        chosen = [split_of(image.image_id, share, "validation") for image in frames.images]
        kept = [row for row, side in enumerate(chosen) if side == "train"]
        stopping = [row for row, side in enumerate(chosen) if side == "held_out"]
        if not kept or not stopping:
            raise BadInput(
                f"validation {settings.validation}: too few images for early stopping; "
                "set patience to 0 or give more images"
            )
        return frames.subset(kept), frames.subset(stopping), "validation"
    if unseen is not None and unseen.images:
        return frames, unseen, "held out"
    return frames, frames, "train"


def _held_out_frames(frames: Frames, held_out: Images, read: Read) -> Frames:
    trained = {image.image_id for image in frames.images}
    both = [path for path, _ in held_out if _id_of(path, read) in trained]
    if both:
        raise BadInput(
            f"{len(both)} held-out images are among the training images, the first is {both[0]}; "
            "split by content hash, as `alike` does"
        )
    each = max(1, PROBE_SIZE // max(1, len({label for _, label in held_out})))
    seen: dict[str, int] = {}
    some = []
    for path, label in held_out:
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= each:
            some.append((path, label))
    return Frames(some, read, frames.transform)


def _id_of(path: str, read: Read) -> str:
    try:
        return image_id(read(path))
    except BadImage:
        return ""
