"""What a tar holds: read through its headers once, then remembered by the stamp of the tar.

The headers lie between the images. To read them takes 40 µs of processor time for each file and, of
a tar on an object store, all of its bytes if the images are small. So they are kept in the user's
cache, one file for each tar, and read again where the stamp of the tar is another one. A file that
was not read for long is deleted (`alike.extract.places.KEPT_DAYS`).
"""

import hashlib
import io
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alike.extract.documents import read_npz
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.images.source import Stamp, local_path
from alike.extract.images.tree import shown
from alike.extract.places import cache_folder, delete_unused, touch
from alike.extract.replacing import aside
from alike.extract.secrets import masked

FORM = 2
"""Of the kept file; another one is not read."""
KEPT_FROM = 1024
"""Files in a local tar from which on its headers are kept; of others, always."""
MAX_TEXT = 2**20
"""Bytes of a text that is read with the headers, at most."""
AGAIN = "its headers are read again"
SPARSE = -1
"""Offset of a file that its tar holds in pieces."""
MAX_LINKS = 40
"""Links from one to the next, at most."""
CHUNK = 2**20


@dataclass
class Contents:
    """Files of a tar, in its order.

    Attributes:
        names: as the tar has them, by `shown`; of several of one name all. A hard or symbolic link
            to a file of the tar is a file.
        offsets: where the bytes of each begin; `SPARSE` if they lie in pieces.
        sizes: bytes of each.
        texts: bytes of those that give labels, by their number.
        links: links to anything else, which are left out.
        behind: bytes behind the end of the tar, from the first that is not zero; -1 if the tar ends
            without the blocks that mark its end.
    """

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    texts: dict[int, bytes] = field(default_factory=dict)
    links: int = 0
    behind: int = 0


def contents_of(
    place: str,
    stamp: Stamp | None,
    opened: Callable[[], Any],
    is_text: Callable[[str], bool],
    *,
    anew: bool = False,
) -> Contents:
    """The files of an uncompressed tar.

    Args:
        place: path or URL of the tar.
        stamp: of the tar, asked before this; None if it is not to be remembered by it.
        opened: opens the tar to read it.
        is_text: says of a name whether the file's bytes are wanted, if they are not too many.
        anew: read the headers whatever is remembered.

    Raises:
        Exception: of tarfile or of the filesystem, if it cannot be read.
    """
    # Without secrets: a URL that is signed anew every day leads to one file.
    name = masked(place)
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:32]
    try:
        file = cache_folder() / "tars" / digest
    except BadInput:
        stamp, file = None, Path()
    if stamp is not None and not anew:
        with suppress(OSError, StoreDamaged, ValueError, KeyError):
            contents = _from_bytes(file.read_bytes(), stamp, str(file))
            touch(file)
            return contents
    with opened() as data:
        contents = _read(data, is_text)
    if stamp is not None and (local_path(place) is None or len(contents.names) >= KEPT_FROM):
        # A cache that cannot be written costs time, and nothing else.
        with suppress(OSError), aside(file) as part:
            part.write_bytes(_as_bytes(contents, stamp, name))
        # It grows only here.
        delete_unused(file.parent)
    return contents


def _read(data: Any, is_text: Callable[[str], bool]) -> Contents:
    """Read the headers of a tar.

    Raises:
        tarfile.ReadError: it is no tar, or damaged.
    """
    contents = Contents()
    with tarfile.open(fileobj=data, mode="r:") as tar:
        members = [one for one in tar if one.isfile() or one.islnk() or one.issym()]
        for name, member in _files(members):
            if member is None:
                contents.links += 1
                continue
            if is_text(name) and member.size < MAX_TEXT:
                text = tar.extractfile(member)
                contents.texts[len(contents.names)] = text.read() if text else b""
            contents.names.append(shown(name))
            contents.offsets.append(SPARSE if member.issparse() else member.offset_data)
            contents.sizes.append(member.size)
        contents.behind = _behind(data, tar.offset)
    return contents


def _files(members: list[tarfile.TarInfo]) -> Iterator[tuple[str, tarfile.TarInfo | None]]:
    """The name of every file or link, and the file that it stands for; None without one."""
    if not any(one.islnk() or one.issym() for one in members):
        yield from ((one.name, one) for one in members)
        return
    # A symbolic link is followed when all is unpacked, a hard one while it is.
    last = {posixpath.normpath(one.name): one for one in members}
    before = dict[str, tarfile.TarInfo]()
    for member in members:
        stands: tarfile.TarInfo | None = member
        for _ in range(MAX_LINKS):
            if stands is None or stands.isfile():
                break
            if stands.islnk():
                stands = before.get(posixpath.normpath(stands.linkname))
            else:
                above = posixpath.dirname(stands.name)
                stands = last.get(posixpath.normpath(posixpath.join(above, stands.linkname)))
        found = stands if stands is not None and stands.isfile() else None
        before[posixpath.normpath(member.name)] = found or member
        yield member.name, found


def _behind(data: Any, offset: int) -> int:
    """Bytes behind the end of a tar whose last header was to begin here; see `Contents`.

    Python's reader takes what is no header for the end.

    Raises:
        tarfile.ReadError: there is something else than an end.
    """
    data.seek(offset)
    block = data.read(tarfile.BLOCKSIZE)
    if not block:
        return -1
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"the header at byte {offset} is damaged")
    behind = 0
    while part := data.read(CHUNK):
        behind += len(part) if behind else len(part.lstrip(b"\0"))
    return behind


def _as_bytes(contents: Contents, stamp: Stamp, place: str) -> bytes:
    data = io.BytesIO()
    # Hardly a name holds a null byte; where one does, the lengths differ and nothing is taken.
    names = "\0".join(contents.names).encode()
    np.savez_compressed(
        data,
        form=np.array([FORM]),
        place=np.frombuffer(place.encode(errors="surrogateescape"), np.uint8),
        stamp=np.array(stamp, np.int64),
        names=np.frombuffer(names, np.uint8),
        offsets=np.array(contents.offsets, np.int64),
        sizes=np.array(contents.sizes, np.int64),
        texts=np.frombuffer(b"".join(contents.texts.values()), np.uint8),
        text_of=np.array(list(contents.texts), np.int64),
        text_sizes=np.array([len(one) for one in contents.texts.values()], np.int64),
        left=np.array([contents.links, contents.behind], np.int64),
    )
    return data.getvalue()


def _from_bytes(data: bytes, stamp: Stamp, place: str) -> Contents:
    """What was kept under this stamp.

    Raises:
        StoreDamaged: it is torn.
        ValueError: it was kept under another stamp, or in another form.
    """
    kept = read_npz(data, place, AGAIN)
    if kept["form"].tolist() != [FORM] or tuple(kept["stamp"].tolist()) != tuple(stamp):
        raise ValueError(place)
    offsets, sizes = kept["offsets"].tolist(), kept["sizes"].tolist()
    text = kept["names"].tobytes().decode()
    names = text.split("\0") if sizes else []
    if not len(names) == len(offsets) == len(sizes):
        raise ValueError(place)
    whole, ends = kept["texts"].tobytes(), np.cumsum(kept["text_sizes"]).tolist()
    spans = zip(kept["text_of"].tolist(), [0, *ends[:-1]], ends, strict=True)
    held = {number: whole[low:high] for number, low, high in spans}
    links, behind = kept["left"].tolist()
    return Contents(names, offsets, sizes, held, links, behind)
