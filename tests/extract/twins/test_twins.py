"""Twins: planted copies are found, others are not, and components stand on one side."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance
from typer.testing import CliRunner

from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.images import image_id
from alike.extract.images.sources import open_source
from alike.extract.images.split import splits_of
from alike.extract.pipeline import extract
from alike.extract.store.sides import Split, components, ranges_of, rows_in, sides_of
from alike.extract.store.store import Store
from alike.extract.store.twins import Signatures
from alike.extract.store.verification import verify
from alike.extract.twins import kernels
from alike.extract.twins.bands import Bands
from alike.extract.twins.hashes import SYMMETRIES, hashes
from alike.extract.twins.kernels import differing_bits
from alike.extract.twins.links import find_links, part_hashes
from alike.extract.twins.search import (
    search_twins,
    sign_images,
    twin_table,
    unsigned_rows,
    within_and_across,
)
from alike.extract.twins.thumbnails import thumbnail
from alike.flows.cli import app


def picture(seed: int, side: int = 160) -> Image.Image:
    """Smooth random colours with sharp shapes: no two seeds show the same."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    image = np.array(small.resize((side, side), Image.Resampling.BICUBIC))
    for _ in range(12):
        x, y = rng.integers(0, side - 30, 2)
        w, h = rng.integers(8, 30, 2)
        image[y : y + h, x : x + w] = rng.integers(0, 255, 3)
    return Image.fromarray(image)


def crop(image: Image.Image, x: float, y: float, share: float = 0.9) -> Image.Image:
    width, height = image.size
    left, top = round(x * width), round(y * height)
    return image.crop((left, top, left + round(share * width), top + round(share * height)))


def jpeg(image: Image.Image, quality: int = 60) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


CHANGES = {
    "jpeg": jpeg,
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "crop": lambda image: crop(image, 0.03, 0.08),
    "crop, mirrored": lambda image: crop(image, 0.08, 0.02).transpose(
        Image.Transpose.FLIP_LEFT_RIGHT
    ),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
}


