"""What a command loads before it answers: by its modules, since a clock depends on the machine."""

import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest

from alike.extract.store.store import Store
from alike.index.build import build_index

REPORT = """
import json, sys
from alike.flows.cli import main
try:
    main()
finally:
    sys.stderr.write(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

NEVER = {
    "torch", "torchvision", "prefect", "plotly", "lightning", "sklearn", "openTSNE", "matplotlib",
    "dask", "distributed", "fastapi", "PIL", "h5py", "xarray",
}  # fmt: skip
TABLES = {"pandas", "pyarrow", "zarr", "faiss", "numba", "scipy"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Features of forty images, written without a network, and their index."""
    made = Store.open(tmp_path_factory.mktemp("startup") / "store", create=True)
    ids = [hashlib.sha256(bytes([number])).hexdigest() for number in range(40)]
    listing = {
        "image_id": ids, "path": [f"{n}.png" for n in range(40)], "label": list("ab") * 20,
        "size": 1, "state": "ok", "reason": "",
    }  # fmt: skip
    made.list_images(pd.DataFrame(listing))
    extraction = {
        "network": "n", "weights": "none", "weights_hash": "0" * 16, "taps": ["gap"],
        "transform": {}, "precision": "float32", "place": made.place,
    }  # fmt: skip
    features = made.create_features(extraction, "n-0-0", {"gap": ((6,), "float32")})
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    features.write_unit(0, {"gap": rows}, {}, run_id="t")
    build_index(made.features())
    return made.url


@pytest.mark.parametrize(
    ("words", "never"),
    [
        (("--version",), NEVER | TABLES | {"numpy", "pydantic"}),
        (("--help",), NEVER | TABLES | {"numpy", "pydantic"}),
        (("list", "measures"), NEVER | TABLES),
        (("list", "datasets"), NEVER | TABLES),
        (("list", "scores"), NEVER | TABLES),
        (("neighbours", "3", "--store", "STORE"), NEVER),
        (("export", "--store", "STORE", "--to", "features.parquet"), NEVER | {"faiss"}),
        (
            ("analyse", "--store", "STORE", "--measures", "gap_cosine", "--bootstrap", "0"),
            NEVER - {"torch", "sklearn", "dask", "distributed"} | {"faiss"},
        ),
        (("store", "ls", "STORE"), NEVER | {"faiss", "numba", "scipy"}),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_a_command_loads_no_library_that_it_does_not_use(words, never, store, tmp_path):
    command = [
        sys.executable,
        "-c",
        REPORT,
        *(store if word == "STORE" else word for word in words),
    ]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "alike" in loaded
    assert not loaded & never


@pytest.mark.quick
def test_the_version_is_that_of_the_package(tmp_path):
    command = [sys.executable, "-c", REPORT, "--version"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout == f"alike {version('alike')}\n"
