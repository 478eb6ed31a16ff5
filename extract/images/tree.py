"""Class and subset of an image by the folders that it lies in: the same for a folder and a tar."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile

SUBSET = re.compile(
    r"(train|training|val|valid|validation|dev|test|testing|holdout|eval|evaluation)"
    r"([-_ ]?(set|data|images|split|\d+))?"
)
"""Names of folders that divide a set, in lower case: ``train``, ``val2017``, ``test_set``."""

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
OUTPUT_MARK = ".alike-output"
"""File in the output folder of a run, from its begin on."""
OUTPUTS = ({OUTPUT_MARK}, {"store.json", "manifest"}, {"steps.json", "store"})
"""Names of which all lie in a store, or in the output folder of a run (earlier: without mark)."""


def is_output(names: Collection[str]) -> bool:
    """Whether these names lie in a store, or in the output folder of a run, and not in a set.

    A set may hold them: what was made of images is none of them, whether it is there or not.

    Example:
        >>> is_output(["features.zarr", "manifest", "store.json"]), is_output(["cat", "dog"])
        (True, False)
    """
    return any(one <= set(names) for one in OUTPUTS)


def is_left_out(folder: str) -> bool:
    """Whether a folder of this name is hidden or one of `SYSTEM`.

    Example:
        >>> is_left_out("@eaDir"), is_left_out(".thumbnails"), is_left_out("cat")
        (True, True, False)
    """
    return (folder.startswith(".") and folder != "..") or folder.lower() in SYSTEM


def is_subset(folder: str) -> bool:
    """Whether a folder is named as the parts of a set are.

    Example:
        >>> is_subset("Train"), is_subset("val2017"), is_subset("trains")
        (True, True, False)
    """
    return SUBSET.fullmatch(folder.lower()) is not None


def folders_note(names: Iterable[str]) -> str | None:
    """One line that counts the folders that a listing left out, None if it left out none."""
    counts = Counter(names)
    if not counts:
        return None
    listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"hidden folders and folders of the system are left out: {listed}"


def outputs_note(names: Iterable[str]) -> list[str]:
    """A line that names the folders of outputs (`is_output`) that a listing left out, if any."""
    listed = ", ".join(sorted(names))
    return [f"stores and outputs of runs are no images and are left out: {listed}"] * bool(listed)


def has_subsets(folders: Iterable[Folders]) -> bool:
    """Whether the folders at the top are subsets over class folders.

    Every image must lie in a folder named as one of `SUBSET`, and one of these must hold a folder.

    Args:
        folders: of every image; each need be there once only.

    Example:
        >>> has_subsets([("train", "cat"), ("val", "cat")]), has_subsets([("train",), ("bus",)])
        (True, False)
    """
    deeper = False
    for place in folders:
        if not place or not is_subset(place[0]):
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


def shared_top(folders: Sequence[Folders]) -> int:
    """How many folders at the top all images share that name no class.

    A tar of a folder holds the folder's own name, or ``.``, and a set that was unpacked often lies
    in a folder of its own. If all images lie in one and the same folder, it is their class.

    Example:
        >>> shared_top([("photos", "cat"), ("photos", "dog")]), shared_top([("photos", "cat")])
        (1, 1)
        >>> shared_top([("train", "cat"), ("train", "dog")]), shared_top([("cat",)])
        (0, 0)
    """
    if not folders:
        return 0
    # By the first and the last in order: what these two share, all between them share.
    low, high = min(folders), max(folders)
    shared = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False))
    )
    if all(len(place) == shared for place in folders) and shared:
        shared -= 1
    # A subset that holds everything is not a name to drop, unless it holds subsets itself.
    for depth in range(shared):
        below = {place[depth + 1] for place in folders if len(place) > depth + 1}
        if is_subset(folders[0][depth]) and not (below and all(map(is_subset, below))):
            return depth
    return shared


def top_note(top: Folders) -> list[str]:
    """A line on the folders that all images share, if there are any."""
    if not top:
        return []
    return [f"all images lie in {'/'.join(top)}: the folders below it are the classes"]


def named_as_subsets(classes: Iterable[str]) -> list[str]:
    """A line on classes that have names of subsets, if there are several.

    Args:
        classes: that folders named.
    """
    names = sorted(set(classes))
    subsets = [name for name in names if is_subset(name)]
    if len(subsets) < 2:
        return []
    other = next((name for name in names if not is_subset(name)), None)
    reason = "no folders of classes lie in them" if other is None else f"{other} is beside them"
    return [
        f"the folders {', '.join(subsets)} are named as subsets and taken for classes, because "
        f"{reason}"
    ]


def subset_note(names: Iterable[str], unlabelled: int) -> str:
    """One line that says how the folders were taken."""
    listed = ", ".join(sorted(set(names)))
    rest = f"; {unlabelled} images directly in one of them have no class" if unlabelled else ""
    return (
        f"the folders {listed} are subsets (--where subset=NAME), and the folder below is the "
        f"class{rest}"
    )


def shown(name: str) -> str:
    r"""A file's name as text: bytes that are not UTF-8 become ``\xe9``."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
