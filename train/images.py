"""Training images: read once, kept decoded in memory while they fit, augmented batch by batch."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alike.extract.errors import BadImage, BadInput
from alike.extract.images import decode, image_id
from alike.extract.networks import Transform
from alike.extract.progress import Progress, silent
from alike.train.augment import Augmentation
from alike.train.batches import PlannedBatch
from alike.train.trained_images import LabelledImage

CACHE_BYTES = 2 * 2**30
THREADS = 4

Read = Callable[[str], bytes]


class Frames(Dataset[tuple[Tensor, Tensor]]):
    """Labelled images as uint8 frames of one size: resized and cropped, not yet normalised.

    Frames are kept in memory up to `cache_bytes`; those beyond are read again at each use.

    Attributes:
        images: the usable ones, in the order given.
        targets: (N,) int64, class index of each; set by `set_classes`.
        bad: (path, reason) of those that could not be decoded.
    """

    def __init__(
        self,
        images: Sequence[tuple[str, str]],
        read: Read,
        transform: Transform,
        *,
        augmentation: Augmentation | None = None,
        cache_bytes: int = CACHE_BYTES,
        progress: Progress = silent,
    ) -> None:
        self.read = read
        self.transform = transform
        self.augmentation = augmentation
        self.images: list[LabelledImage] = []
        self.bad: list[tuple[str, str]] = []
        self.cached: dict[int, Tensor] = {}
        self.targets = torch.zeros(0, dtype=torch.int64)
        self._load(images, cache_bytes, progress)

    def _load(
        self, images: Sequence[tuple[str, str]], cache_bytes: int, progress: Progress
    ) -> None:
        room = cache_bytes
        with ThreadPoolExecutor(THREADS) as pool:
            loaded = pool.map(lambda image: self._frame(image[0]), images)
            for count, ((path, label), result) in enumerate(zip(images, loaded, strict=True), 1):
                if isinstance(result, BadImage):
                    self.bad.append((path, str(result)))
                else:
                    hashed, frame = result
                    if frame.numel() <= room:
                        self.cached[len(self.images)] = frame
                        room -= frame.numel()
                    self.images.append(LabelledImage(path, label, hashed))
                if count % 256 == 0 or count == len(images):
                    progress("read", count, len(images), f"{len(self.bad)} bad" if self.bad else "")

    def _frame(self, path: str) -> tuple[str, Tensor] | BadImage:
        try:
            data = self.read(path)
            return image_id(data), self.transform.frame(decode(data))
        except BadImage as bad:
            return bad

    def subset(self, rows: Sequence[int]) -> "Frames":
        """Some of the images, sharing what is in memory."""
        part = copy.copy(self)
        part.images = [self.images[row] for row in rows]
        part.cached = {new: self.cached[row] for new, row in enumerate(rows) if row in self.cached}
        part.bad = []
        part.targets = self.targets[list(rows)] if len(self.targets) else self.targets
        return part

    def set_classes(self, names: Sequence[str]) -> None:
        """Number the labels by their place in `names`."""
        number = {name: index for index, name in enumerate(names)}
        self.targets = torch.tensor([number[image.label] for image in self.images])

    def frame(self, row: int) -> Tensor:
        """The frame (3, h, w) of one image, from memory or read again."""
        if row in self.cached:
            return self.cached[row]
        result = self._frame(self.images[row].path)
        if isinstance(result, BadImage):
            raise result
        return result[1]

    def stack(self, rows: Sequence[int]) -> Tensor:
        """Frames (B, 3, h, w) uint8 of several images, without augmentation."""
        frames_by_row = {row: self.cached[row] for row in rows if row in self.cached}
        unread = [row for row in rows if row not in frames_by_row]
        if unread:
            with ThreadPoolExecutor(THREADS) as pool:
                frames_by_row.update(zip(unread, pool.map(self.frame, unread), strict=True))
        frames = [frames_by_row[row] for row in rows]
        sizes = {tuple(frame.shape) for frame in frames}
        if len(sizes) > 1:
            raise BadInput(
                f"images of sizes {sorted(sizes)[:3]} cannot form a batch; give the network a "
                "transform with a crop or a resize of (height, width)"
            )
        return torch.stack(frames)

    def __len__(self) -> int:
        """Number of usable images."""
        return len(self.images)

    def __getitem__(self, batch: PlannedBatch) -> tuple[Tensor, Tensor]:
        """The augmented frames (b, 3, h, w) uint8 of a planned batch, and its class indices (B,).

        The frames are those of this process, the classes of the whole batch.
        """
        frames = self.stack(batch.rows[batch.part])
        if self.augmentation is not None:
            # Chance is drawn for the whole batch: an image varies alike whoever has it.
            whole = frames.new_zeros((len(batch.rows), *frames.shape[1:]))
            whole[batch.part] = frames
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(batch.seed)
                frames = self.augmentation(whole)[batch.part]
        return frames, self.targets[list(batch.rows)]
