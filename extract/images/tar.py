"""WebDataset tar shards: files that share a name up to the first dot are one sample."""

import glob
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from alike.extract.errors import BadImage, BadInput
from alike.extract.images.formats import SUFFIXES, left_out_note
from alike.extract.images.headers import SPARSE, Contents, contents_of
from alike.extract.images.labels import LabelRule
from alike.extract.images.source import (
    Listed,
    Stamp,
    check_bytes,
    filesystem_of,
    one_line,
    stamp_of_container,
)
from alike.extract.images.spans import Spans
from alike.extract.images.tree import (
    Folders,
    folders_note,
    has_subsets,
    is_left_out,
    named_as_subsets,
    placed,
    shared_top,
    subset_note,
    top_note,
)
from alike.extract.places import expanded
from alike.extract.secrets import masked

LABEL_SUFFIXES = (".cls", ".label")
BESIDE = frozenset((".id", ".npz", ".pth", ".pt", ".txt", ".caption"))
"""Suffixes of a sample's other fields, which nobody takes for its image."""
MAX_SHARDS = 100_000
LINKS = "{} links of tars are left out: they lead to no file of their tar"
UNMARKED = "tars without the mark of their end: {}; if an image is missed, they were cut short"
BEHIND = "bytes behind the end of a tar are not read: of {}; tars that were joined must be apart"
TWICE = "{} files of a name that comes again in their tar are left out: the last one counts"


@dataclass(frozen=True)
class _Member:
    shard: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Image:
    path: str
    folders: Folders
    sample: str
    ending: str


