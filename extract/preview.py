"""What a run would take images and a network for: a listing, some images, one batch."""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import pandas as pd
import torch

from alike.extract.class_names import match_classes
from alike.extract.errors import BadImage, BadInput
from alike.extract.forward import REPEATED, Forward, array_names
from alike.extract.images import ImageSource, decode, image_format, notes_of
from alike.extract.networks import Network, find_taps
from alike.extract.notes import flat_notes, set_notes, unturned_notes
from alike.extract.selfcheck import GOOD_ENOUGH, preprocessing_warning

MOST = 200
"""Names that are listed of a kind; more are counted."""
TAPS = ("last_conv", "fc", "logits")
LOOK_SECONDS, BATCH_SECONDS = 12.0, 15.0
"""Time after which no further image is read, and that one batch may take: the whole is to end in a
minute, whatever the images and the network are."""
FOR_PREPROCESSING = 60
"""Images in `BATCH_SECONDS` from which on other preprocessings are tried, which costs 96 images."""
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Preview:
    """What a set of images is taken for.

    Attributes:
        source: the set.
        images: that it lists.
        classes: name to number of images, the largest first.
        unlabelled: images without a class.
        subsets: name to number of images.
        looked_at: images that were read and decoded, spread evenly over the listing; fewer than
            asked for if they take long.
        formats: to number of those.
        sizes: ``height x width`` to number of those, the most frequent first.
        turned: images that EXIF or XMP turns.
        bad: path, state and reason of images that cannot be used.
        notes: what was left out, and every guess.
    """

    source: str
    images: int
    classes: dict[str, int]
    unlabelled: int
    subsets: dict[str, int]
    looked_at: int
    formats: dict[str, int]
    sizes: dict[str, int]
    turned: int
    bad: list[dict[str, str]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class NetworkPreview:
    """What a network is taken for.

    Attributes:
        name: of the network.
        weights: first digits of the hash of its weights.
        input: (height, width) of its frames.
        outputs: number of logits; None if the weights hold no classifier.
        taps: name to the shape of one row.
        top1: share of the looked at images that are classified correctly; None if their classes
            are not those of the network.
        classified: images that it was computed from.
        seconds: of the batch.
        notes: what of the weights was taken and left, taps of an unusual kind, features that tell
            nothing apart, a preprocessing that looks wrong, and what will be refused.
    """

    name: str
    weights: str
    input: tuple[int, int]
    outputs: int | None
    taps: dict[str, tuple[int, ...]]
    top1: float | None
    classified: int
    seconds: float
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def preview(source: ImageSource, n_images: int = 32) -> Preview:
    """List a set and look at some of its images; nothing is hashed or stored.

    Args:
        source: the images.
        n_images: to read and decode.

    Raises:
        BadInput: the set lists no image.
    """
    classes: Counter[str | None] = Counter()
    subsets: Counter[str] = Counter()
    total = 0
    for one in source:
        total += 1
        classes[one.label] += 1
        subsets.update([one.subset] if one.subset else [])
    if not total:
        rest = "".join(f" ({note})" for note in notes_of(source))
        raise BadInput(
            f"no images in {source.spec}: files with an image's suffix are expected{rest}"
        )
    unlabelled = classes.pop(None, 0)
    formats: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    turned, unknown, bad = 0, 0, []
    chosen = spread(source, total, n_images)
    looked = _look(chosen, lambda path: _facts(source.read(path)))
    for path, _, facts in looked:
        if isinstance(facts, BadImage):
            bad.append({"path": path, "state": facts.state, "reason": facts.reason})
            continue
        kind, orientation, size = facts
        formats[kind] += 1
        turned += orientation in range(2, 9)
        unknown += orientation not in range(1, 9)
        sizes[size] += 1
    return Preview(
        source=source.spec,
        images=total,
        classes={str(name): count for name, count in classes.most_common(MOST)},
        unlabelled=unlabelled,
        subsets=dict(subsets.most_common(MOST)),
        looked_at=len(looked),
        formats=dict(formats.most_common()),
        sizes=dict(sizes.most_common(MOST)),
        turned=turned,
        bad=bad,
        notes=[
            *set_notes(len(classes), unlabelled, total),
            *_slow_notes(len(looked), len(chosen)),
            *unturned_notes(unknown, "looked at"),
            *notes_of(source),
        ],
    )


def _facts(data: bytes) -> tuple[str, int, str]:
    """(format, orientation, ``height x width``) of an image that decodes."""
    pixels = decode(data)
    return *image_format(data), f"{pixels.shape[1]}x{pixels.shape[2]}"


def _look(
    chosen: Sequence[tuple[str, str | None]], read: Callable[[str], Seen]
) -> list[tuple[str, str | None, Seen | BadImage]]:
    """What images show, as listed; after `LOOK_SECONDS` only of some, spread over the listing.

    Args:
        chosen: path and label.
        read: gives what a path shows, or raises `BadImage`.
    """
    seen: dict[int, Seen | BadImage] = {}
    start = time.monotonic()
    for at in random.Random(0).sample(range(len(chosen)), len(chosen)):
        try:
            seen[at] = read(chosen[at][0])
        except BadImage as error:
            seen[at] = error
        if time.monotonic() - start > LOOK_SECONDS:
            break
    return [(*chosen[at], seen[at]) for at in sorted(seen)]


def _slow_notes(n_done: int, n_asked: int) -> list[str]:
    if n_done == n_asked:
        return []
    return [f"images take long to read: {n_done} of {n_asked} were looked at"]


def spread(source: ImageSource, total: int, count: int) -> list[tuple[str, str | None]]:
    """(path, label) of some images, spread evenly over the listing of `total`."""
    count = min(count, total)
    wanted = {round(at * (total - 1) / max(count - 1, 1)) for at in range(count)}
    return [(one.path, one.label) for at, one in enumerate(source) if at in wanted]


def preview_network(source: ImageSource, network: Network, n_images: int = 32) -> NetworkPreview:
    """Run one batch of a set through a network, in float32 on the CPU.

    Args:
        source: the images.
        network: from `load_network`.
        n_images: of the batch.

    Raises:
        BadInput: no image can be decoded, the network does not take such an input, or it gives
            other features each time.
    """
    listed = list(source)
    chosen = spread(source, len(listed), n_images)
    frames, labels = _frames(source, network, chosen)
    size = (int(frames[0].shape[1]), int(frames[0].shape[2]))
    fitting = [at for at, frame in enumerate(frames) if tuple(frame.shape[1:]) == size]
    notes = []
    if len(fitting) < len(frames):
        side = network.transform.resize if isinstance(network.transform.resize, int) else min(size)
        notes.append(
            f"{len(frames) - len(fitting)} of {len(frames)} images are not {size[0]}x{size[1]} as "
            f"the first is: give --resize {side}x{side} (squeezed), or --resize {side} --crop "
            f"{side} (the middle)"
        )
    start = time.perf_counter()
    taps = find_taps(network.module, torch.zeros(1, 3, *size))
    most = max(1, int(BATCH_SECONDS / max(time.perf_counter() - start, 1e-9)))
    some = fitting[:: -(-len(fitting) // most)]
    if len(some) < len(fitting):
        notes.append(
            f"the network takes long on this machine: one batch is of {len(some)} images, not of "
            f"{len(fitting)}"
        )
        fitting = some
    names = array_names([n for n in TAPS if n in taps and n not in network.lacking])
    names = tuple(name for name in names if name != "gap" or "last_conv" in taps)
    if missing := [name for name in TAPS if name not in taps]:
        notes.append(f"the network has no {', '.join(missing)}: it has {', '.join(taps)}")
    forward = Forward(network, size, names, torch.device("cpu"), "float32")
    if most >= 2 * REPEATED:
        forward.check_repeats()
    else:
        notes.append("whether it gives the same features each time is not checked here")
    start = time.perf_counter()
    arrays = forward(torch.stack([frames[at] for at in fitting]))
    seconds = time.perf_counter() - start
    outputs = int(arrays["logits"].shape[1]) if "logits" in arrays else None
    names_given = network.class_names
    if names_given and len(names_given) != outputs:
        notes.append(f"{len(names_given)} class names for {outputs} logits: a run refuses that")
    every = {one.label for one in listed}
    index = match_classes(every, names_given, outputs) if outputs else None
    labelled = [(n, labels[place]) for n, place in enumerate(fitting) if labels[place] is not None]
    top1 = None
    if index is not None and labelled:
        right = sum(int(arrays["logits"][n].argmax()) == index[str(label)] for n, label in labelled)
        top1 = right / len(labelled)
        if not names_given:
            notes.append("classes are taken in alphabetical order: the network has no class names")
    table = pd.DataFrame(chosen, columns=["path", "label"])
    if most >= FOR_PREPROCESSING:
        notes += filter(None, [preprocessing_warning(source, network, table, top1)])
    elif top1 is not None and top1 < GOOD_ENOUGH:
        notes.append("whether another preprocessing is right more often is not tried here")
    for name in ("gap", "fc", "logits"):
        notes += flat_notes(name, arrays[name]) if name in arrays else []
    return NetworkPreview(
        name=network.name,
        weights=network.weights_hash[:8],
        input=size,
        outputs=outputs,
        taps={name: tuple(array.shape[1:]) for name, array in arrays.items()},
        top1=top1,
        classified=len(labelled) if top1 is not None else 0,
        seconds=seconds,
        notes=[
            *network.notes,
            *notes,
            *(f"{name}: {note}" for name, note in forward.notes.items()),
        ],
    )


def _frames(
    source: ImageSource, network: Network, chosen: Sequence[tuple[str, str | None]]
) -> tuple[list[torch.Tensor], list[str | None]]:
    looked = _look(chosen, lambda path: network.transform.frame(decode(source.read(path))))
    good = [(frame, label) for _, label, frame in looked if isinstance(frame, torch.Tensor)]
    reasons = [f"{path}: {error}" for path, _, error in looked if isinstance(error, BadImage)]
    frames, labels = [frame for frame, _ in good], [label for _, label in good]
    if not frames:
        raise BadInput(
            f"none of {len(looked)} images looked at can be decoded; the first: {reasons[0]}"
        )
    return frames, labels
