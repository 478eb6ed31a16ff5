"""WebDataset tar shards: files that share a name up to the first dot are one sample."""

import glob
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from alike.extract.errors import BadImage, BadInput
from alike.extract.images.formats import SUFFIXES
from alike.extract.images.source import Listed, check_bytes, one_line

LABEL_SUFFIXES = (".cls", ".label")
MAX_SHARDS = 100_000


@dataclass(frozen=True)
class _Member:
    shard: str
    offset: int
    size: int


class TarSource:
    """Images in uncompressed tar files; a path is ``shard.tar/member``.

    The label is the text of the sample's ``.cls`` or ``.label``, else ``label`` of its ``.json``,
    else the name of the folder that the member lies in, else None. Headers are read once; images
    are read by their place in the file, so threads need not follow its order.

    Args:
        spec: one tar, ``name-*.tar`` or ``name-{0000..0009}.tar``; local paths, or URLs of fsspec.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec if "://" in spec else str(Path(spec).expanduser().absolute())
        self.options: dict[str, Any] = {}
        self._shards = _expand(self.spec)
        self._members: dict[str, _Member] = {}
        self._listed: list[Listed] | None = None
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Listed]:
        """Shard by shard, in the order inside."""
        with self._lock:
            if self._listed is None:
                self._listed = [one for shard in self._shards for one in self._index(shard)]
        yield from self._listed

    def _index(self, shard: str) -> list[Listed]:
        """Places of a shard's images; read through its headers."""
        texts: dict[str, str] = {}
        images: list[tuple[str, str]] = []
        try:
            with _open(shard) as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
                for member in tar:
                    name = PurePosixPath(member.name)
                    if not member.isfile() or name.name.startswith("."):
                        continue
                    if name.suffix.lower() in SUFFIXES:
                        images.append((member.name, _sample(name)))
                        place = _Member(shard, member.offset_data, member.size)
                        self._members[f"{_short(shard)}/{member.name}"] = place
                    elif name.suffix in (*LABEL_SUFFIXES, ".json") and member.size < 2**20:
                        file = tar.extractfile(member)
                        text = file.read().decode(errors="replace") if file else ""
                        _keep_label(texts, _sample(name), name.suffix, text)
        # Every filesystem raises its own errors, beside tarfile's.
        except Exception as error:
            raise BadInput(
                f"{shard} cannot be read as an uncompressed tar ({error}): unpack it, or make the "
                "shards again"
            ) from error
        return [
            Listed(f"{_short(shard)}/{name}", texts.get(sample, _folder(name)))
            for name, sample in images
        ]

    def read(self, path: str) -> bytes:
        """The member's bytes."""
        if not self._members:
            next(iter(self), None)
        member = self._members.get(path)
        if member is None:
            raise BadImage("unreadable", f"no member {path}")
        check_bytes(member.size)
        try:
            with _open(member.shard) as opened:
                opened.seek(member.offset)
                data: bytes = opened.read(member.size)
        except Exception as error:
            raise BadImage("unreadable", one_line(error)) from error
        if len(data) < member.size:
            raise BadImage("truncated", f"shard ends {member.size - len(data)} bytes early")
        return data


def _open(shard: str) -> Any:
    if "://" not in shard:
        return Path(shard).open("rb")
    import fsspec

    return fsspec.open(shard, "rb").open()


def _short(shard: str) -> str:
    return shard.rpartition("/")[2]


def _sample(name: PurePosixPath) -> str:
    return f"{name.parent}/{name.name.split('.')[0]}"


def _folder(name: str) -> str | None:
    return PurePosixPath(name).parent.name or None


def _keep_label(texts: dict[str, str], sample: str, suffix: str, text: str) -> None:
    if suffix in LABEL_SUFFIXES:
        texts[sample] = text.strip()
        return
    try:
        sample_info = json.loads(text)
    except ValueError:
        return
    if isinstance(sample_info, dict) and sample_info.get("label") is not None:
        texts.setdefault(sample, str(sample_info["label"]))


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