class TarSource:
    """Images in uncompressed tar files; a path is ``shard.tar/member``.

    The label is the text of the sample's ``.cls`` or ``.label``, else ``label`` of its ``.json``,
    else that of the folders that the member lies in, as for a folder of class folders, else None.
    One image of a sample is taken: the one with a plain suffix (``x.jpg`` before ``x.seg.png``).
    Headers are read once and remembered by the stamp of their tar; images are read by their place
    in the file, so threads need not follow its order.

    Args:
        spec: one tar, ``name-*.tar`` or ``name-{0000..0009}.tar``; local paths, or URLs of fsspec.
        image: which image of a sample is taken, by all after the first dot: ``seg.png``.
        label: name of the label in a sample's ``.json``; if given, no ``.cls`` is read.
        first_label: what to do with several labels of one image; see `LabelRule`.
        subsets: False takes the first folder for the class, whatever its name.
    """

    def __init__(
        self,
        spec: str,
        image: str = "",
        label: str = "",
        first_label: bool | None = None,
        subsets: bool = True,
    ) -> None:
        self.spec = spec if "://" in spec else str(expanded(spec).absolute())
        given = {"image": image, "label": label}
        self.options: dict[str, Any] = {name: value for name, value in given.items() if value}
        self.options |= {} if first_label is None else {"first_label": first_label}
        self.options |= {} if subsets else {"subsets": False}
        self._image, self._label, self._subsets = image.lstrip(".").lower(), label, subsets
        self._rule = LabelRule(self.spec, first_label)
        self.notes: list[str] = []
        self._shards = _expand(self.spec)
        self._members: dict[str, _Member] = {}
        self._stamps: dict[str, Stamp | None] = {}
        self._spans = Spans([], _asked_for)
        self._without: dict[str, list[str] | None] = {}
        self._skipped, self._twice = set[tuple[str, ...]](), 0
        self._links, self._unmarked, self._behind = 0, list[str](), list[str]()
        self._listed: list[Listed] | None = None
        self._anew = False
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Listed]:
        """Shard by shard, in the order inside."""
        with self._lock:
            if self._listed is None:
                self._listed = self._list()
        yield from self._listed

    def read_anew(self) -> None:
        """Read all headers the next time, whatever is remembered of them."""
        with self._lock:
            self._listed, self._anew = None, True

    def _list(self) -> list[Listed]:
        self._members, self._without, self._skipped, self._twice = {}, {}, set(), 0
        self._links, self._unmarked, self._behind = 0, [], []
        images, texts, left_out = list[_Image](), dict[str, Any](), list[str]()
        for shard in self._shards:
            self._index(shard, images, texts, left_out)
        # Of a name that comes again the last file counts, which lies behind others.
        whole = [one for one in self._members.values() if one.offset != SPARSE]
        parts = {(one.shard, one.offset, one.size) for one in whole}
        self._spans = Spans(sorted(part for part in parts if "://" in part[0]), _asked_for)
        images, beside = self._one_a_sample(images)
        top = shared_top([one.folders for one in images])
        places = [one.folders[top:] for one in images]
        subsets = self._subsets and has_subsets(places)
        named, classes, listed, unlabelled = set[str](), set[str](), list[Listed](), 0
        for one, place in zip(images, places, strict=True):
            folder, subset = placed(place, subsets)
            if one.sample in texts:
                label = self._rule(texts[one.sample])
            else:
                label = None if folder is None else self._rule.folder(folder)
                classes |= {label} if label else set()
            named |= {subset} if subset else set()
            unlabelled += subset is not None and label is None
            listed.append(Listed(one.path, label, subset))
        lines = top_note(images[0].folders[:top]) if classes else []
        lines += [subset_note(named, unlabelled)] if subsets else []
        lines += named_as_subsets(classes) if self._subsets and not subsets else []
        pairs = zip(images, listed, strict=True)
        lines += self._without_note({one.sample for one, shown in pairs if shown.label is None})
        lines += [_beside_note(beside)] if beside else []
        lines += [TWICE.format(self._twice)] if self._twice else []
        lines += [LINKS.format(self._links)] if self._links else []
        lines += [UNMARKED.format(_first(self._unmarked))] if self._unmarked else []
        lines += [BEHIND.format(_first(self._behind))] if self._behind else []
        skipped = folders_note(place[-1] for place in self._skipped)
        rest = filter(None, [left_out_note(left_out), skipped])
        self.notes = [*lines, *self._rule.notes, *rest]
        return listed

    def _index(
        self, shard: str, images: list["_Image"], texts: dict[str, Any], left_out: list[str]
    ) -> None:
        """Places of a shard's images, and the labels beside them."""
        self._stamps[shard] = stamp_of_container(shard)
        try:
            held = contents_of(
                shard, self._stamps[shard], lambda: _open(shard), _gives_label, anew=self._anew
            )
        # Every filesystem raises its own errors, beside tarfile's.
        except Exception as error:
            raise BadInput(
                f"{shard} cannot be read as an uncompressed tar ({error}): unpack it, or make the "
                "shards again"
            ) from error
        self._links += held.links
        if held.behind:
            (self._unmarked if held.behind < 0 else self._behind).append(_short(shard))
        for name, number in self._files(shard, held):
            sample = f"{shard}/{_sample(name)}"
            if name.suffix.lower() in SUFFIXES:
                path = f"{_short(shard)}/{held.names[number]}"
                folders = tuple(part for part in name.parent.parts if part not in ("/", ".."))
                images.append(_Image(path, folders, sample, _ending(name)))
                self._members[path] = _Member(shard, held.offsets[number], held.sizes[number])
            elif number in held.texts:
                self._keep_label(texts, sample, name, held.texts[number])
            elif name.suffix.lower() not in BESIDE:
                left_out.append(name.name)

    def _files(self, shard: str, held: Contents) -> Iterator[tuple[PurePosixPath, int]]:
        """Files of a shard that are not hidden; of several of one name the last, as tar unpacks."""
        files: dict[PurePosixPath, int] = {}
        for number, text in enumerate(held.names):
            name = PurePosixPath(text)
            if name.name.startswith("."):
                continue
            skipped = next((at for at, part in enumerate(name.parts) if is_left_out(part)), None)
            if skipped is not None:
                self._skipped.add((shard, *name.parts[: skipped + 1]))
                continue
            self._twice += name in files
            files[name] = number
        yield from files.items()

    def _one_a_sample(self, images: list["_Image"]) -> tuple[list["_Image"], list["_Image"]]:
        """The images that are taken, in order, and those that are left out."""
        chosen: dict[str, _Image] = {}
        for one in images:
            best = chosen.get(one.sample)
            if best is None or self._rank(one) < self._rank(best):
                chosen[one.sample] = one
        taken = [one for one in images if chosen[one.sample] is one]
        if self._image and not any(one.ending == self._image for one in taken):
            endings = ", ".join(sorted({one.ending for one in images}))
            raise BadInput(
                f"{self.spec}: no image ends in .{self._image}; the images of a sample end in "
                f"{endings}: name one by the option image"
            )
        if self._image:
            taken = [one for one in taken if one.ending == self._image]
        paths = {one.path for one in taken}
        return taken, [one for one in images if one.path not in paths]

    def _rank(self, one: "_Image") -> int:
        return 0 if one.ending == self._image else 1 + one.ending.count(".")

    def _keep_label(
        self, texts: dict[str, Any], sample: str, name: PurePosixPath, data: bytes
    ) -> None:
        """Keep the label that a text beside an image gives; a ``.cls`` comes before a ``.json``."""
        if name.suffix.lower() in LABEL_SUFFIXES:
            if not self._label:
                # As bytes: the rule says what is wrong with a text that is not UTF-8.
                texts[sample] = data
            return
        try:
            table = json.loads(data)
        except (ValueError, RecursionError):
            table = None
        key = self._label or "label"
        if isinstance(table, dict) and key in table:
            texts.setdefault(sample, table[key])
        elif _is_label(table) and not self._label:
            texts.setdefault(sample, table)
        else:
            self._without[sample] = sorted(table) if isinstance(table, dict) else None

    def _without_note(self, unlabelled: set[str]) -> list[str]:
        """One line on samples that have no label, and a ``.json`` that does not give it."""
        silent = [fields for sample, fields in self._without.items() if sample in unlabelled]
        if not silent:
            return []
        fields = sorted({name for one in silent for name in one or ()})
        way = f"; they have {', '.join(fields[:8])}: --label-column names one" if fields else ""
        broken = sum(one is None for one in silent)
        rest = f"; {broken} of them cannot be read as a mapping" if broken else ""
        key = self._label or "label"
        return [f"{len(silent)} images have no class: their .json has no {key!r}{way}{rest}"]

    def _part(self, member: _Member) -> bytes:
        """The bytes of a member; of a tar at a URL of those beside it too, if they are wanted."""
        if "://" in member.shard:
            return self._spans.read((member.shard, member.offset, member.size))
        with _open(member.shard) as opened:
            opened.seek(member.offset)
            return bytes(opened.read(member.size))

    def _member(self, path: str) -> _Member | None:
        if not self._members:
            next(iter(self), None)
        return self._members.get(path)

    def stamp(self, path: str) -> Stamp | None:
        """Says whether the shard is as it was."""
        member = self._member(path)
        return None if member is None else self._stamps[member.shard]

    def read(self, path: str) -> bytes:
        """The member's bytes."""
        member = self._member(path)
        if member is None:
            raise BadImage("unreadable", f"no member {path}")
        check_bytes(member.size)
        if member.offset == SPARSE:
            raise BadImage("unreadable", "a sparse file: pack its tar without --sparse")
        try:
            data = self._part(member)
        except BadInput:
            # No image of the tar can be read.
            raise
        except Exception as error:
            raise BadImage("unreadable", one_line(error)) from error
        if len(data) < member.size:
            raise BadImage("truncated", f"shard ends {member.size - len(data)} bytes early")
        return data


