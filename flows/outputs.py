"""The output folder of a run."""

from pathlib import Path

from alike.extract.errors import BadInput
from alike.extract.images.tree import OUTPUT_MARK


def make_output(folder: Path, named: str = "output.folder") -> None:
    """Make the folder, with the mark by which a listing tells it from images.

    Args:
        folder: of the outputs.
        named: the setting or option that it was named by.

    Raises:
        BadInput: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OUTPUT_MARK).touch()
    except OSError as error:
        raise BadInput(
            f"{named} {folder} cannot be written ({error.strerror}): ask for the permission, "
            "or name another place"
        ) from error
