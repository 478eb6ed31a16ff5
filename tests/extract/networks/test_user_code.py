"""A user's network file and its siblings: whose modules are found, when, and in which process."""

import os
import pickle
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from images import class_folders

from alike.extract.errors import BadInput
from alike.extract.images.sources import open_source
from alike.extract.networks.extraction import Extraction
from alike.extract.networks.network import load_network, network_of
from alike.extract.networks.reading import every_file_read
from alike.extract.pipeline import ExtractionReport, extract
from alike.extract.store.store import Store

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "networks"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the small inputs in {CASES}")
MODELS = """
from torch import nn

NAME = {name!r}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)
        self.name = NAME

    def forward(self, x):
        from late import factor
        return factor() * self.fc(self.conv(x).mean((2, 3)))
"""


def project(root: Path, **files: str) -> Path:
    """A folder of modules; ``a__b`` is the file ``a/b.py``."""
    for name, text in files.items():
        place, init, _ = name.partition("__init__")
        file = root / (place.replace("__", "/") + init + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def usual(root: Path, name: str) -> str:
    """A project of the usual file names, as its network's name."""
    project(
        root,
        nets="from models import Net\n\ndef make():\n    return Net()\n",
        models=MODELS.format(name=name),
        late=f"def factor():\n    return {len(name)}\n",
    )
    return f"{root / 'nets.py'}:make"


def test_two_projects_with_the_same_names_in_turn_and_interleaved(tmp_path: Path) -> None:
    first, second = usual(tmp_path / "a", "first"), usual(tmp_path / "b", "seconds")
    before = list(sys.path)
    one, two = load_network(first).module, load_network(second).module
    assert (one.name, two.name) == ("first", "seconds")
    batch = torch.ones(1, 3, 2, 2)
    two.load_state_dict(one.state_dict())
    # `late` is imported by the forward pass, after both were loaded.
    with torch.no_grad():
        torch.testing.assert_close(two(batch) / 7, one(batch) / 5)
    assert load_network(first).module.name == "first"
    assert sys.path == before
    assert not {"models", "late", "nets"} & set(sys.modules)


def test_module_that_another_project_left_in_the_process_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path / "other", models="NAME = 'foreign'\n")
    monkeypatch.syspath_prepend(tmp_path / "other")
    import models

    assert models.NAME == "foreign"
    assert load_network(usual(tmp_path / "own", "mine")).module.name == "mine"
    assert sys.modules.pop("models") is models


LOADS = {
    "plain": "import models\nmake = lambda: models.Net()\n",
    "as": "import lib.models as m\nmake = lambda: m.Net()\n",
    "dotted": "import lib.models\nmake = lambda: lib.models.Net()\n",
    "relative": "from . import models\nmake = lambda: models.Net()\n",
    "relative name": "from .lib.models import Net\nmake = lambda: Net()\n",
    "sub-package": "from lib import models\nmake = lambda: models.Net()\n",
    "package without __init__": "from bare.models import Net\nmake = lambda: Net()\n",
    "star": "from models import *\nmake = lambda: Net()\n",
    "in the factory": "def make():\n    from models import Net\n    return Net()\n",
    "by name": "import importlib\nmake = lambda: importlib.import_module('lib.models').Net()\n",
    "by name, bare": "from importlib import import_module as i\nmake = lambda: i('models').Net()\n",
    "by __import__": "make = lambda: __import__('models').Net()\n",
    "by sys.path": "import sys\nsys.path.insert(0, {far!r})\n"
    "import far\nmake = lambda: far.models.Net()\n",
    "ours": "from train import build_model\nmake = lambda: build_model()\n",
}


@pytest.mark.parametrize("text", LOADS.values(), ids=LOADS)
def test_every_way_to_import_a_sibling(text: str, tmp_path: Path) -> None:
    lib = MODELS.format(name="sibling")
    project(
        tmp_path / "p",
        nets=text.replace("{far!r}", repr(str(tmp_path / "elsewhere"))),
        models=lib,
        lib____init__="",
        lib__models="from .deep.inner import NAME\n" + lib.replace("NAME =", "OTHER ="),
        lib__deep__inner="from models import NAME\n",
        bare__models=lib,
        late="factor = lambda: 1\n",
        train="from models import Net\n\ndef build_model():\n    return Net()\n",
    )
    project(tmp_path / "elsewhere", far="import models\n")
    before = list(sys.path)
    network = load_network(f"{tmp_path / 'p' / 'nets.py'}:make")
    assert network.module.name == "sibling"
    assert "late" in network.modules
    assert sys.path == before
    assert not {"models", "lib", "bare", "far", "late"} & set(sys.modules)
    assert sys.modules.get("train") is None or "p/train" not in str(sys.modules["train"])


