"""What it costs to list a set again that did not change, in processor time.

    python -m benchmarks.listing [--images 100000]

Writes so many small files into class folders and lists them into a store. Printed, in seconds of
the processor: to walk the folders and nothing else, to look whether anything changed (what a run on
an unchanged set does), and to list once more; each of the last two less the walk.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from alike.extract.images import PastListing, list_to, open_source, same_listing
from alike.extract.listed import keep_listing, past_listing
from alike.extract.store import Store


def busy(work: Callable[[], object]) -> float:
    """Processor seconds of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        for number in range(asked.images):
            file = Path(top) / "set" / f"{number % 100:03}" / f"{number:07}.jpg"
            if number < 100:
                file.parent.mkdir(parents=True)
            file.write_bytes(b"%d" % number)
        # Files of the last two seconds are read again.
        time.sleep(2.5)
        source = open_source(f"{top}/set")
        store = Store.open(f"{top}/store", create=True)

        def listed() -> None:
            with store.files.scratch() as scratch:
                past = past_listing(store, source, scratch)
                listing = list_to(source, scratch, past=past)
                store.list_batches(listing.table)
                keep_listing(store, source, listing, past)
                listing.table.remove()

        def looked() -> None:
            with store.files.scratch() as scratch:
                past = past_listing(store, source, scratch)
                assert past.table.num_rows == asked.images
                why = same_listing(source, PastListing(past.table, past.turn))
                if why:
                    raise SystemExit(f"the set changed: {why}")

        first = busy(listed)
        walk = busy(lambda: sum(1 for _ in source))
        look, again = busy(looked), busy(listed)
        print(
            f"{asked.images} files: walk {walk:.2f} s; first listing {first:.2f} s; unchanged? "
            f"{look:.2f} s, {look - walk:.2f} beyond the walk; listed again {again:.2f} s, "
            f"{again - walk:.2f} beyond the walk"
        )


if __name__ == "__main__":
    main()
