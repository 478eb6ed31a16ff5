"""Which modules leave torch alone: commands that only read a store need not wait for it."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision")
SCRIPT = """
import importlib, sys
module = importlib.import_module(sys.argv[1])
for name in getattr(module, "__all__", ()):
    getattr(module, name)
print(*(name for name in {heavy} if name in sys.modules))
"""


@pytest.mark.quick
@pytest.mark.parametrize(
    "module",
    [
        "alike.extract.measures",
        "alike.extract.store",
        "alike.extract.class_names",
        "alike.extract.command",
        "alike.extract.notes",
    ],
)
def test_no_torch(module: str) -> None:
    """Every public name is accessed, since rooms load their modules lazily."""
    assert loaded_by(module) == []


def test_the_check_sees_torch() -> None:
    assert loaded_by("torch") == ["torch"]


def loaded_by(module: str) -> list[str]:
    script = SCRIPT.format(heavy=HEAVY)
    ended = subprocess.run(
        [sys.executable, "-c", script, module], capture_output=True, text=True, check=True
    )
    return ended.stdout.split()