@pytest.mark.quick
def test_our_folders_are_no_modules_of_the_user(tmp_path: Path) -> None:
    project(tmp_path, nets="from train import build_model\n")
    with pytest.raises(BadInput, match="No module named 'train'"):
        load_network(f"{tmp_path / 'nets.py'}:make")


SPAWNS = """
import multiprocessing
import sys

import torch

from alike.extract.networks import load_network


def answer(module, queue):
    queue.put((module.name, module(torch.ones(1, 3, 2, 2)).tolist(), "models" in sys.modules))


if __name__ == "__main__":
    module = load_network(sys.argv[1]).module
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=answer, args=(module, queue))
    process.start()
    name, logits, polluted = queue.get(timeout=120)
    process.join(60)
    assert (name, polluted) == ("spawned", False), (name, polluted)
    torch.testing.assert_close(torch.tensor(logits), module(torch.ones(1, 3, 2, 2)))
"""


def test_classes_of_siblings_reach_a_spawned_process(tmp_path: Path) -> None:
    reference = usual(tmp_path, "spawned")
    (tmp_path / "spawns.py").write_text(SPAWNS)
    subprocess.run([sys.executable, tmp_path / "spawns.py", reference], check=True, timeout=240)
    module = load_network(reference).module
    assert pickle.loads(pickle.dumps(type(module))) is type(module)


def test_process_of_its_own_in_the_users_folder(tmp_path: Path) -> None:
    """Started where train.py, index.py and models.py lie, which Python puts on `sys.path`."""
    name = usual(tmp_path, "own")
    project(tmp_path, index="", extract="raise SystemExit('not me')\n", utils="", flows="")
    project(
        tmp_path,
        nets="from train import build_model\nmake = build_model\n",
        train="from models import Net\n\ndef build_model():\n    return Net()\n",
    )
    code = (
        "from alike.extract.networks import load_network\n"
        f"print(load_network({name!r}).module.name, load_network({name!r}).modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "own ('late', 'models', 'train')", done.stderr


def test_import_in_another_thread(tmp_path: Path) -> None:
    module = load_network(usual(tmp_path, "threads")).module
    answers: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: answers.append(module(torch.ones(1, 3, 2, 2))))
    thread.start()
    thread.join()
    assert answers[0].shape == (1, 3)


def test_sibling_named_like_an_installed_module(tmp_path: Path) -> None:
    usual(tmp_path / "a", "utils")
    project(
        tmp_path / "a",
        utils="SCALE = 2\n",
        nets="import utils\nfrom models import Net\n\n"
        "def make():\n    assert utils.SCALE == 2\n    return Net()\n",
    )
    assert load_network(f"{tmp_path / 'a' / 'nets.py'}:make").module.name == "utils"
    project(tmp_path / "b", torch="", nets="from torch import nn\n")
    with pytest.raises(
        BadInput,
        match=r"cannot import name 'nn' from 'torch'.*; torch\.py in .*/b "
        "hides the installed module",
    ) as caught:
        load_network(f"{tmp_path / 'b' / 'nets.py'}:make")
    assert "\n" not in str(caught.value)
    assert "alike" not in str(caught.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nosuch\n", "ModuleNotFoundError: No module named 'nosuch'"),
        ("import models.nosuch\n", r"No module named 'models\.nosuch'"),
        ("from . import nosuch\n", "cannot import name 'nosuch'"),
        ("raise SystemExit(2)\n", "SystemExit: 2"),
        ("def make(:\n", "SyntaxError"),
    ],
)
def test_file_that_fails_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    project(tmp_path, nets=text, models="")
    with pytest.raises(BadInput, match=f"nets.py fails: .*{says}") as caught:
        load_network(f"{tmp_path / 'nets.py'}:make")
    assert "\n" not in str(caught.value)
    assert "user_code" not in str(caught.value)


