"""Bad input: one line that names it, status 2, no traceback, and nothing computed."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ALIKE = (sys.executable, "-c", "from flows.cli import main; main()")


def alike(*arguments, cwd):
    return subprocess.run(
        [*ALIKE, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )


def write_images(folder, classes, each=3):
    draw = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad input é")
    (folder / "empty").mkdir()
    write_images(folder / "one", ["cat"])
    write_images(folder / "two", ["cat", "dög"])
    (folder / "weights.pth").write_bytes(b"no weights")
    return folder


@pytest.mark.parametrize(
    ("source", "network", "says"),
    [
        ("absent", 'name = "resnet18"', "absent"),
        ("empty", 'name = "resnet18"', "no images"),
        ("one", 'name = "resnet18"', "1 class"),
        ("two", 'name = "resnet9000"', "resnet9000"),
        ("two", 'name = "resnet18"\nweights = "weights.pth"', "weights.pth"),
        ("two", 'name = "resnet18"\nweights = "gone.pth"', "no such file"),
        ("two", 'name = "absent.py:make"', "absent.py"),
    ],
)
def test_run_refuses(place, source, network, says):
    text = f'[images]\nsource = "{source}"\n[network]\n{network}\n'
    (place / "pipeline.toml").write_text(text, encoding="utf-8")
    done = alike("run", "pipeline.toml", cwd=place)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("alike: ")
    assert done.stderr.count("\n") == 1, done.stderr


def test_unknown_command_and_option(tmp_path):
    assert alike("analize", cwd=tmp_path).returncode == 2
    assert alike("run", "--fast", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    "table", ["networks", "datasets", "measures", "scores", "losses", "explainers", "indexes"]
)
def test_list(tmp_path, table):
    rows = json.loads(alike("list", table, "--json", cwd=tmp_path).stdout)
    assert len(rows) >= 4
    assert all(row["about"] for row in rows)


def test_doctor(tmp_path):
    found = json.loads(alike("doctor", "--json", cwd=tmp_path).stdout)
    assert found["Versions"]["torch"].startswith("2.")
    assert found["A run would use"]["device"] in ("cpu", "cuda")


def test_help_of_every_command_has_an_example(tmp_path):
    import typer.main

    from flows.cli import app

    def leaves(command, words):
        inner = getattr(command, "commands", None)
        if inner is None:
            yield words, command
        else:
            for name, child in inner.items():
                yield from leaves(child, (*words, name))

    for words, command in leaves(typer.main.get_command(app), ()):
        assert f"alike {words[0]}" in command.help, words
