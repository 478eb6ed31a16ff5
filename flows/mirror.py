"""A copy of what a run leaves for people, at the URL or folder of `[output] mirror`.

Reports, weights and decisions are made in the local output folder, and copied after the run. What
was copied is remembered by the stamps of the local files. A place that cannot be written ends no
run: it is said, and the next run tries again. A folder is looked at every time, and a URL when
something is copied there: what somebody deleted is copied again.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alike.extract.documents import read_sealed, sealed_json
from alike.extract.errors import StoreDamaged
from alike.extract.images import Stamp, filesystem_of, stamp_local
from alike.extract.secrets import masked
from alike.flows.log_lines import Tell

FILE = "mirrored.json"
FOLDERS, FILES = ("weights", "reports"), ("decisions.jsonl", "report.html")
"""What is copied, in this order: the report comes last, when all is there."""
UNFINISHED = (".part", ".partial", ".tmp", ".ckpt")
"""Endings of files that a run is still at work on, and of checkpoints of trainings."""


@dataclass(frozen=True)
class Mirrored:
    """What was copied.

    Attributes:
        place: where to, without secrets.
        stamps: of the local files, by their names in the output folder.
    """

    place: str = ""
    stamps: dict[str, list[int]] = field(default_factory=dict)


def mirror(folder: Path, place: str | None, tell: Tell) -> None:
    """Copy what is new or changed in an output folder, and delete the copies of what is gone.

    Only files that were copied before are deleted. If nothing changed, a URL is not asked.

    Args:
        folder: the output folder.
        place: a URL or a local folder; None: nothing is copied.
        tell: called with a warning if that fails.
    """
    if place is None:
        return
    before, shown = _before(folder), masked(place)
    stamps = {name: list(stamp) for name, stamp in _files(folder)}
    if before.place != shown:
        # What lies at another place stays there.
        before = Mirrored(shown)
    changed = [name for name, stamp in stamps.items() if before.stamps.get(name) != stamp]
    gone = [name for name in before.stamps if name not in stamps]
    if not changed and not gone and ("://" in place or _all_there(place, before)):
        return
    copied = dict(before.stamps)
    try:
        filesystem, base = filesystem_of(place)
        there = _names_there(filesystem, base) if before.stamps else set()
        for name in [one for one in stamps if one in changed or one not in there]:
            _copy(filesystem, folder / name, f"{base.rstrip('/')}/{name}")
            copied[name] = stamps[name]
        for name in gone:
            with suppress(FileNotFoundError):
                filesystem.rm_file(f"{base.rstrip('/')}/{name}")
            del copied[name]
    # Every filesystem raises errors of its own.
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        said = f"not all was copied to [output] mirror {place}, the next run tries again: {line}"
        tell(masked(said), level="warning")
    aside = folder / f"{FILE}.part"
    aside.write_bytes(sealed_json(asdict(Mirrored(shown, copied))))
    aside.replace(folder / FILE)


def _all_there(place: str, copies: Mirrored) -> bool:
    """Whether a local folder holds all that was copied there."""
    return all((Path(place) / name).is_file() for name in copies.stamps)


def _names_there(filesystem: Any, base: str) -> set[str]:
    """Names of the files at a place; none where there is no such place."""
    begin = f"{base.rstrip('/')}/"
    filesystem.invalidate_cache()
    # Not all of the place: it may hold much else.
    names = {name for name in FILES if filesystem.isfile(f"{begin}{name}")}
    for folder in FOLDERS:
        with suppress(FileNotFoundError):
            names.update(name.removeprefix(begin) for name in filesystem.find(f"{begin}{folder}"))
    return names


def _before(folder: Path) -> Mirrored:
    file = folder / FILE
    # What cannot be read costs a copy of all.
    with suppress(OSError, StoreDamaged):
        return read_sealed(file.read_bytes(), Mirrored, str(file), "it is written anew")
    return Mirrored()


def _files(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """Files to copy, names relative to the folder, in the order in which they are copied."""
    inside = [file for name in FOLDERS for file in sorted((folder / name).rglob("*"))]
    for file in (*inside, *(folder / name for name in FILES)):
        stamp = None if file.suffix in UNFINISHED else stamp_local(file)
        if stamp is not None:
            yield file.relative_to(folder).as_posix(), stamp


def _copy(filesystem: Any, file: Path, to: str) -> None:
    filesystem.makedirs(to.rpartition("/")[0], exist_ok=True)
    filesystem.put_file(str(file), to)