def test_home_of_nobody_is_one_line() -> None:
    for name, weights in (("~nosuchuser/nets.py:make", "none"), ("resnet18", "~nosuchuser/w.pth")):
        with pytest.raises(BadInput, match=r"^~nosuchuser/.*: no such user's home"):
            load_network(name, weights)


# Same code, same key; other code, another key.


def test_changed_sibling_is_another_key_and_the_weights_hash_stays(tmp_path: Path) -> None:
    name = usual(tmp_path, "one")
    old = load_network(name)
    assert old.modules == ("late", "models")
    (tmp_path / "late.py").write_text("def factor():\n    return 9\n")
    new = load_network(name)
    assert new.weights_hash == old.weights_hash
    assert new.modules_hash != old.modules_hash
    assert new.identity != old.identity
    keys = [one.extraction(("fc",), "float32").key for one in (old, new)]
    assert keys[0] != keys[1]
    with pytest.raises(
        BadInput, match=r"modules or files that .* loads \(late, models\) are not those"
    ):
        network_of(Extraction.from_dict(old.extraction(("fc",), "float32").to_dict()))


READS = """
import json
from pathlib import Path

from torch import nn


def make():
    settings = json.loads((Path(__file__).parent / "parts" / "net.json").read_text())
    Path({outside!r}).read_bytes()
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=settings["stride"]), nn.Flatten(1))
"""


def test_file_that_the_factory_reads_is_part_of_the_key(tmp_path: Path) -> None:
    """Strides are no weights: the weights' hash is the same."""
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"1")
    project(tmp_path / "p", nets=READS.format(outside=str(outside)))
    config = tmp_path / "p" / "parts" / "net.json"
    config.parent.mkdir()
    config.write_text('{"stride": 1}')
    name = f"{tmp_path / 'p' / 'nets.py'}:make"
    old, again = load_network(name), load_network(name)
    assert old.modules == ("parts/net.json",)
    assert old.modules_hash == again.modules_hash
    config.write_text('{"stride": 2}')
    new = load_network(name)
    assert new.weights_hash == old.weights_hash
    assert new.modules_hash != old.modules_hash
    with pytest.raises(BadInput, match=r"\(parts/net\.json\) are not those"):
        network_of(Extraction.from_dict(old.extraction(("last_conv",), "float32").to_dict()))
    # Caches of packages lie elsewhere, and differ from machine to machine; a run looks at them.
    assert {str(config), str(outside)} <= set(every_file_read())


def test_module_that_changed_before_its_late_import_is_not_taken_for_the_old_one(
    tmp_path: Path,
) -> None:
    name = usual(tmp_path, "late")
    # Loading runs the network once, on an image of zeros.
    when = MODELS.format(name="late").replace(
        "from late import factor",
        """
        if x.max() == 0:
            return self.fc(self.conv(x).mean((2, 3)))
        from late import factor""",
    )
    project(tmp_path, models=when)
    old = load_network(name)
    (tmp_path / "late.py").write_text("def factor():\n    return 9\n")
    with pytest.raises(ImportError, match=r"late\.py changed after the network was loaded"):
        old.module(torch.ones(1, 3, 2, 2))
    new = load_network(name)
    assert new.module(torch.zeros(1, 3, 2, 2)).shape == (1, 3)


@needs_cases
def test_change_of_the_same_length_within_a_second_is_seen(tmp_path: Path) -> None:
    """Python's own cache of compiled files would miss it."""
    for file in (CASES / "stale").glob("*.py"):
        shutil.copy(file, tmp_path)
    name = f"{tmp_path / 'nets.py'}:make"
    batch = torch.linspace(-1, 1, 300).reshape(1, 3, 10, 10)
    old = load_network(name)
    changed = (tmp_path / "models.py").read_text().replace("relu", "gelu")
    (tmp_path / "models.py").write_text(changed)
    new = load_network(name)
    assert old.modules_hash != new.modules_hash
    assert not torch.allclose(old.module(batch), new.module(batch))