def cells(image: Image.Image) -> np.ndarray:
    import torch

    made = thumbnail(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert made is not None
    return made


@pytest.fixture(scope="module")
def originals() -> np.ndarray:
    return np.stack([cells(picture(seed)) for seed in range(30)])


def test_every_pair_of_near_hashes_is_looked_at() -> None:
    draw = np.random.default_rng(0)
    n = kernels.HASHES + 300
    second, turned = (draw.integers(0, 2**63, size, np.uint64) for size in ((2, 10), (8,)))
    second[:, 0] = turned[:2]
    wholes, halves = turned.tolist(), second[:, 1:].ravel().tolist()
    # One hash of each other image is near one of this image, allowed to be or not.
    parts = draw.integers(0, 2**63, (n, 10), np.uint64)
    of_part = draw.integers(0, 10, n)
    for at, part in enumerate(of_part):
        asked = [*wholes, *halves] if part == 0 else wholes[:3]
        flips = sum(1 << int(bit) for bit in draw.choice(63, draw.integers(0, 20), replace=False))
        parts[at, part] = int(draw.choice(np.array(asked, np.uint64))) ^ flips
    allowed = [
        [*((other[0], hashed) for hashed in [*wholes, *halves])]
        + [(part, hashed) for part in other[1:] for hashed in wholes[:2]]
        for other in parts.tolist()
    ]
    bits = np.array([min((a ^ b).bit_count() for a, b in pairs) for pairs in allowed])
    flat = np.zeros((n, 64, 64), np.uint8)
    for candidates in (np.arange(n), draw.permutation(n)[: kernels.HASHES]):
        twins, looked = kernels.twins_of(
            7, candidates, parts, parts.T.copy(), second, turned, flat[:8], flat,
            flat.astype(np.int8), np.zeros(n, np.int8), np.zeros((10, 3)), 11, 0.88,
        )  # fmt: skip
        near = candidates[bits[candidates] <= 11]
        assert 200 < len(near) < n - 200
        assert looked == len(np.setdiff1d(near, [7]))
        assert not len(twins)


def test_pixels_are_compared_where_a_part_lies() -> None:
    """The correlation of a part with a target is numpy's, of the part that SciPy interpolates."""
    from scipy.ndimage import map_coordinates

    draw = np.random.default_rng(1)
    image = draw.integers(-127, 128, (64, 64)).astype(np.float32)
    for cells_, x, y, scale in ((48, 0.03, 0.08, 0.9), (24, -0.02, 0.05, 1.03), (48, 0.0, 0.0, 1)):
        target = draw.standard_normal((cells_, cells_)).astype(np.float32)
        target -= target.mean()
        target /= np.linalg.norm(target)
        at = (np.arange(cells_) + 0.5) / cells_ * scale * 64 - 0.5
        rows, columns = (np.clip(at + 64 * start, 0.0, 62.999) for start in (y, x))
        part = map_coordinates(image, np.meshgrid(rows, columns, indexing="ij"), order=1)
        across, room = np.empty((64, cells_), np.float32), np.empty((cells_, cells_), np.float32)
        kernels._across(image, x, scale, across)
        got = kernels._correlation(across, target, y, scale, room)
        assert got == pytest.approx(np.corrcoef(part.ravel(), target.ravel())[0, 1], abs=1e-5)


@pytest.mark.parametrize("change", CHANGES)
def test_planted_copies_are_found_and_nothing_else(originals: np.ndarray, change: str) -> None:
    copies = np.stack([cells(CHANGES[change](picture(seed))) for seed in range(30)])
    every = np.concatenate([originals, copies])
    links = find_links(every, part_hashes(every))
    assert links.first.tolist() == list(range(30))
    assert links.second.tolist() == list(range(30, 60))
    assert links.correlation.min() >= 0.88


def test_only_new_images_are_searched(originals: np.ndarray) -> None:
    every = np.concatenate([originals, originals[:3], originals[5:6]])
    parts = part_hashes(every)
    links = find_links(every, parts, np.array([32, 33]))
    assert list(zip(links.first, links.second, strict=True)) == [(2, 32), (5, 33)]
    assert find_links(every, parts, threads=3).second.tolist() == [30, 31, 32, 33]


def test_flat_images_have_no_twins() -> None:
    flat = np.full((3, 64, 64), 200, dtype=np.uint8)
    assert not len(find_links(flat, part_hashes(flat)).first)


@pytest.mark.quick
def test_small_images_have_no_thumbnail() -> None:
    import torch

    assert thumbnail(torch.zeros(3, 23, 300, dtype=torch.uint8)) is None


def test_bits_are_counted() -> None:
    rng = np.random.default_rng(0)
    for a, b in rng.integers(0, 2**63, (50, 2), dtype=np.uint64):
        assert differing_bits(a, b) == (int(a) ^ int(b)).bit_count()


def test_bands_lose_no_candidate() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**63, 200, dtype=np.uint64)
    near = base.copy()
    for at in range(len(near)):
        for bit in rng.choice(63, 11, replace=False):
            near[at] ^= np.uint64(1) << np.uint64(bit)
    far = rng.integers(0, 2**63, (200, 10), dtype=np.uint64)
    for part in (0, 4):
        parts = far.copy()
        parts[:, part] = base
        bands = Bands(parts)
        for at, query in enumerate(near):
            turned = rng.integers(0, 2**63, 8, dtype=np.uint64)
            turned[1] = query
            assert at in bands.near(rng.integers(0, 2**63, (2, 10), dtype=np.uint64), turned)


