"""Preprocessing that belongs to a network's weights: resize, crop, scale, normalise.

Torch is loaded by the first image: settings are checked without it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from alike.extract.errors import BadImage, BadInput
from alike.extract.limits import MAX_PIXELS

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")


@dataclass(frozen=True)
class Transform:
    """From an image of any size to a network's input, resolved to numbers.

    Attributes:
        resize: pixels of the shorter side, or (height, width), or None to keep the size.
        crop: side in pixels of the central square cut out, or None.
        mean: of each channel, of values in [0, 1].
        std: of each channel, of values in [0, 1].
        interpolation: one of `INTERPOLATIONS`.
        antialias: whether shrinking filters first, as PIL does.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.resize, list | tuple):
            height, width = self.resize
            object.__setattr__(self, "resize", (int(height), int(width)))
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise BadInput(f"transform {name} {values}: three numbers expected, std above 0")
            object.__setattr__(self, name, values)
        sizes = [*(self.resize if isinstance(self.resize, tuple) else (self.resize,)), self.crop]
        if any(size is not None and size < 1 for size in sizes):
            raise BadInput(f"transform resize {self.resize}, crop {self.crop}: pixels must be >= 1")
        shortest = min(self.resize) if isinstance(self.resize, tuple) else self.resize
        if self.crop is not None and shortest is not None and self.crop > shortest:
            raise BadInput(
                f"transform crop {self.crop} is larger than resize {self.resize}: the rest would "
                "be black; crop at most what the image is resized to"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise BadInput(
                f"interpolation {self.interpolation!r}: one of {', '.join(INTERPOLATIONS)} expected"
            )

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> "Transform":
        """From `to_dict`; an unknown key is a mistake, not ignored."""
        unknown = sorted(set(stored) - set(cls.__dataclass_fields__))
        if unknown:
            fields = ", ".join(cls.__dataclass_fields__)
            raise BadInput(f"transform has unknown settings {unknown}; known are {fields}")
        return cls(**stored)  # type: ignore[arg-type]

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every result, or None if it depends on the image."""
        if self.crop is not None:
            return self.crop, self.crop
        return self.resize if isinstance(self.resize, tuple) else None

    def check_size(self, height: int, width: int) -> None:
        """Refuse an image that would grow without bounds.

        Raises:
            BadImage: so long and thin that it would be too large.
        """
        if not isinstance(self.resize, int):
            return
        short = min(height, width)
        grown = [self.resize * side // short for side in (width, height)]
        if grown[0] * grown[1] > MAX_PIXELS:
            raise BadImage(
                "too large",
                f"{width}x{height} pixels are {grown[0]}x{grown[1]} when resized, at most "
                f"{MAX_PIXELS} pixels in all are taken",
            )

    def frame(self, image: "torch.Tensor") -> "torch.Tensor":
        """Resize and crop a uint8 image (3, H, W); the result is uint8 (3, h, w), contiguous.

        Raises:
            BadImage: so long and thin that it would be too large.
        """
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as geometry

        self.check_size(*image.shape[-2:])
        if self.resize is not None:
            image = geometry.resize(
                image,
                [self.resize] if isinstance(self.resize, int) else list(self.resize),
                interpolation=InterpolationMode(self.interpolation),
                antialias=self.antialias,
            )
        if self.crop is not None:
            image = geometry.center_crop(image, [self.crop, self.crop])
        return image.contiguous()

    def normalise(self, frames: "torch.Tensor") -> "torch.Tensor":
        """Scale uint8 (..., 3, h, w) to [0, 1], subtract the mean, divide by std; float32."""
        import torch

        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=frames.device).view(3, 1, 1)
            for values in (self.mean, self.std)
        )
        return frames.to(torch.float32).div_(255).sub_(mean).div_(std)

    def __call__(self, image: "torch.Tensor") -> "torch.Tensor":
        """A uint8 image (3, H, W) as network input, float32 (3, h, w)."""
        return self.normalise(self.frame(image))
