"""The pages hold: their Python runs, their links lead somewhere, their commands are ours."""

import ast
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
FULL = os.environ.get("ALIKE_FULL") == "1"
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "data" / "README.md")
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPTIONAL = ("cleanlab", "fiftyone", "datasets")
NETWORK = """
import torch
from torch import nn

TRANSFORM = {"resize": [32, 32]}
CLASS_NAMES = ["cat", "dog"]

def small(num_classes=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [code for found, code in FENCED.findall(text) if found == language]


def run_commands(folder: Path, *lines: str) -> str:
    """Run commands of `alike`, one after the other, in one process; gives what they print."""
    script = (
        "import sys\nfrom alike.flows.cli import main\n"
        "for line in sys.argv[1:]:\n"
        "    sys.argv = line.split()\n"
        "    try:\n        main()\n"
        "    except SystemExit as end:\n        assert not end.code, line\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *lines]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, text=True, stdout=subprocess.PIPE
    )
    return done.stdout


@pytest.fixture(scope="session")
def pets(tmp_path_factory):
    """A folder with what the pages name: pets.store, cat.jpg, and the files of its exports."""
    folder = tmp_path_factory.mktemp("pets")
    draw = np.random.default_rng(0)
    for label, shade in (("cat", 40), ("dog", 90)):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(14):
            pixels = draw.integers(shade, shade + 120, (6, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((48, 40), Image.Resampling.BICUBIC)
            picture.save(folder / "photos" / label / f"{number}.png")
    picture.save(folder / "cat.jpg")
    (folder / "nets.py").write_text(NETWORK)
    run_commands(
        folder,
        "alike extract photos --network nets.py:small --weights none --store pets.store",
        "alike index --store pets.store",
        "alike analyse --store pets.store --measures gap_cosine,pixel_euclid",
        *(
            f"alike export --store pets.store --to {name}"
            for name in ("pets.parquet", "pets.csv", "pets.nc", "graph.npz")
        ),
    )
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_runs(page, pets, monkeypatch, subtests):
    """Blocks of a page run in order, in one namespace, beside a store called pets.store."""
    monkeypatch.chdir(pets)
    namespace: dict[str, object] = {}
    for number, code in enumerate(blocks(page, "python"), 1):
        absent = [name for name in OPTIONAL if name in code and find_spec(name) is None]
        with subtests.test(f"block {number}"):
            if absent:
                pytest.skip(f"needs {', '.join(absent)}")
            exec(compile(code, f"{page}, block {number}", "exec"), namespace)


@pytest.mark.skipif(not FULL, reason="slow: set ALIKE_FULL=1")
def test_the_tutorial_runs(tmp_path, monkeypatch):
    """What a reader does, in order, up to the page in the browser."""
    page = "docs/tutorial.md"
    images, appended = blocks(page, "python")[0], blocks(page, "toml")
    monkeypatch.chdir(tmp_path)
    exec(compile(images, page, "exec"), {})
    assert len(list(Path("digits").glob("digit_*/*.png"))) == 240
    run, near, other, serve, again = _commands(page)
    assert serve.startswith("alike serve ")
    settings = Path("pipeline.toml")
    settings.write_text(appended[0], encoding="utf-8")
    first = run_commands(tmp_path, run, near, other)
    assert "Report: " in first
    header = next(code for code in blocks(page, "text") if code.startswith("query ")).split("\n")[0]
    assert header.split() in [line.split() for line in first.splitlines()]
    assert Path("near.png").read_bytes().startswith(b"\x89PNG")
    settings.write_text("\n".join(appended), encoding="utf-8")
    later = run_commands(tmp_path, again, again)
    nothing = blocks(page, "text")[-1].strip()
    assert nothing in later
    assert later.count("analyse network") == 1
    assert "gap_spearman" in Path("alike-out/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Relative links name files of the repository."""
    text = FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    lost = [
        one for one in links if "://" not in one and not (ROOT / page).parent.joinpath(one).exists()
    ]
    assert not lost


def _commands(page: str) -> list[str]:
    """The calls of `alike` in a page's fenced blocks without a language, whole and uncommented."""
    text = "\n".join([*blocks(page, ""), *blocks(page, "console"), *blocks(page, "bash")])
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if re.match(r"(\$ )?alike [a-z]", line)]


