"""Class and subset of an image by the folders that it lies in: the same for a folder and a tar."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile

SUBSETS = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "holdout")
)
"""Names of folders that divide a set, in lower case."""

SYSTEM = frozenset(
    (
        *("@eadir", "#recycle", "@recycle", "__macosx", "lost+found"),
        *("$recycle.bin", "recycler", "system volume information"),
    )
)
"""Folders that a NAS, macOS, a disk or Windows makes, in lower case; they hold no images of a set.

Hidden folders (``.thumbnails``, ``.ipynb_checkpoints``) are none either.
"""

Folders = tuple[str, ...]
"""The folders that an image lies in, from the root down."""


def is_left_out(folder: str) -> bool:
    """Whether a folder of this name is hidden or one of `SYSTEM`.

    Example:
        >>> is_left_out("@eaDir"), is_left_out(".thumbnails"), is_left_out("cat")
        (True, True, False)
    """
    return (folder.startswith(".") and folder != "..") or folder.lower() in SYSTEM


def folders_note(names: Iterable[str]) -> str | None:
    """One line that counts the folders that a listing left out, None if it left out none."""
    counts = Counter(names)
    if not counts:
        return None
    listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"hidden folders and folders of the system are left out: {listed}"


def has_subsets(folders: Iterable[Folders]) -> bool:
    """Whether the folders at the top are subsets over class folders.

    Every image must lie in a folder named as one of `SUBSETS`, and one of these must hold a folder.

    Args:
        folders: of every image; each need be there once only.

    Example:
        >>> has_subsets([("train", "cat"), ("val", "cat")]), has_subsets([("train",), ("bus",)])
        (True, False)
    """
    deeper = False
    for place in folders:
        if not place or place[0].lower() not in SUBSETS:
            return False
        deeper |= len(place) > 1
    return deeper


def placed(folders: Folders, subsets: bool) -> tuple[str | None, str | None]:
    """(class, subset) of an image; None if its place names none.

    Args:
        folders: that it lies in.
        subsets: what `has_subsets` said of the set.
    """
    if subsets:
        return (folders[1] if len(folders) > 1 else None), folders[0]
    return (folders[0] if folders else None), None


def without_top(folders: Sequence[Folders]) -> list[Folders]:
    """Folders below those that all images share.

    A tar of a folder holds the folder's own name, or ``.``. If all images lie in one and the same
    folder, that folder is their class.

    Example:
        >>> without_top([("photos", "cat"), ("photos", "dog")]), without_top([("photos", "cat")])
        ([('cat',), ('dog',)], [('cat',)])
    """
    if not folders:
        return []
    # By the first and the last in order: what these two share, all between them share.
    low, high = min(folders), max(folders)
    shared = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False))
    )
    if all(len(place) == shared for place in folders) and shared:
        shared -= 1
    # A subset that holds everything is not a name to drop.
    first = next((n for n in range(shared) if folders[0][n].lower() in SUBSETS), shared)
    return [place[first:] for place in folders]


def subset_note(names: Iterable[str], unlabelled: int) -> str:
    """One line that says how the folders were taken."""
    listed = ", ".join(sorted(set(names)))
    rest = f"; {unlabelled} images directly in one of them have no class" if unlabelled else ""
    return (
        f"the folders {listed} are subsets (--where subset=NAME), and the folder below is the "
        f"class{rest}"
    )
