"""What a run mends by itself: features that are damaged are taken back and computed again."""

from typing import TYPE_CHECKING

from alike.extract.errors import AlikeError, NoStore, StoreDamaged

if TYPE_CHECKING:
    from alike.flows.steps import PipelineRun

_OF_FEATURES = ("features.zarr", "ledger", "constants")
"""Folders of a store with one folder for each extraction: all in them can be computed again."""
_NAMED = 3
"""Files that a line names."""


def damaged_key(error: StoreDamaged) -> str:
    """The extraction to which a damaged file belongs; empty if it is of none.

    Example:
        >>> damaged_key(StoreDamaged("torn", file="features.zarr/resnet18-1f/gap/c.0.0"))
        'resnet18-1f'
    """
    home, _, rest = error.file.partition("/")
    key, _, name = rest.partition("/")
    return key if home in _OF_FEATURES and name else ""


def take_back(run: "PipelineRun", key: str) -> str:
    """Take back what of an extraction is damaged, so that the steps make it again.

    All of the extraction is read and hashed, as by `alike store verify`. Damaged rows no longer
    count: the next extraction computes them. Fitted measures are fitted again.

    Args:
        run: whose store it is.
        key: of the extraction.

    Returns:
        A line that says what was damaged; empty if nothing was, or it cannot be taken back now.
    """
    from alike.extract.store import verify

    try:
        damage = verify(run.store(), key, progress=run.progress).damage
    except AlikeError:
        # Another process works on it, or it cannot be written: the fault itself says more.
        return ""
    if not damage:
        return ""
    files = list(dict.fromkeys(f"{one.file} ({one.reason})" for one in damage))
    more = f" and {len(files) - _NAMED} more files" if len(files) > _NAMED else ""
    return (
        f"features of {key} were damaged: {', '.join(files[:_NAMED])}{more}; they are computed "
        "again"
    )


def mend(run: "PipelineRun", error: StoreDamaged) -> str:
    """Take back what is damaged and can be computed again, so that the steps make it again.

    Args:
        run: whose store it is.
        error: what a step met.

    Returns:
        A line that says what was damaged; empty if it cannot be computed again, or not now.
    """
    from alike.extract.twins import mend_twins

    key = damaged_key(error)
    if key:
        return take_back(run, key)
    try:
        return mend_twins(run.store(), error, progress=run.progress)
    except AlikeError:
        # What says which images were trained on is damaged too.
        return ""


def mend_settings(run: "PipelineRun") -> None:
    """Write the store's settings anew if they or their copy are damaged, and say so.

    Else they are read from the one that is whole, until that is damaged too.

    Args:
        run: about to begin.

    Raises:
        StoreDamaged: neither is whole.
    """
    try:
        store = run.store(create=False)
    except NoStore:
        # A run that is refused makes none.
        return
    for fault in store.mend_settings():
        line = f"{fault}: mended from its copy"
        run.reasons.append(line)
        run.tell(line, level="warning")
