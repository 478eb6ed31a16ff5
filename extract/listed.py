"""The last listing of a source in a store: read, and kept for the next one."""

from pathlib import Path
from typing import TYPE_CHECKING

from alike.extract.errors import StoreDamaged
from alike.extract.images import (
    KEPT,
    KEPT_LIKE,
    ImageSource,
    KeptColumns,
    Listing,
    PastListing,
    place_of,
)

if TYPE_CHECKING:
    from alike.extract.store import Store


def past_listing(store: "Store", source: ImageSource, scratch: Path) -> PastListing | None:
    """What the store remembers of a source; None if nothing, or not readable.

    Args:
        store: that remembers.
        source: that is to be listed.
        scratch: a folder of `Files.scratch`, in which the listing is used.
    """
    try:
        table = store.open_batches(place_of(source), KEPT, scratch)
        return PastListing(table, int(table.attrs["turn"]) + 1)
    # A table that is lost costs a reading of all images, and is written anew.
    except (FileNotFoundError, StoreDamaged, KeyError, ValueError, TypeError):
        return None


def keep_listing(
    store: "Store", source: ImageSource, listing: Listing, past: PastListing | None
) -> None:
    """Keep a listing for the next one, if the source has stamps.

    Args:
        store: that keeps it.
        source: that was listed.
        listing: as `list_to` gives it.
        past: that it was made with.
    """
    if getattr(source, "stamp", None) is not None:
        turn = 0 if past is None else past.turn
        store.write_batches(place_of(source), KEPT_LIKE, KeptColumns(listing.table), {"turn": turn})


def listing_notes(listing: Listing) -> list[str]:
    """What a reader must know of a listing: files whose bytes changed without another time."""
    if not listing.silent:
        return []
    return [
        f"{listing.silent} files had other bytes under the same size and times: the disk, or a "
        "program that sets times back, changed them; all images were read again"
    ]
