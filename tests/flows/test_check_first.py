"""What extraction says or refuses, `alike check` says or refuses first: every case that failed."""

import io
import json
import os
import re
import runpy
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner

from alike.extract.errors import AlikeError, BadImage, BadInput
from alike.extract.frames import read_image
from alike.extract.images.decoding import decode
from alike.flows.cli import app

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
TINY = CASES / "networks" / "tiny.py"
FULL = bool(os.environ.get("ALIKE_FULL"))
# The first of each are of one kind each; the others are tried by ALIKE_FULL.
FACTORIES = (
    "outputs.py:map_first", "random_in_eval.py:make", "stale/nets.py:make",
    "heads.py:weight_norm_by_hook", "outputs.py:features_first", "outputs.py:named_features_first",
    "outputs.py:dataclass_output", "heads.py:weight_norm", "heads.py:cosine",
)[: None if FULL else 3]  # fmt: skip
CHECKPOINTS = (
    "ema_beside", "no_head", "whole_module", "lfs_pointer", "timm_ema", "only_ema", "averaged",
    "lightning_criterion", "lightning_path", "lightning_namespace", "numpy_scalar", "moco",
    "backbone", "params", "model_state", "wanted",
)[: None if FULL else 4]  # fmt: skip
IMAGES = (
    "exif6_after_xmp.jpg", "cut_with_eoi.jpg", "a.eps", "junk1_before_marker.jpg", "big_icc.png",
    *(("bomb9400.png",) if FULL else ()),
)  # fmt: skip
TABLES = ("hf_null.parquet", "nul.csv", "obj_y.npz", "flip1.npz")
RUN_ONLY = re.compile(r"show one picture|twin", re.IGNORECASE)
"""Notes on all pairs of images, which nothing can say before all are read."""
needs_cases = pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cases")
    draw_set(root / "set")
    argv, paths = sys.argv, list(sys.path)
    sys.argv = ["make.py", str(root / "checkpoints")]
    try:
        runpy.run_path(str(CASES / "checkpoints" / "make.py"))
    finally:
        sys.argv, sys.path[:] = argv, paths
        sys.modules.pop("tiny", None)
    return root


def draw_set(folder: Path) -> Path:
    drawn = np.random.default_rng(0)
    for label in ("cat", "dog", "owl"):
        (folder / label).mkdir(parents=True)
        for number in range(3):
            pixels = drawn.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def asked(*arguments: str) -> tuple[dict | None, str]:
    """(answer, refusal) of a command."""
    try:
        result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    except AlikeError as error:
        return None, str(error)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), ""


def plain(note: str) -> str:
    """A note without what differs by design: which images were counted."""
    return re.sub(r"images (computed|looked at)", "images", note)


def compare(tmp_path: Path, source: Path, network: str, weights: str = "none") -> dict | None:
    """The answer of `check`, after its notes were compared with those of `extract`."""
    same = (str(source), "--network", network, "--weights", weights)
    answer, refusal = asked("check", *same)
    report, refused = asked("extract", *same, "--store", str(tmp_path / "store"))
    if report is None:
        # Both name the reason; of images that are all bad, check names the first one too.
        reason = refusal.rpartition(": ")[2]
        assert reason, refused
        assert reason in refused
        return answer
    assert answer is not None, refusal
    early = {plain(note) for note in (*answer["notes"], *answer["network"]["notes"])}
    late = {plain(note) for note in report["notes"] if not RUN_ONLY.search(note)}
    assert late <= early
    bad = {(one["path"], one["state"]) for one in report["bad"]}
    assert bad == {(one["path"], one["state"]) for one in answer["bad"]}
    return answer


@needs_cases
def test_images(tmp_path: Path) -> None:
    """In one set, with an image whose header says more than Pillow's limit."""
    folder = draw_set(tmp_path / "set")
    for name in IMAGES:
        (folder / "cat" / name).write_bytes((CASES / "images" / name).read_bytes())
    bomb = folder / "cat" / "forged.png"
    bomb.write_bytes(forged(15_000))
    answer = compare(tmp_path, folder, f"{TINY}:make")
    assert answer is not None
    # bomb9400.png has 88 million pixels, just within the limit.
    assert {one["path"]: one["state"] for one in answer["bad"]} == {
        "cat/cut_with_eoi.jpg": "damaged",
        "cat/forged.png": "too large",
    }
    assert sum(".eps 1" in note for note in answer["notes"]) == 1
    assert answer["turned"] == 1
    store = ("--store", str(tmp_path / "store"))
    for command in (("neighbours", str(bomb)), ("explain", str(bomb)), ("explain", "0", str(bomb))):
        _, refusal = asked(*command, *store)
        assert re.search(
            r"forged\.png' cannot be decoded \(too large: 225000000 pixels, at most 89478485 are "
            r"decoded\)",
            refusal,
        )
        assert "\n" not in refusal


