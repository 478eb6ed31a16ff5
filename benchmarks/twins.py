"""Planted twins: who finds them, who links what is none: `python benchmarks/twins.py make DIR`.

`make` writes the images of two tar files, with one changed copy of each, into a folder, and
`truth.json` beside it. `ours` finds the twins with Alike. `cleanvision` and `imagededup` do so with
those packages, from an environment that has them (`pip install cleanvision imagededup`): these
modes import nothing of Alike. `scale` measures time and memory on that set with CIFAR-10 images.
"""

import argparse
import io
import json
import logging
import resource
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

TARS = ("pacs_photo_6x150.tar", "sign_digits_10x206.tar")
Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def crop(image: Image.Image, place: tuple[float, float]) -> Image.Image:
    """Nine tenths of a picture, from a place given as shares of what is left over."""
    wide, high = round(0.9 * image.width), round(0.9 * image.height)
    left = round(place[0] * (image.width - wide))
    top = round(place[1] * (image.height - high))
    return image.crop((left, top, left + wide, top + high))


CHANGES: dict[str, tuple[Change, int]] = {
    "JPEG 85": (lambda image, _: image, 85),
    "JPEG 60": (lambda image, _: image, 60),
    "half size": (lambda image, _: image.resize((image.width // 2, image.height // 2)), 95),
    "mirrored": (lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 95),
    "quarter turn": (lambda image, _: image.transpose(Image.Transpose.ROTATE_90), 95),
    "crop 0.9, centre": (lambda image, _: crop(image, (0.5, 0.5)), 95),
    "crop 0.9, anywhere": (lambda image, draw: crop(image, tuple(draw.random(2))), 95),
    "brightness 1.15": (lambda image, _: ImageEnhance.Brightness(image).enhance(1.15), 95),
    "brightness 0.85": (lambda image, _: ImageEnhance.Brightness(image).enhance(0.85), 95),
}
"""Kind to (change, quality of the JPEG that it is written as)."""


def main() -> None:
    """Make the set, or find its twins."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("mode", choices=["make", "ours", "cleanvision", "imagededup", "scale"])
    options.add_argument("folder", type=Path)
    options.add_argument("--data", type=Path, default=Path("data"), help="folder of the tar files")
    options.add_argument("--threads", type=int, default=1)
    arguments = options.parse_args()
    modes = {"make": make, "ours": ours, "scale": scale}
    if arguments.mode in modes:
        modes[arguments.mode](arguments)
    else:
        {"cleanvision": cleanvision, "imagededup": imagededup}[arguments.mode](arguments.folder)


def make(arguments: argparse.Namespace) -> None:
    """Write every image and one changed copy; the kinds take turns."""
    draw, truth, number = np.random.default_rng(0), {}, 0
    (arguments.folder / "images").mkdir(parents=True, exist_ok=True)
    for name in TARS:
        with tarfile.open(arguments.data / name) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is None or not member.name.lower().endswith((".jpg", ".jpeg")):
                    continue
                data = file.read()
                original = f"{number:05d}.jpg"
                (arguments.folder / "images" / original).write_bytes(data)
                kind = list(CHANGES)[number % len(CHANGES)]
                change, quality = CHANGES[kind]
                image = change(Image.open(io.BytesIO(data)).convert("RGB"), draw)
                copy = f"{number:05d}-copy.jpg"
                image.save(arguments.folder / "images" / copy, "JPEG", quality=quality)
                truth[copy] = (original, kind)
                number += 1
    (arguments.folder / "truth.json").write_text(json.dumps(truth))
    print(f"{number} images and a copy of each")


def print_scores(folder: Path, tool: str, pairs: Iterable[tuple[str, str]], seconds: float) -> None:
    """Print recall by kind, and the pairs that are none, in 1,000 images."""
    truth = json.loads((folder / "truth.json").read_text())
    answers = {tuple(sorted(pair)) for pair in pairs}
    right: dict[str, list[bool]] = {kind: [] for kind in CHANGES}
    for copy, (original, kind) in truth.items():
        right[kind].append(tuple(sorted((copy, original))) in answers)
    family = {copy: original for copy, (original, _) in truth.items()}
    mistakes = sorted(
        pair for pair in answers if family.get(pair[0], pair[0]) != family.get(pair[1], pair[1])
    )
    recalls = " | ".join(f"{np.mean(one):.3f}" for one in right.values())
    rate = 1000 * len(mistakes) / (2 * len(truth))
    print(f"| {tool} | {recalls} | {len(mistakes)} ({rate:.2f}) | {seconds:.0f} s |", flush=True)
    for pair in mistakes[:5]:
        print("   wrong:", *pair)


def thumbnails_of(files: list[Path]) -> np.ndarray:
    """The thumbnails of image files."""
    from alike.extract.images import decode
    from alike.extract.twins import thumbnail

    return np.stack([thumbnail(decode(file.read_bytes())) for file in files])


def ours(arguments: argparse.Namespace) -> None:
    """Find the twins with Alike."""
    from alike.extract.twins import find_links, part_hashes

    files = sorted((arguments.folder / "images").iterdir())
    few = np.random.default_rng(0).integers(0, 255, (4, 64, 64), dtype=np.uint8)
    find_links(few, part_hashes(few))  # compiles
    start = time.perf_counter()
    thumbnails = thumbnails_of(files)
    reading = time.perf_counter() - start
    links = find_links(thumbnails, part_hashes(thumbnails), threads=arguments.threads)
    seconds = time.perf_counter() - start
    names = [file.name for file in files]
    pairs = [(names[a], names[b]) for a, b in zip(links.first, links.second, strict=True)]
    print(f"{len(files)} images, {reading:.0f} s to read and decode, {links.tried} pairs in pixels")
    print_scores(arguments.folder, "Alike", pairs, seconds)


def scale(arguments: argparse.Namespace) -> None:
    """Time and memory at several sizes of a set."""
    import torch

    from alike.extract.twins import find_links, part_hashes
    from alike.extract.twins.thumbnails import thumbnail

    thumbnails = thumbnails_of(sorted((arguments.folder / "images").iterdir()))
    with np.load(arguments.data / "cifar10_jpeg_dev.npz") as arrays:
        small = next(arrays[name] for name in arrays.files if arrays[name].ndim == 4)
    more = [thumbnail(torch.from_numpy(one).permute(2, 0, 1)) for one in small[:4200]]
    every = np.concatenate([thumbnails, np.stack([one for one in more if one is not None])])
    every = every[np.random.default_rng(0).permutation(len(every))]
    find_links(every[:4], part_hashes(every[:4]))
    for n in (2500, 5000, 10_000):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        parts = part_hashes(every[:n])
        hashing = time.process_time() - start
        links = find_links(every[:n], parts, threads=arguments.threads)
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{n} images: {seconds:.1f} s of a core ({hashing:.1f} s hashes), "
            f"{links.tried} pairs in pixels, {len(links.first)} links, "
            f"{(peak - before) / 1024:.0f} MiB more than before",
            flush=True,
        )


def cleanvision(folder: Path) -> None:
    """Find the twins with cleanvision."""
    from cleanvision import Imagelab

    start = time.perf_counter()
    lab = Imagelab(data_path=str(folder / "images"))
    lab.find_issues({"near_duplicates": {}, "exact_duplicates": {}}, n_jobs=1, verbose=False)
    sets = lab.info["near_duplicates"]["sets"]
    pairs = [
        (Path(a).name, Path(b).name)
        for one in sets
        for at, a in enumerate(one)
        for b in one[at + 1 :]
    ]
    print_scores(folder, "cleanvision, near duplicates", pairs, time.perf_counter() - start)


def imagededup(folder: Path) -> None:
    """Find the twins with imagededup's perceptual hash."""
    from imagededup.methods import PHash

    logging.disable(logging.INFO)
    start = time.perf_counter()
    method = PHash(verbose=False)
    encoded = method.encode_images(image_dir=str(folder / "images"), num_enc_workers=0)
    for distance in (4, 10, 16):
        found = method.find_duplicates(
            encoding_map=encoded, max_distance_threshold=distance, num_dist_workers=0
        )
        pairs = [(a, b) for a, others in found.items() for b in others]
        seconds = time.perf_counter() - start
        print_scores(folder, f"imagededup, PHash within {distance}", pairs, seconds)


if __name__ == "__main__":
    main()