@pytest.mark.parametrize("page", [page for page in PAGES if _commands(page)])
def test_options_exist(page):
    """Every option of a command in a page is one that the command has."""
    import typer.main

    from alike.flows.cli import app

    group = typer.main.get_command(app)
    for line in _commands(page):
        words = shlex.split(re.split(r"\s{2,}", line.removeprefix("$ "))[0], comments=True)[1:]
        command = group
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command, words = command.commands[words[0]], words[1:]
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        asked = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert asked <= known | {"--help"}, line


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES)
def test_files_named_exist(page):
    """A path of the repository that a page names in code quotes is there."""
    text = (ROOT / page).read_text(encoding="utf-8")
    folders = "alike|analysis|benchmarks|docs|extract|flows|index|serve|tests|train"
    named = re.findall(rf"`((?:{folders})/[\w/.*-]+?)`", text)
    made = {"index/", "docs/api"}
    assert not [one for one in named if not list(ROOT.glob(one.rstrip("/"))) and one not in made]


@pytest.mark.quick
@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_tables_stand_where_a_reader_is_sent(page):
    """ "`MEASURES` in `extract/…`" is the file that defines the table."""
    text = (ROOT / page).read_text(encoding="utf-8")
    places = dict(re.findall(r"`([A-Z_]+)` in `([\w/]+\.py)`", text))
    assert {"MEASURES", "SOURCES", "SCORES"} <= places.keys()
    for table, file in places.items():
        code = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^{table}\b.* = ", code, re.MULTILINE), (table, file)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")])
def test_settings_are_valid(page, tmp_path, monkeypatch):
    """The blocks of TOML of a page are one settings file, or one each, that a run accepts."""
    from alike.flows.settings import read_pipeline

    text = ""
    for code in blocks(page, "toml"):
        for name in re.findall(r"\$\{(\w+)\}", code):
            monkeypatch.setenv(name, "of the environment")
        text = code if "[images]" in code else f"{text}\n{code}"
        file = tmp_path / "pipeline.toml"
        file.write_text(text, encoding="utf-8")
        assert read_pipeline(file).images.source


def test_every_setting_is_described():
    """docs/settings.md has one row for each field, below the heading of its section."""
    from alike.flows.sections import Pipeline, TransformSettings
    from alike.train.settings import TrainSettings

    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    heads = r"^(## .*|`\[network\.transform\].*|`trainer = .*)$"
    pieces = re.split(heads, text, flags=re.MULTILINE)
    rows = {
        head: re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE)
        for head, body in zip(pieces[1::2], pieces[2::2], strict=True)
    }
    sections = {
        name: next(
            (kind for kind in (field.annotation, *get_args(field.annotation))
             if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        for name, field in Pipeline.model_fields.items() if name != "others"
    }  # fmt: skip
    expected = {f"## `[{name}]`": set(kind.model_fields) for name, kind in sections.items() if kind}
    expected["## Top level"] = {name for name, kind in sections.items() if kind is None}
    expected["`[network.transform]`"] = set(TransformSettings.model_fields)
    expected["`trainer"] = set(TrainSettings.model_fields) - {"loss", "epochs", "seed"}
    for head, fields in expected.items():
        described = next(names for line, names in rows.items() if line.startswith(head))
        assert sorted(described) == sorted(fields), head
    # The second and further networks have the keys of the first.
    assert "### `[[network]]`" in text


def test_every_public_package_has_a_page():
    """The pages of docs/api_pages.py are all packages that hand on names, `alike` first."""
    module = ast.parse((ROOT / "docs/api_pages.py").read_text(encoding="utf-8"))
    pages = next(
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAGES"
    )
    folders = ("alike", "extract", "index", "analysis", "train", "flows", "serve")
    stubs = [stub for folder in folders for stub in (ROOT / folder).rglob("__init__.pyi")]
    packages = {
        ".".join(("alike", *stub.relative_to(ROOT).parts[:-1])).replace("alike.alike", "alike")
        for stub in stubs
    }
    assert set(pages.values()) == packages
    assert next(iter(pages.values())) == "alike"
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in pages if f": {page}" not in navigation] == []