@needs_cases
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("exif6_after_xmp.jpg", (90, 60)),
        ("junk1_before_marker.jpg", (60, 90)),
        ("big_icc.png", (60, 90)),
    ],
)
def test_images_that_were_lost_or_lay_are_those_of_pillow(
    name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (CASES / "images" / name).read_bytes()
    monkeypatch.setattr("PIL.PngImagePlugin.MAX_TEXT_CHUNK", 2**26)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape == (*shape, 3)
    np.testing.assert_array_equal(decode(data).permute(1, 2, 0).numpy(), expected)


@needs_cases
@pytest.mark.parametrize("name", TABLES)
def test_sets(tmp_path: Path, name: str) -> None:
    spec = str(CASES / "tables" / name)
    answer = compare(tmp_path, Path(spec), f"{TINY}:make")
    assert answer is None
    store = ("--store", str(tmp_path / "other"))
    _, refusal = asked("extract", spec, "--network", f"{TINY}:make", "--weights", "none", *store)
    assert refusal
    assert "\n" not in refusal


@needs_cases
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("head", ["weight_norm", "weight_norm_by_hook", "cosine"])
def test_heads_are_explained_by_every_method_that_applies(
    tmp_path: Path, place: Path, head: str
) -> None:
    store = ("--store", str(tmp_path / "store"))
    network = ("--network", f"{CASES}/networks/heads.py:{head}", "--weights", "none")
    asked("extract", str(place / "set"), *network, *store, "--twins", "ignore")
    answer, refusal = asked("explain", "0", *store, "--to", str(tmp_path / "pictures"))
    assert answer is not None, refusal
    methods = [one["method"] for one in answer["images"]["maps"]]
    left_out = answer["images"]["left_out"]
    if head == "cosine":
        assert methods == ["gradcam", "lrp", "sa"]
        (note,) = left_out
        assert re.search("no CAM for Cosine.*; use gradcam", note)
    else:
        assert methods == ["cam", "gradcam", "lrp", "sa"]
        assert left_out == []


@needs_cases
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("factory", FACTORIES)
def test_networks(tmp_path: Path, place: Path, factory: str) -> None:
    answer = compare(tmp_path, place / "set", f"{CASES}/networks/{factory}")
    assert (answer is None) == factory.startswith("random")
    if factory.startswith("outputs"):
        assert answer["network"]["outputs"] == 3
        assert answer["network"]["taps"]["last_conv"] == [16, 16, 16]


@needs_cases
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(tmp_path: Path, place: Path, name: str) -> None:
    weights = place / "checkpoints" / f"{name}.pt"
    answer = compare(tmp_path, place / "set", f"{TINY}:make", str(weights))
    assert (answer is None) == (name in ("whole_module", "lfs_pointer"))
    if answer is None:
        return
    notes = " ".join(answer["network"]["notes"])
    assert (answer["network"]["outputs"] is None) == (name == "no_head")
    assert ("hold no classifier" in notes) == (name == "no_head")
    both = ("ema_beside", "timm_ema", "lightning_criterion", "moco")
    assert all("ignored" in notes for one in both if one == name)


@pytest.mark.quick
def test_damaged_orientation_is_said_by_both(tmp_path: Path) -> None:
    folder = draw_set(tmp_path / "set")
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.new("RGB", (40, 40), (90, 1, 2)).save(folder / "cat" / "nine.jpg", exif=exif)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\nTRANSFORM = {'resize': [32, 32]}\n\n\ndef net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(4, 3))\n"
    )
    answer = compare(tmp_path, folder, f"{tmp_path}/net.py:net")
    assert any(note.startswith("1 images looked at have damaged") for note in answer["notes"])


def forged(side: int) -> bytes:
    """A PNG of 29 bytes of header that says how large it is, and nothing else."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
        + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IEND\xaeB`\x82"
    )  # fmt: skip


@pytest.mark.parametrize("side", [9_500, 15_000, 2**31 - 1])
def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, side: int) -> None:
    """By every door: the listing of check and extraction, and the images that a user names."""
    data = forged(side)
    with pytest.raises(BadImage) as listed:
        decode(data)
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(BadInput, match=r"bomb\.png' cannot be decoded \(too large") as named:
        read_image(tmp_path / "bomb.png").pixels()
    for error in (listed, named):
        assert "too large" in str(error.value)
        assert "at most 89478485 are decoded" in str(error.value)
        assert "\n" not in str(error.value)