def test_network_without_siblings_keeps_its_key(tmp_path: Path) -> None:
    """The key that version 0.1 gave the same file."""
    text = "from torch import nn\n\n\ndef make():\n    return nn.Linear(1, 1)\n"
    network = load_network(f"{project(tmp_path, nets=text) / 'nets.py'}:make")
    extraction = network.extraction(("fc",), "float32")
    assert (network.modules, network.modules_hash) == ((), "")
    assert "modules_hash" not in extraction.to_dict()
    assert extraction.key == "nets-make-d8028e04-406a2f16"
    assert network.packages["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


def test_features_without_the_hash_open_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = load_network(usual(tmp_path, "old"))
    stored = network.extraction(("fc",), "float32").to_dict()
    del stored["modules_hash"]
    again = network_of(Extraction.from_dict(stored))
    assert again.weights_hash == network.weights_hash
    assert "do not record the modules that its file loads (late, models)" in caplog.text


def _child(path: Path) -> dict[str, Any]:
    paths = [str(path), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return {"env": env, "capture_output": True, "text": True, "timeout": 120}


def test_module_loaded_by_name_counts_and_so_does_one_by_pythonpath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = usual(tmp_path / "p", "dynamic")
    project(
        tmp_path / "p",
        nets="import importlib\nimport outside_networks\nfrom late import factor\n\n"
        "def make(kind='models'):\n    return importlib.import_module(kind).Net()\n",
    )
    place = project(tmp_path / "path", outside_networks____init__="from .part import A\n")
    project(place, outside_networks__part="A = 1\n")
    monkeypatch.syspath_prepend(place)
    first = load_network(name)
    assert first.modules == ("late", "models")
    # What an earlier factory call imported must not count for a later one.
    shutil.copy(tmp_path / "p" / "models.py", tmp_path / "p" / "more.py")
    more = load_network(name, args={"kind": "more"})
    assert more.modules == ("late", "more")
    assert load_network(name).modules_hash == first.modules_hash
    # The process goes on with the code that it has; a new one has other code, and another hash.
    (place / "outside_networks" / "part.py").write_text("A = 2\n")
    assert load_network(name).modules_hash == first.modules_hash
    code = f"from alike.extract.networks import load_network as l; print(l({name!r}).modules_hash)"
    hashes = []
    for text in ("A = 1\n", "A = 2\n"):
        (place / "outside_networks" / "part.py").write_text(text)
        done = subprocess.run([sys.executable, "-c", code], **_child(place))
        hashes.append(done.stdout.strip())
    assert hashes[0] == first.modules_hash != hashes[1] != ""
    for module in ("outside_networks", "outside_networks.part"):
        del sys.modules[module]


@pytest.mark.parametrize("packages", ["other/lib/python3/site-packages", "target"])
def test_installed_package_counts_by_its_version_wherever_it_lies(
    packages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PYTHONPATH names another environment's packages, or a folder of `pip install --target`."""
    top = f"installed_{Path(packages).name.replace('-', '_')}"
    place = tmp_path / packages
    project(place, **{f"{top}____init__": "A = 1\n", f"{top}__part": "B = 2\n"})
    record = place / f"{top}-7.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {top}\nVersion: 7.0\n")
    monkeypatch.syspath_prepend(place)
    text = f"import {top}\nfrom torch import nn\n\n\ndef make():\n    return nn.Linear(1, 1)\n"
    network = load_network(f"{project(tmp_path / 'p', nets=text) / 'nets.py'}:make")
    del sys.modules[top]
    assert network.modules_hash == ""
    assert network.packages[top] == "7.0"


def test_unchanged_file_is_executed_once(tmp_path: Path) -> None:
    """Code that registers itself somewhere may do so only once in a process."""
    name = usual(tmp_path, "once")
    first, second = load_network(name), load_network(name)
    assert type(first.module) is type(second.module)
    (tmp_path / "models.py").write_text(MODELS.format(name="twice"))
    assert load_network(name).module.name == "twice"


def run(folder: Path, name: str, store: Path) -> ExtractionReport:
    images = open_source(str(class_folders(folder, {"a": 3, "b": 3}, (32, 32))))
    return extract(images, load_network(name), Store.open(store, create=True), device="cpu")


@needs_cases
def test_extraction_after_a_sibling_changed_computes_anew(tmp_path: Path) -> None:
    for file in (CASES / "stale").glob("*.py"):
        shutil.copy(file, tmp_path)
    name = f"{tmp_path / 'nets.py'}:make"
    first = run(tmp_path / "images", name, tmp_path / "store")
    assert run(tmp_path / "images", name, tmp_path / "store").n_computed == 0
    text = (tmp_path / "models.py").read_text()
    (tmp_path / "models.py").write_text(text.replace("relu", "gelu"))
    second = run(tmp_path / "images", name, tmp_path / "store")
    assert (second.n_computed, second.key != first.key) == (6, True)
    (tmp_path / "models.py").write_text(text)
    assert run(tmp_path / "images", name, tmp_path / "store").n_computed == 0
    attrs = Store.open(tmp_path / "store").features(first.key).attrs
    assert attrs["modules"] == ["models"]
    assert set(attrs["packages"]) == {"torch"}


def test_features_of_before_the_hash_are_left_and_it_is_said(tmp_path: Path) -> None:
    name = usual(tmp_path, "older")
    network = load_network(name)
    older = replace(network, modules=(), modules_hash="")
    images = open_source(str(class_folders(tmp_path / "images", {"a": 3, "b": 3}, (32, 32))))
    store = Store.open(tmp_path / "store", create=True)
    before = extract(images, older, store, device="cpu")
    after = extract(images, network, store, device="cpu")
    assert after.n_computed == 6
    assert any(before.key in note and "do not record the modules" in note for note in after.notes)
    assert set(store.groups()) == {before.key, after.key}


@needs_cases
def test_network_that_is_random_in_eval_mode_is_refused_and_nothing_stored(tmp_path: Path) -> None:
    name = f"{CASES / 'random_in_eval.py'}:make"
    with pytest.raises(BadInput, match=r"random in eval mode: .* in fc, logits \(it calls d"):
        run(tmp_path / "images", name, tmp_path / "store")
    assert not list(Store.open(tmp_path / "store").groups())
    assert run(tmp_path / "images", f"{CASES / 'tiny.py'}:make", tmp_path / "store").n_rows == 6


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("y - y.mean(0)", "gives an image other features beside other images: logits differ"),
        ("y if len(x) == 1 else 1 / 0", "fails on a batch of 2 images .ZeroDivisionError"),
        ("y[:1]", r"gives logits of shape .1, 3. for 2 images: expected a row for each"),
        ("torch.complex(y, y)", r"is complex numbers of shape \(1, 3\)"),
        ("torch.cat([y, y])", r"is numbers of shape \(2, 3\)"),
        ("y[:, :0]", r"is numbers of shape \(1, 0\)"),
    ],
)
def test_outputs_that_are_of_no_single_image_are_refused(
    line: str, fault: str, tmp_path: Path
) -> None:
    name = net_of(tmp_path, f"return ({line})")
    with pytest.raises(BadInput, match=fault):
        run(tmp_path / "images", name, tmp_path / "store")
    assert not list(Store.open(tmp_path / "store").groups())


