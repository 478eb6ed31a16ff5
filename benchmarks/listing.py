"""What it costs to list a set again that did not change, in processor time.

    python -m benchmarks.listing [--images 100000] [--tar]

Writes so many small files into class folders and lists them into a store. Printed, in seconds of
the processor: to walk the folders (with --tar: to read what is kept of a tar of so many
images, each with its class in a .cls) and nothing else, to look whether anything changed (what a
run on an unchanged set does), and to list once more; each of the last two less the walk.
"""

import argparse
import io
import os
import tarfile
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


def write_tar(place: str, n: int) -> None:
    """A tar of n images that are small texts, each with its class."""
    with tarfile.open(place, "w") as tar:
        for number in range(n):
            for suffix, data in (("jpg", b"%d" % number), ("cls", b"%d" % (number % 100))):
                info = tarfile.TarInfo(f"{number:07}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--tar", action="store_true", help="one tar instead of folders")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        os.environ["XDG_CACHE_HOME"] = f"{top}/cache"
        place = f"{top}/set.tar" if asked.tar else f"{top}/set"
        if asked.tar:
            write_tar(place, asked.images)
        for number in range(0 if asked.tar else asked.images):
            file = Path(top) / "set" / f"{number % 100:03}" / f"{number:07}.jpg"
            if number < 100:
                file.parent.mkdir(parents=True)
            file.write_bytes(b"%d" % number)
        # Files of the last two seconds are read again.
        time.sleep(2.5)
        store = Store.open(f"{top}/store", create=True)

        def listed() -> None:
            with store.files.scratch() as scratch:
                source = open_source(place)
                past = past_listing(store, source, scratch)
                listing = list_to(source, scratch, past=past)
                store.list_batches(listing.table)
                keep_listing(store, source, listing, past)
                listing.table.remove()

        def looked() -> None:
            with store.files.scratch() as scratch:
                source = open_source(place)
                past = past_listing(store, source, scratch)
                assert past.table.num_rows == asked.images
                why = same_listing(source, PastListing(past.table, past.turn))
                if why:
                    raise SystemExit(f"the set changed: {why}")

        first = busy(listed)
        walk = busy(lambda: sum(1 for _ in open_source(place)))
        look, again = busy(looked), busy(listed)
        print(
            f"{asked.images} files: walk {walk:.2f} s; first listing {first:.2f} s; unchanged? "
            f"{look:.2f} s, {look - walk:.2f} beyond the walk; listed again {again:.2f} s, "
            f"{again - walk:.2f} beyond the walk"
        )


if __name__ == "__main__":
    main()
