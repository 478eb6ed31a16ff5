"""The output folder of a run."""

from pathlib import Path

from alike.extract.images.tree import OUTPUT_MARK
from alike.extract.replacing import refusal


def make_output(folder: Path, named: str = "output.folder") -> None:
    """Make the folder, with the mark by which a listing tells it from images.

    Args:
        folder: of the outputs.
        named: the setting or option that it was named by.

    Raises:
        BadInput: it cannot be written.
        StoreFull: its disk has no room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OUTPUT_MARK).touch()
    except OSError as error:
        raise refusal(f"{named} {folder}", error) from error
