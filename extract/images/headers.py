"""What a tar holds: read through its headers once, then remembered by the stamp of the tar.

The headers lie between the images. To read them takes 40 µs of processor time for each file and, of
a tar on an object store, all of its bytes if the images are small. So they are kept in the user's
cache, one file for each tar, and read again where the stamp of the tar is another one.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alike.extract.documents import read_npz
from alike.extract.errors import StoreDamaged
from alike.extract.images.source import Stamp, local_path
from alike.extract.images.tree import shown
from alike.extract.places import cache_folder
from alike.extract.replacing import aside
from alike.extract.secrets import masked

FORM = 1
"""Of the kept file; another one is not read."""
KEPT_FROM = 1024
"""Files in a local tar from which on its headers are kept; of others, always."""
MAX_TEXT = 2**20
"""Bytes of a text that is read with the headers, at most."""
AGAIN = "its headers are read again"


@dataclass
class Contents:
    """Files of a tar, in its order.

    Attributes:
        names: as the tar has them, by `shown`; of several of one name all.
        offsets: where the bytes of each begin.
        sizes: bytes of each.
        texts: bytes of those that give labels, by their number.
    """

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    texts: dict[int, bytes] = field(default_factory=dict)


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
    file = cache_folder() / "tars" / hashlib.sha256(name.encode(errors="replace")).hexdigest()[:32]
    if stamp is not None and not anew:
        with suppress(OSError, StoreDamaged, ValueError, KeyError):
            return _from_bytes(file.read_bytes(), stamp, str(file))
    contents = Contents()
    with opened() as data, tarfile.open(fileobj=data, mode="r:") as tar:
        for member in tar:
            if member.isfile():
                if is_text(member.name) and member.size < MAX_TEXT:
                    text = tar.extractfile(member)
                    contents.texts[len(contents.names)] = text.read() if text else b""
                contents.names.append(shown(member.name))
                contents.offsets.append(member.offset_data)
                contents.sizes.append(member.size)
    if stamp is not None and (local_path(place) is None or len(contents.names) >= KEPT_FROM):
        # A cache that cannot be written costs time, and nothing else.
        with suppress(OSError), aside(file) as part:
            part.write_bytes(_as_bytes(contents, stamp, name))
    return contents


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
    return Contents(names, offsets, sizes, {number: whole[low:high] for number, low, high in spans})
