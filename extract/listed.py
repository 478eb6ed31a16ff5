"""The last listing of a source in a store: read, and kept for the next one."""

from typing import TYPE_CHECKING

from alike.extract.errors import StoreDamaged
from alike.extract.images import KEPT, ImageSource, PastListing, kept_columns, place_of

if TYPE_CHECKING:
    import pandas as pd

    from alike.extract.store import Store


def past_listing(store: "Store", source: ImageSource) -> PastListing | None:
    """What the store remembers of a source; None if nothing, or not readable."""
    try:
        table, attrs = store.read_table(place_of(source), KEPT)
        return PastListing(table, int(attrs["turn"]) + 1)
    # A table that is lost costs a reading of all images, and is written anew.
    except (FileNotFoundError, StoreDamaged, KeyError, ValueError, TypeError):
        return None


def keep_listing(
    store: "Store", source: ImageSource, listing: "pd.DataFrame", past: PastListing | None
) -> None:
    """Keep a listing for the next one, if the source has stamps.

    Args:
        store: that keeps it.
        source: that was listed.
        listing: as `list_source` gives it.
        past: that it was made with.
    """
    if getattr(source, "stamp", None) is not None:
        turn = 0 if past is None else past.turn
        store.write_table(place_of(source), kept_columns(listing), {"turn": turn})


def listing_notes(listing: "pd.DataFrame") -> list[str]:
    """What a reader must know of a listing: files whose bytes changed without another time."""
    silent = listing.attrs.get("silent", 0)
    if not silent:
        return []
    return [
        f"{silent} files had other bytes under the same size and times: the disk, or a program "
        "that sets times back, changed them; all images were read again"
    ]