def test_large_sets_are_looked_up_by_bands(
    originals: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = np.stack([cells(CHANGES["crop, mirrored"](picture(seed))) for seed in range(30)])
    every = np.concatenate([originals, copies])
    parts = part_hashes(every)
    whole = find_links(every, parts)
    monkeypatch.setattr("alike.extract.twins.links.EXACT", 10)
    banded = find_links(every, parts)
    np.testing.assert_array_equal(banded.second, whole.second)
    np.testing.assert_array_equal(banded.correlation, whole.correlation)
    after = find_links(every, parts, np.arange(40, 60))
    assert after.second.tolist() == list(range(40, 60))


def test_hash_is_the_sign_of_the_low_frequencies(originals: np.ndarray) -> None:
    from scipy.fft import dctn

    waves = dctn(originals[4].astype(float), norm="ortho")[:8, :8].ravel()[1:]
    bits = waves > np.median(waves)
    assert int(hashes(originals[4:5])[0]) == sum(1 << at for at in np.flatnonzero(bits))


def test_symmetries_are_eight() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    assert len({one(image).tobytes() for one in SYMMETRIES}) == 8


# Sides


def brute_components(pairs: list[tuple[int, int]]) -> list[set[int]]:
    parts: list[set[int]] = []
    for pair in pairs:
        touched = [part for part in parts if part & set(pair)]
        parts = [part for part in parts if part not in touched]
        parts.append(set(pair).union(*touched))
    return parts


def test_components_are_those_of_brute_force() -> None:
    pairs = np.random.default_rng(3).integers(0, 60, (40, 2))
    table = components(pairs)
    parts = brute_components([tuple(pair) for pair in pairs.tolist()])
    assert len(table) == sum(map(len, parts))
    for part in parts:
        rows = table[table["row"].isin(list(part))]
        assert set(rows["component"]) == {min(part)}


SHARES = Split(0.5, "", 0.25)
IDS = [f"{n:02x}" + "0" * 62 for n in range(0, 256, 16)]


def sides(stored: dict[int, str], trained: tuple[str, ...] = (), ids: tuple[int, ...] = ()) -> set:
    members = pd.DataFrame({"row": [4, 5, 6], "component": 4, "image_id": [IDS[n] for n in ids]})
    return set(sides_of(members, SHARES, stored, trained)["side"])


def test_side_of_a_component() -> None:
    assert SHARES.sides(np.array(IDS[:13:6])).tolist() == ["train", "train", "held_out"]
    new = (9, 13, 14)
    assert SHARES.sides(np.array([IDS[n] for n in new])).tolist() == [
        "validation", "held_out", "held_out",
    ]  # fmt: skip
    # Nobody stored: the smallest id.
    assert sides({}, ids=new) == {"validation"}
    # The stored majority, also of one.
    assert sides({5: "held_out"}, ids=new) == {"held_out"}
    assert sides({4: "train", 5: "held_out", 6: "held_out"}, ids=new) == {"held_out"}
    # As many on each: train before validation before held out.
    assert sides({4: "validation", 5: "held_out"}, ids=new) == {"validation"}
    assert sides({4: "train", 5: "validation", 6: "held_out"}, ids=new) == {"train"}
    # A trained image never becomes held out.
    assert sides({4: "train", 5: "held_out", 6: "held_out"}, (IDS[9],), new) == {"train"}


def test_ranges() -> None:
    rows = np.array([0, 1, 2, 5, 7, 8])
    assert ranges_of(rows) == [[0, 3], [5, 6], [7, 9]]
    np.testing.assert_array_equal(rows_in(ranges_of(rows)), rows)
    assert len(rows_in(ranges_of(rows[:0]))) == 0


# In a store


def write(folder: Path, names: dict[str, Image.Image]) -> None:
    for name, image in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def counts(store: Store) -> dict[str, int]:
    return within_and_across(twin_table(store))


def test_extraction_keeps_twins_together(tmp_path: Path, network: object, store: Store) -> None:
    folder = tmp_path / "photos"
    write(folder, {f"cat/{n}.png": picture(n) for n in range(12)})
    write(folder, {f"dog/{n}.jpg": jpeg(picture(n), 90) for n in range(12)})
    store.set_split(0.5, validation_share=0.2)
    report = extract(open_source(str(folder)), network, store, device="cpu")
    assert not report.notes
    table = store.features(report.key).table("all").set_index("path")["split"]
    for n in range(12):
        assert table[f"cat/{n}.png"] == table[f"dog/{n}.jpg"]
    assert set(counts(store)) <= {"train", "validation", "held_out"}
    assert sum(counts(store).values()) == 12
    alone = splits_of(store.image_ids(), 0.5, "", 0.2)
    assert sum(a != b for a, b in zip(alone[:12], alone[12:], strict=True)) >= 3
    store.set_twins("ignore")
    np.testing.assert_array_equal(store.features(report.key).table()["split"], alone)
    assert any("/" in name for name in counts(store))


def test_a_new_twin_joins_the_side_that_stands(
    tmp_path: Path, network: object, store: Store
) -> None:
    folder = tmp_path / "photos"
    write(folder, {f"cat/{n}.png": picture(n) for n in range(12)})
    store.set_split(0.5)
    key = extract(open_source(str(folder)), network, store, device="cpu").key
    before = store.features(key).table().set_index("path")["split"]
    write(folder, {f"dog/{n}.png": CHANGES["crop"](picture(n)) for n in range(12)})
    extract(open_source(str(folder)), network, store, device="cpu")
    after = store.features(key).table().set_index("path")["split"]
    for n in range(12):
        assert after[f"cat/{n}.png"] == after[f"dog/{n}.png"] == before[f"cat/{n}.png"]
    # A bridge between two sides: whatever was trained on stays so.
    first, second = (
        next(p for p, s in before.items() if s == one) for one in ("train", "held_out")
    )
    ids = store.images().set_index("path")["image_id"]
    store.mark_trained([ids[first]])
    rows = store.images().set_index("path")["row"]
    links, searched = store.links()
    bridge = {"row_a": rows[first], "row_b": rows[second], "correlation": 1.0, "symmetry": 0}
    others = {
        "row_a": rows[second], "row_b": rows[second.replace("cat", "dog")], "correlation": 1.0,
        "symmetry": 0,
    }  # fmt: skip
    store.keep_links(pd.concat([links, pd.DataFrame([bridge, others])]), searched)
    store.assign_sides()
    joined = store.features(key).table().set_index("path")["split"]
    assert joined[first] == joined[second] == "train"


def test_old_stores_are_signed_by_reading_again(
    tmp_path: Path, network: object, store: Store
) -> None:
    folder = tmp_path / "photos"
    write(folder, {f"cat/{n}.png": picture(n) for n in range(3)})
    write(folder, {f"dog/{n}.png": jpeg(picture(n)) for n in range(3)})
    extract(open_source(str(folder)), network, store, device="cpu")
    for name in store.files.walk("twins"):
        store.files.remove(f"twins/{name}")
    store.write_settings({**store.settings(), "written": []})
    report = extract(open_source(str(folder)), network, store, device="cpu")
    assert any("6 images have no signature" in note for note in report.notes)
    assert len(unsigned_rows(store)) == 6
    (folder / "dog" / "2.png").write_bytes(b"another file by now")
    assert sign_images(store) == 5
    assert search_twins(store).links == 2
    assert search_twins(store, at_most=3).left


def test_lost_links_are_told_and_searched_again(
    tmp_path: Path, network: object, store: Store
) -> None:
    folder = tmp_path / "photos"
    write(folder, {f"cat/{n}.png": picture(n) for n in range(3)})
    write(folder, {f"dog/{n}.png": jpeg(picture(n)) for n in range(3)})
    source = open_source(str(folder))
    key = extract(source, network, store, device="cpu").key
    before, sides = twin_table(store), store.components()
    assert len(before) == 3
    gone = store.path("twins", "links.parquet")
    for lost in (1, 2):
        gone.unlink()
        with pytest.raises(StoreDamaged, match=r"links\.parquet is damaged .*alike twins"):
            twin_table(Store.open(store.url))
        # Rows are read as before: their sides are kept by themselves.
        assert len(store.features(key).table()) == 6
        if lost == 2:
            with pytest.raises(StoreDamaged, match="alike twins"):
                search_twins(store, at_most=3)
            search_twins(store)
        else:
            extract(source, network, store, device="cpu")
        pd.testing.assert_frame_equal(twin_table(store), before)
        pd.testing.assert_frame_equal(store.components(), sides)


def test_what_has_no_signature_is_told_and_what_was_searched_is_not_read_again(
    tmp_path: Path, network: object, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file of signatures is missed; bad and tiny images are neither lost nor unsigned."""
    folder = tmp_path / "photos"
    write(folder, {f"cat/{n}.png": picture(n) for n in range(3)})
    write(folder, {f"dog/{n}.png": jpeg(picture(n)) for n in range(3)})
    write(folder, {"dog/tiny.png": picture(7).resize((9, 9)), "dog/bad.png": picture(8)})
    (folder / "dog" / "bad.png").write_bytes(b"no image")
    report = extract(open_source(str(folder)), network, store, device="cpu")
    assert sum("1 of 8 images are smaller than 24 pixels" in note for note in report.notes) == 1
    assert not any("no signature" in note for note in report.notes)
    reads = []
    read = Signatures._read
    monkeypatch.setattr(Signatures, "_read", lambda *of: reads.append(of) or read(*of))
    again = extract(open_source(str(folder)), network, store, device="cpu")
    # What is so of the set is told each time.
    assert again.notes == report.notes
    # The bad image was never searched: row numbers of its unit alone are looked at.
    assert all(columns == ["row"] for _, _, columns in reads)
    name = next(name for name in store.files.walk("twins") if "signatures" in name)
    store.files.write(f"twins/{name}", b"PAR1 torn")
    write(folder, {"cat/new.png": picture(9)})
    damaged = extract(open_source(str(folder)), network, store, device="cpu")
    assert any("images have no signature" in note for note in damaged.notes)
    assert sign_images(store) == 7
    assert search_twins(store).links == 3


def test_images_without_features_to_compare_are_counted_for_the_whole_store(
    tmp_path: Path, network: object, store: Store
) -> None:
    folder = tmp_path / "photos"
    write(folder, {f"cat/{n}.png": picture(n) for n in range(3)})
    grey = {f"dog/flat{n}.png": Image.new("RGB", (60, 60), (90 + n,) * 3) for n in range(2)}
    write(folder, {**grey, "dog/tiny.png": picture(7).resize((9, 9))})
    report = extract(open_source(str(folder)), network, store, device="cpu")
    said = "3 of 6 images are smaller than 24 pixels or flat"
    assert sum(said in one for one in report.notes) == 1
    rows = store.images().set_index("path")["row"]
    plain = sorted(rows[name] for name in (*grey, "dog/tiny.png"))
    assert store.plain_rows().tolist() == plain
    write(folder, {"dog/more.png": picture(8).resize((12, 12)), "cat/new.png": picture(9)})
    more = extract(open_source(str(folder)), network, store, device="cpu")
    assert any("4 of 8 images are smaller" in one for one in more.notes)
    rows = store.images().set_index("path")["row"]
    plain = sorted([*plain, rows["dog/more.png"]])
    assert store.plain_rows().tolist() == plain
    place = ("twins", "--store", str(store.url), "--no-search")
    assert json.loads(CliRunner().invoke(app, (*place, "--json")).stdout)["plain"] == 4
    shown = CliRunner().invoke(app, place).output
    assert "note: 4 of 8 images are smaller than 24 pixels or flat" in shown
    # A store of an earlier version does not know them: the next search looks.
    links, searched = store.links()
    store.keep_links(links, searched)
    assert store.plain_rows() is None
    search_twins(store)
    assert store.plain_rows().tolist() == plain
    assert store.links()[1].tolist() == searched.tolist()


def test_groups_of_a_manifest_stand_together(tmp_path: Path, network: object, store: Store) -> None:
    write(tmp_path, {f"{n}.png": picture(n) for n in range(12)})
    lines = [f"{n}.png,{'ab'[n % 2]},{n // 3 if n < 9 else ''}" for n in range(12)]
    (tmp_path / "set.csv").write_text("path,label,patient\n" + "\n".join(lines) + "\n")
    store.set_split(0.5)
    source = open_source(str(tmp_path / "set.csv"), group="patient")
    assert [one.group for one in source][7:] == ["2", "2", None, None, None]
    key = extract(source, network, store, device="cpu").key
    table = store.features(key).table()
    sides_of_patients = [set(table["split"][at : at + 3]) for at in (0, 3, 6)]
    assert all(len(one) == 1 for one in sides_of_patients)
    smallest = [table["image_id"][at : at + 3].min() for at in (0, 3, 6)]
    assert [one.pop() for one in sides_of_patients] == splits_of(smallest, 0.5).tolist()
    assert set(twin_table(store)["how"]) == {"group"}
    assert len(twin_table(store)) == 6
    with pytest.raises(BadInput, match="none is 'nurse'"):
        open_source(str(tmp_path / "set.csv"), group="nurse")


def test_sides_and_trained_images_that_are_gone_are_named(
    tmp_path: Path, network: object, store: Store
) -> None:
    write(tmp_path, {f"{n}.png": picture(n) for n in range(6)})
    lines = [f"{n}.png,{'ab'[n % 2]},{n // 3}" for n in range(6)]
    (tmp_path / "set.csv").write_text("path,label,patient\n" + "\n".join(lines) + "\n")
    store.set_split(0.5)
    source = open_source(str(tmp_path / "set.csv"), group="patient")
    key = extract(source, network, store, device="cpu").key
    table = store.features(key).table()
    store.mark_trained(table[table["split"] == "train"]["image_id"])
    signed = store.path("twins", "signatures", "000000.parquet")
    for stray in ("._000000.parquet", "000000 (1).parquet"):
        signed.with_name(stray).write_bytes(b"\0")
    assert verify(store, mark=False).damage == ()
    sides = store.path("twins", "sides.parquet")
    trained = store.path("twins", "trained.parquet")
    whole = trained.read_bytes()
    for file in (sides, trained, signed):
        file.write_bytes(file.read_bytes()[:-9])
        assert [one.file for one in verify(store, mark=False).damage] == [
            file.relative_to(store.path()).as_posix()
        ]
        file.unlink()
        if file != signed:
            (one,) = verify(Store.open(store.url), mark=False).damage
            assert (one.file, one.reason) == (f"twins/{file.name}", "is missing")
        if file == sides:
            with pytest.raises(StoreDamaged, match="run `alike extract` again"):
                Store.open(store.url).features(key).table()
        if file == trained:
            file.write_bytes(whole)
        extract(source, network, store, device="cpu")
        assert verify(store, mark=False).damage == ()
    pd.testing.assert_frame_equal(store.features(key).table(), table)


def test_shares_that_do_not_fit_are_refused(store: Store) -> None:
    with pytest.raises(BadInput, match=r"validation share 0.3 beside train share 0.8"):
        store.set_split(0.8, validation_share=0.3)
    with pytest.raises(BadInput, match="together or ignore"):
        store.set_twins("apart")  # type: ignore[arg-type]
    assert image_id(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