def test_weights_of_half_precision_are_told_from_a_network_of_single_images(tmp_path: Path) -> None:
    name = net_of(tmp_path, "return y", make="return Net().half()")
    with pytest.raises(BadInput, match=r"its weights are float16 .* end its factory with .float"):
        run(tmp_path / "images", name, tmp_path / "store")


def test_a_factory_that_ends_the_process_or_gives_no_values_is_one_line(tmp_path: Path) -> None:
    name = net_of(tmp_path, "return y", make="raise SystemExit(3)")
    with pytest.raises(BadInput, match="SystemExit: 3; it must not end the process"):
        load_network(name)
    leave = os._exit
    name = net_of(tmp_path, "return y", make="import os; os._exit(0)")
    with pytest.raises(BadInput, match=r"os\._exit\(0\); it must not end the process"):
        load_network(name)
    assert os._exit is leave
    name = net_of(tmp_path, "return y", make="return Net().to('meta')")
    with pytest.raises(BadInput, match="on the device meta, without values"):
        load_network(name)


def net_of(folder: Path, line: str, make: str = "return Net()") -> str:
    """A small network that ends with a line about its logits y of images x."""
    (folder / "own.py").write_text(
        f"""
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        y = self.fc(torch.relu(self.features(x)).mean((2, 3)))
        {line}

def make():
    {make}
"""
    )
    return f"{folder / 'own.py'}:make"
