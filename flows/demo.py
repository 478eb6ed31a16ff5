"""The demo: the whole loop on scikit-learn's digits, with no download, server or GPU."""

from pathlib import Path

from alike.extract.progress import Progress, silent
from alike.flows import digits_network

TRAIN_SHARE = 0.5

PIPELINE = """\
# The demo's settings: what `alike run` reads. Change one and run it again.
title = "Handwritten digits"

[images]
source = "digits"
train_share = {share}       # by content hash; half of the rest decides, half is evaluated

[network]
name = "digits_network.py:small_network"
weights = "{weights}"
transform = {{ resize = 16, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}

[extract]
taps = ["last_conv", "fc", "logits"]

[explain]
continuity_images = 16      # 0, the default, leaves it out: minutes for a large network on a CPU

[retrain]
when = "sameness < 0.99"    # any score by name
loss = "gap_supcon"
epochs = 8
trainer = {{ lr = 0.003 }}
control = true              # the same steps with plain cross-entropy, to compare with

[output]
folder = "."
"""


def write_digits(folder: Path) -> int:
    """Write the digits as PNG files, a folder a class; returns how many there are (1,797).

    Files that are there already are left alone.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = folder / str(label) / f"digit-{number:04}.png"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * (255 / 16)).round().astype("uint8")).save(file)
    return len(digits.target)


def prepare_demo(folder: Path, progress: Progress = silent) -> Path:
    """Write the images, train the first network, write the settings; returns their path.

    The network is trained with cross-entropy on the half of the images that is never evaluated.
    What is already there is not made again.
    """
    source = folder / "digits"
    write_digits(source)
    code = Path(digits_network.__file__).read_text(encoding="utf-8")
    (folder / "digits_network.py").write_text(code, encoding="utf-8")
    weights = folder / "weights" / "first" / "weights.safetensors"
    if not weights.is_file():
        weights = _train_first(folder, source, progress)
    settings = folder / "pipeline.toml"
    if not settings.is_file():
        place = weights.relative_to(folder).as_posix()
        text = PIPELINE.format(share=TRAIN_SHARE, weights=place)
        settings.write_text(text, encoding="utf-8")
    return settings


def _train_first(folder: Path, source: Path, progress: Progress) -> Path:
    from alike.extract.images import image_id, open_source, split_of
    from alike.extract.networks import Transform, load_network
    from alike.train.retrain import retrain

    images = open_source(str(source))
    listed = [
        (item.path, item.label)
        for item in images
        if item.label is not None
        and split_of(image_id(images.read(item.path)), TRAIN_SHARE) == "train"
    ]
    transform = Transform(resize=16, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    name = f"{folder / 'digits_network.py'}:small_network"
    trained = retrain(
        load_network(name, "none", transform=transform),
        listed,
        images.read,
        loss="ce",
        epochs=3,
        seed=0,
        out=folder / "weights" / "first",
        progress=progress,
    )
    return Path(trained.weights)
