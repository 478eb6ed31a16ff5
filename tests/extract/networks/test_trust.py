"""A network's file that only a store names runs if it is the recorded one and was agreed to."""

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES

import pytest

from alike.extract.errors import BadInput
from alike.extract.networks import trust
from alike.extract.networks.extraction import Extraction
from alike.extract.networks.network import load_network, network_of

CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from torch import nn
import beside
def small():
    return nn.Sequential(nn.Conv2d(3, beside.WIDTH, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(beside.WIDTH, 2))
"""


@pytest.fixture
def name(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(trust, "_ask", trust._nobody)
    (tmp_path / "nets.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    (tmp_path / "unused.py").write_text("X = 1\n")
    return f"{tmp_path / 'nets.py'}:small"


@pytest.fixture
def ran(tmp_path):
    def answer() -> bool:
        found = (tmp_path / "ran").exists()
        (tmp_path / "ran").unlink(missing_ok=True)
        return found

    return answer


def stored(name: str) -> Extraction:
    return Extraction(name, "none", "ab" * 32, ("fc",), {"resize": 8, "crop": 8}, "float32")


def test_a_file_that_only_a_store_names_does_not_run(name, ran):
    with pytest.raises(BadInput, match=r"nets\.py .*give --trust.*--network"):
        network_of(stored(name))
    assert not ran()


def test_naming_a_file_is_agreement_to_its_content(name, ran, tmp_path):
    load_network(name)
    assert ran()
    with pytest.raises(BadInput, match="now has hash"):  # it is taken: only the weights differ
        network_of(stored(name))
    (tmp_path / "unused.py").write_text("X = 2\n")
    with pytest.raises(BadInput, match="now has hash"):
        network_of(stored(name))
    for changed in ("nets.py", "beside.py"):
        whole = (tmp_path / changed).read_text()
        (tmp_path / changed).write_text(whole + "\n# another\n")
        ran()
        with pytest.raises(BadInput, match="give --trust"):
            network_of(stored(name))
        assert not ran()
        (tmp_path / changed).write_text(whole)


def test_another_file_than_the_recorded_one_never_runs(name, ran, tmp_path):
    recorded = trust.code_hash_of(name)
    trust.accept_any()
    (tmp_path / "beside.py").write_text("WIDTH = 5\n")
    with pytest.raises(BadInput, match="it was not run"):
        network_of(stored(name), code_hash=recorded)
    assert not ran()
    assert not trust.agreements().exists()


def test_asked_once(name, ran, monkeypatch):
    asked = []
    trust.ask_by(lambda question: bool(asked.append(question)))
    with pytest.raises(BadInput, match="have not agreed"):
        trust.require_trust(name)
    trust.ask_by(lambda question: not asked.append(question))
    trust.require_trust(name)
    trust.require_trust(name)
    assert len(asked) == 2
    assert "nets.py" in asked[0]


HIDDEN = {
    "by a computed name": "import importlib; importlib.import_module('hid' + 'den')",
    "from a folder that it adds": "import sys; sys.path.insert(0, FOLDER + '/lib'); import hidden",
    "in the factory": "def late():\n    import importlib; importlib.import_module('hid' + 'den')",
}
EVIL = "from pathlib import Path\nPath({!r}).touch()\n"


@pytest.mark.parametrize("way", HIDDEN)
def test_a_module_that_shows_only_when_it_is_imported_is_agreed_to(way, name, tmp_path):
    """Whoever sends the very file that a user agreed to, with another module beside it."""
    code = f"FOLDER = {str(tmp_path)!r}\n{HIDDEN[way]}\n" + CODE
    if way == "in the factory":
        code = code.replace("    return", "    late()\n    return")
    (tmp_path / "nets.py").write_text(code)
    hidden = tmp_path / ("lib/hidden.py" if "folder" in way else "hidden.py")
    hidden.parent.mkdir(exist_ok=True)
    hidden.write_text("X = 1\n")
    load_network(name)
    with pytest.raises(BadInput, match="now has hash"):  # it runs: only the weights differ
        network_of(stored(name))
    hidden.write_text(EVIL.format(str(tmp_path / "ran evil")))
    with pytest.raises(BadInput, match=r"imports .*hidden\.py .*give --trust"):
        network_of(stored(name))
    assert not (tmp_path / "ran evil").exists()
    trust.accept_any()
    with pytest.raises(BadInput, match="now has hash"):
        network_of(stored(name))
    assert (tmp_path / "ran evil").exists()


def test_a_compiled_module_beside_a_file_is_part_of_it(name, tmp_path):
    before = trust.code_hash_of(name)
    (tmp_path / f"beside{EXTENSION_SUFFIXES[0]}").write_bytes(b"\x7fELF")
    assert trust.code_hash_of(name) != before


def test_published_networks_and_our_own_are_no_strangers(name):
    from alike.flows import digits_network

    trust.require_trust("resnet18")
    trust.require_trust("timm:resnet18")
    trust.require_trust(f"{digits_network.__file__}:small_network")
    trust.require_trust("/nowhere/gone.py:net")
    assert trust.code_hash_of("resnet18") == ""


def test_a_place_that_cannot_be_written_is_no_fault(name, tmp_path):
    (tmp_path / "config").write_text("a file")
    trust.agree(name)
    with pytest.raises(BadInput, match="give --trust"):
        trust.require_trust(name)


def test_modules_beside_a_file(tmp_path):
    for file, text in {
        "a.py": "import b\nfrom pack import c\nfrom pack.deep import d\nimport os, torch",
        "b.py": "import a",
        "pack/__init__.py": "from . import e",
        "pack/c.py": "from .e import x",
        "pack/e.py": "x = 1",
        "pack/deep/__init__.py": "",
        "pack/deep/d.py": "from ..f import y\n",
        "pack/f.py": "y = 1",
        "pack/unused.py": "",
        "other.py": "",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    found = trust._imported_beside(tmp_path / "a.py")
    names = [str(one.relative_to(tmp_path.resolve())) for one in found]
    assert names == [
        "a.py", "b.py", "pack/__init__.py", "pack/c.py", "pack/deep/__init__.py",
        "pack/deep/d.py", "pack/e.py", "pack/f.py",
    ]  # fmt: skip


@pytest.mark.quick
def test_where_agreements_are_kept(monkeypatch, tmp_path):
    code = "from alike.extract.networks import trust; print(trust.agreements())"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.startswith(str(tmp_path))
    # It would be another folder wherever a command is started.
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    assert trust.agreements().is_relative_to(tmp_path)
    # A user without a home is asked again, and nothing ends with a traceback.
    (tmp_path / "net.py").write_text("def small(): ...\n")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    trust.agree(f"{tmp_path}/net.py:small")
    assert not trust._is_kept("0" * 64)
