"""Which images are trained on, and which are only looked at."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alike.extract.errors import BadImage, BadInput
from alike.extract.images import image_id, split_of
from alike.train.images import Frames, Read
from alike.train.probe import PROBE_SIZE
from alike.train.settings import TrainSettings

Images = Sequence[tuple[str, str | None]]
"""Path and label of images; None for one without a label, which is left out and said."""


@dataclass(frozen=True)
class TrainingSplit:
    """Images by what they are for.

    Attributes:
        training: trained on.
        watched: evaluated after each epoch.
        role: of the watched images: ``validation``, ``held out`` or ``train``.
        notes: which of the images that were to be watched are left out, sentences.
    """

    training: Frames
    watched: Frames
    role: str
    notes: tuple[str, ...] = ()

    def set_classes(self, names: Sequence[str]) -> "TrainingSplit":
        """Number the labels by their place in `names`; watched images of other classes go."""
        self.training.set_classes(names)
        labels = [image.label for image in self.watched.images]
        rows = [row for row, label in enumerate(labels) if label in names]
        watched = self.watched.subset(rows)
        watched.set_classes(names)
        others = sorted(set(labels) - set(names))
        note = (
            f"{len(labels) - len(rows)} of {len(labels)} {self.role} images are not evaluated "
            f"after each epoch: no training image is of their classes, {', '.join(others[:5])}"
        )
        notes = (*self.notes, note) if others else self.notes
        return replace(self, watched=watched, notes=notes)


def labelled(images: Images | None, role: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Images that have a label, and a sentence on those that have none.

    Args:
        images: path and label of each.
        role: of these images, for the sentence.
    """
    given = [(path, label) for path, label in images or () if label is not None]
    missing = len(images or ()) - len(given)
    if not missing:
        return given, []
    return given, [f"{missing} of {len(images or ())} {role} images have no label: left out"]


def split_images(
    frames: Frames,
    held_out: Sequence[tuple[str, str]],
    read: Read,
    settings: TrainSettings,
    validation: Sequence[tuple[str, str]],
) -> TrainingSplit:
    """Which images are trained on, and which are evaluated after each epoch.

    Args:
        frames: all images that were given to train on.
        held_out: images that must not be trained on.
        read: path -> bytes.
        settings: if they ask for early stopping and there are no validation images, a part of
            `frames` is kept out for it.
        validation: images by which networks are chosen: watched instead of `held_out`.

    Raises:
        BadInput: no images, images that are held out and given to train on, too few for a
            validation part.
    """
    if not frames.images:
        raise BadInput("no usable training image; check the source and its labels")
    chosen_by = _held_out_frames(frames, validation, read) if validation else None
    if chosen_by is not None and chosen_by.images:
        return TrainingSplit(frames, chosen_by, "validation", _left_out(chosen_by))
    held_out_frames = _held_out_frames(frames, held_out, read) if held_out else None
    if settings.patience:
        share = 1.0 - settings.validation
        parts = [split_of(image.image_id, share, "validation") for image in frames.images]
        training = [row for row, part in enumerate(parts) if part == "train"]
        stopping = [row for row, part in enumerate(parts) if part == "held_out"]
        if not training or not stopping:
            raise BadInput(
                f"validation {settings.validation}: too few images for early stopping; "
                "set patience to 0 or give more images"
            )
        return TrainingSplit(frames.subset(training), frames.subset(stopping), "validation")
    if held_out_frames is not None and held_out_frames.images:
        return TrainingSplit(frames, held_out_frames, "held out", _left_out(held_out_frames))
    return TrainingSplit(frames, frames, "train")


def _left_out(watched: Frames) -> tuple[str, ...]:
    return tuple(f"left out {path}: {reason}" for path, reason in watched.bad)


def _held_out_frames(frames: Frames, held_out: Sequence[tuple[str, str]], read: Read) -> Frames:
    trained = {image.image_id for image in frames.images}
    both = [path for path, _ in held_out if _id_of(path, read) in trained]
    if both:
        raise BadInput(
            f"{len(both)} held-out images are among the training images, the first is {both[0]}; "
            "split by content hash, as `alike` does"
        )
    # More than the probe takes would be decoded for nothing.
    most = max(1, PROBE_SIZE // max(1, len({label for _, label in held_out})))
    counts: Counter[str] = Counter()
    some = []
    for path, label in held_out:
        counts[label] += 1
        if counts[label] <= most:
            some.append((path, label))
    return Frames(some, read, frames.transform)


def _id_of(path: str, read: Read) -> str:
    try:
        return image_id(read(path))
    except BadImage:
        return ""