def _is_label(value: Any) -> bool:
    """Whether a ``.json`` is a label by itself: a text, a number, a boolean, or a list of them."""
    values = value if isinstance(value, list) else [value]
    return all(isinstance(one, str | int | float) for one in values)


def _open(shard: str) -> Any:
    if "://" not in shard:
        # A pipe would block for ever.
        if not Path(shard).is_file():
            raise OSError("not a regular file" if Path(shard).exists() else "no such file")
        return Path(shard).open("rb")
    import fsspec

    return fsspec.open(shard, "rb").open()


def _asked_for(shard: str, low: int, high: int) -> bytes:
    """Bytes of a tar at a URL, these alone.

    Raises:
        BadInput: the server sends more, as those do which know no parts of files.
    """
    filesystem, path = filesystem_of(shard)
    data = bytes(filesystem.cat_file(path, start=low, end=high)) if high > low else b""
    if len(data) > high - low:
        raise BadInput(
            f"{masked(shard)}: {len(data)} bytes came where {high - low} were asked for: its "
            "server sends whole files only (no byte ranges); copy the tar to this machine, or to "
            "a store that sends parts"
        )
    return data


def _gives_label(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (*LABEL_SUFFIXES, ".json")


def _short(shard: str) -> str:
    return shard.rpartition("/")[2]


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _sample(name: PurePosixPath) -> str:
    """Name of a sample: up to the first dot, and numbers after it (``photo.2021.07.jpg``)."""
    first, *parts = name.name.split(".")
    numbers = list(takewhile(str.isdigit, parts))
    return f"{name.parent}/{'.'.join((first, *numbers))}"


def _ending(name: PurePosixPath) -> str:
    """All after the first dot, without parts that are numbers: those belong to the name."""
    parts = name.name.lower().split(".")[1:]
    return ".".join(part for part in parts if not part.isdigit())


def _beside_note(images: list["_Image"]) -> str:
    counts = Counter(one.ending for one in images)
    listed = ", ".join(f".{ending} {count}" for ending, count in sorted(counts.items()))
    first = min(counts)
    return (
        f"{len(images)} images beside the image of their sample are left out: {listed}; "
        f"--source-option image={first} takes these instead"
    )


def _expand(spec: str) -> list[str]:
    """Shards of ``{0000..0009}`` and ``*``; names must differ, paths begin with them."""
    span = re.search(r"\{(\d+)\.\.(\d+)\}", spec)
    if span:
        first, last = int(span[1]), int(span[2])
        if last - first >= MAX_SHARDS:
            raise BadInput(f"{spec} names {last - first + 1} shards, at most {MAX_SHARDS} are read")
        numbers = [str(number).zfill(len(span[1])) for number in range(first, last + 1)]
        return [spec[: span.start()] + number + spec[span.end() :] for number in numbers]
    if glob.has_magic(spec):
        shards = _fitting(spec)
        if not shards:
            raise BadInput(f"no file fits {spec}: check the pattern")
        return shards
    return [spec]


def _fitting(spec: str) -> list[str]:
    """Files that fit a pattern, in order of names."""
    if "://" not in spec:
        place = Path(spec)
        root = Path(place.anchor)
        return sorted(map(str, root.glob(str(place.relative_to(root)))))
    import fsspec

    # Every filesystem raises its own errors: no credentials, no bucket…
    try:
        filesystem, pattern = fsspec.core.url_to_fs(spec)
        return sorted(filesystem.unstrip_protocol(name) for name in filesystem.glob(pattern))
    except Exception as error:
        raise BadInput(f"{spec} cannot be listed: {type(error).__name__}: {error}") from error
