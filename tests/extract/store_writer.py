"""A small set whose features are known, and a process that extracts it: `python store_writer.py`.

Row i of `fc` holds sin of i + 1, 2i + 1…; that of `maps` the same as float16: any row can be
checked alone.
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from alike.extract.errors import StoreBusy
from alike.extract.store.features import Features
from alike.extract.store.store import Store

KEY = "net-00ab"
ARRAYS = {"maps": ((8, 4, 4), "float16"), "fc": ((16,), "float32")}
EXTRACTION = {
    "network": "net",
    "weights": "none",
    "weights_hash": "00ab",
    "taps": ["maps", "fc"],
    "transform": {"resize": (3, 3)},
    "precision": "float32",
}


def image_id(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()


def listing(numbers, state="ok") -> pd.DataFrame:
    """List the images with these numbers: image i has class i % 3."""
    return pd.DataFrame(
        {
            "image_id": [image_id(i) for i in numbers],
            "path": [f"{i % 3}/{i:06d}.png" for i in numbers],
            "label": [str(i % 3) for i in numbers],
            "size": 10,
            "state": state,
            "reason": "",
        }
    )


def rows_of(name: str, rows) -> np.ndarray:
    """Compute what row numbers hold."""
    tail, dtype = ARRAYS[name]
    at = np.asarray(rows, dtype=np.float64)[:, None]
    return np.sin(at * np.arange(1, np.prod(tail) + 1) + 1).reshape(-1, *tail).astype(dtype)


def filled(url, n: int, arrays=ARRAYS) -> Features:
    """Make or grow a store to n images, all computed."""
    store = Store.open(url, create=True)
    store.list_images(listing(range(n)))
    features = store.create_features(EXTRACTION, KEY, arrays)
    extract(features, list(arrays))
    features.publish()
    return features


def extract(features: Features, names=tuple(ARRAYS)) -> int:
    """Compute what is pending; units that another process has are left to it."""
    done = 0
    for unit in features.pending(names):
        try:
            with features.claim(unit):
                rows = features.todo(unit, names)
                if unit in features.pending(names):
                    features.write_unit(unit, {name: rows_of(name, rows) for name in names})
                    done += 1
        except StoreBusy:
            continue
    return done


if __name__ == "__main__":
    place, total = Path(sys.argv[1]), int(sys.argv[2])
    opened = Store.open(place)
    assert opened.n_rows == total
    order = extract(opened.features(KEY))
    sys.stdout.write(f"{os.getpid()} {order}\n")
