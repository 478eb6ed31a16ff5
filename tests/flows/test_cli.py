"""Bad input: one line that names it, status 2, no traceback, and nothing computed."""

import json
import os
import re
import sys
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import typer.main
from PIL import Image

from alike.extract.errors import ProcessDone
from alike.flows import cli, log_lines, orchestration
from alike.flows.cli import app, main


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def alike(monkeypatch, capsys, tmp_path):
    """The command line, run here: what fails before Prefect starts needs no process of its own."""

    def run(*arguments, cwd=tmp_path):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["alike", *map(str, arguments)])
        exits = pytest.raises(SystemExit)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
        with mock.patch.dict(os.environ, environment, clear=True), exits as ended:
            main()
        said = capsys.readouterr()
        return Outcome(ended.value.code or 0, said.out, said.err)

    return run


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
        ("two", 'name = "resnet18"\n[retrain]\nwhen = "samenes < 0.8"', "no score 'samenes'"),
        ("two", 'name = "resnet18"\n[retrain]\ntrainer = {augment = "flop"}', "'flop'"),
        ("two", 'name = "resnet18"\n[extract]\nprecision = "half"', "half"),
        ("two", 'name = "resnet18"\n[extract]\ndevice = "gpu"', "gpu"),
        ("two", 'name = "resnet18"\n[analyse]\nseed = -1', "seed"),
        ("two", 'name = "resnet18"\n[retrain]\nseed = -1', "seed"),
        ("two/cat", 'name = "resnet18"', "without a class"),
        ("two", 'name = "resnet18"\n[index]\nmeasure = "gap"', "measure 'gap'"),
        ("two", 'name = "resnet18"\n[retrain]\nmeasure = "gap"', "measure 'gap'"),
        ("two", 'name = "resnet18"\ntransform = {resize = inf}', "network.transform.resize = inf"),
        ("two", 'name = "resnet18"\n[index]\nmemory = 0', "index.memory = 0"),
        ("two", 'name = "resnet18"\n[extract]\ntaps = ["nosuch"]', "tap 'nosuch'"),
        ("two", 'name = "resnet18"\n[extract]\ndevice = "meta"', "device 'meta'"),
        ("two", 'name = "resnet18"\n[retrain]\ntrainer = {lr = inf}', "lr = inf"),
        ("two", 'name = "resnet18"\nseed = 9223372036854775808', "network.seed"),
        ("two", 'name = "resnet18"\n[output]\nfolder = "~nosuchuser/x"', "no such user's home"),
        ("two", 'name = "resnet18"\n[output]\nfolder = "s3://bucket/x"', "a local folder"),
        ("two", 'name = "resnet18"\nargs = ' + "[" * 3000 + "]" * 3000, "too deep"),
    ],
)
def test_run_refuses(alike, place, source, network, says):
    text = f'[images]\nsource = "{source}"\n[network]\n{network}\n'
    (place / "pipeline.toml").write_text(text, encoding="utf-8")
    done = alike("run", "pipeline.toml", cwd=place)
    assert done.status == 2, done.err
    assert says in done.err
    assert done.err.startswith("alike: ")
    assert done.err.count("\n") == 1, done.err


@pytest.mark.quick
def test_code_that_ends_the_process_is_no_good_end(alike, monkeypatch):
    """As a network whose forward pass calls `sys.exit()`; a process of several ends as it wants."""
    monkeypatch.setattr(cli, "app", lambda **_: sys.exit())
    done = alike("run", "p.toml")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "ended the process by itself" in done.err

    def done_here(**_):
        raise ProcessDone(0)

    monkeypatch.setattr(cli, "app", done_here)
    assert alike("retrain") == Outcome(0, "", "")


@pytest.mark.quick
def test_a_command_that_does_not_exist_is_told_in_the_form_that_was_chosen(alike):
    try:
        done = alike("--log-format", "json", "analize")
        assert json.loads(done.err)["message"].startswith("No such command 'analize'")
    finally:
        log_lines.forget_choice()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("DEFAULT", "a word for torchvision's and timm's networks"),
        ("ResNet18_Weights.IMAGENET1K_V1", "a word for torchvision's and timm's networks"),
        ("", "an empty name"),
        ("two", "is a folder without weights.safetensors"),
        ("none.pth", "none.pth does not exist"),
    ],
)
def test_weights_that_are_none_of_a_network_file(alike, place, weights, says):
    (place / "net.py").write_text("from torch import nn\n\ndef net():\n    return nn.Flatten()\n")
    command = ("extract", "two", "--network", "net.py:net", "--store", "s", "--weights", weights)
    done = alike(*command, cwd=place)
    assert (done.status, done.err.count("\n")) == (2, 1), done.err
    assert says in done.err
    assert not (place / "s").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("analize",), "'analyse'"),
        (("run", "--fast"), "No such option: --fast; see alike run --help"),
        (("run",), "Missing argument"),
        (
            ("compare", "a", "b", "--store", "s", "--split", "half"),
            "'held_out', 'validation', 'train'",
        ),
        (("index", "--store", "s", "--at", "many"), "'--at'"),
        (("analyse", "--store", "s", "--seed", "-1"), "'--seed'"),
        (("compare", "a", "b", "--store", "s", "--seed", "-1"), "'--seed'"),
        (("map", "--store", "s", "--seed", "-1"), "'--seed'"),
        (("map", "--store", "s", "--seed", str(2**32)), "'--seed'"),
        (("retrain", "--to", "r", "--seed", "-1"), "'--seed'"),
        (("analyse", "--store", "absent"), "no store at absent"),
        (("analyse", "--store", "s", "--budget", "nan"), "'--budget'"),
        (("analyse", "--store", "s", "--seed", str(2**63)), "'--seed'"),
        (("map", "--store", "s", "--perplexity", "inf"), "'--perplexity'"),
        (("index", "--store", "s", "--latency", "nan"), "'--latency'"),
        (("neighbours", "0", "--store", "s", "-k", "0"), "'-k'"),
        (("serve", "--store", "s", "--port", "99999"), "'--port'"),
        (("schedule", "p.toml", "--cron", "0 2 * * *", "--port", "99999"), "'--port'"),
        (("schedule", "p.toml", "--cron", "at two"), "expected five fields"),
        (("schedule", "p.toml", "--cron", "0 2 * * *", "--timezone", "Mars/Base"), "--timezone"),
        (("schedule", "p.toml", "--cron", "0 2 * * *", "--timezone", "../UTC"), "--timezone"),
        (("schedule", "p.toml", "--cron", "0 2 * * *", "--timezone", "UTC"), "no such file"),
        (("retrain", "--to", "r", "--set", "patience=-1"), "patience = -1"),
        (("retrain", "--to", "r", "--set", "warmup=nan"), "warmup = 'nan'"),
        (("retrain", "--to", "r", "--set", "warmup=NaN"), "warmup = nan"),
        (("retrain", "--to", "r", "--set", "speed=1"), "no such setting: speed"),
        (("retrain", "--to", "r", "--lr", "inf"), "lr = inf"),
        (
            ("retrain", "--to", "r", "--epochs", "20", "--set", "epochs=3"),
            "--set epochs=3 and --epochs 20 are two values of one setting",
        ),
        (
            ("retrain", "--to", "r", "--set", "batch_size=3", "--batch-size", "4"),
            "--set batch_size=3 and --batch-size 4 are two values",
        ),
        (
            ("retrain", "--to", "r", "--set", "lr=1", "--set", "lr=2"),
            "lr is given as 1 and as 2: give it once",
        ),
        (("analyse", "--store", "~nosuchuser/s"), "~nosuchuser/s: no such user's home"),
        (("demo", "--to", "~nosuchuser/s"), "~nosuchuser/s: no such user's home"),
        (("analyse", "--store", "s", "--cluster", "10.0.0.1"), "'10.0.0.1': expected local, a"),
        (("analyse", "--store", "s", "--cluster", "http://h:8787"), "its protocol must be one of"),
        (("twins", "--store", "s", "--cluster", "tcp://h:99999"), "a number from 1 to 65535"),
        (("analyse", "--store", "s", "--dask", "9999999999"), "'--dask'"),
        (("analyse", "--store", "s", "--workers", "2000"), "'--workers'"),
    ],
)
def test_wrong_use_is_one_line(alike, words, says):
    done = alike(*words)
    assert (done.status, done.out) == (2, "")
    assert says in done.err
    assert done.err.startswith("alike: ")
    assert done.err.count("\n") == 1, done.err


def test_no_command_shows_the_help(alike):
    done = alike()
    assert done.status == 2
    assert "neighbours" in done.out + done.err


def test_a_deleted_working_directory_is_named(alike, tmp_path, monkeypatch):
    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(cli.Path, "cwd", gone)
    done = alike("list", "measures")
    assert (done.status, done.out) == (2, "")
    assert "working directory was deleted" in done.err


@pytest.mark.parametrize("words", [("export", "--store", "s", "--to", b"a\xff.csv"), ("list",)])
def test_names_that_are_not_utf8_are_refused(alike, tmp_path, words):
    """A store in such a folder could not be opened again: it counted as damaged."""
    place = tmp_path / os.fsdecode(b"caf\xe9") if words == ("list",) else tmp_path
    place.mkdir(exist_ok=True)
    done = alike(*map(os.fsdecode, words), cwd=place)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "\\xff.csv is not in UTF-8" in done.err or "caf\\xe9 is not in UTF-8" in done.err


@pytest.mark.parametrize("kind", ["botocore.exceptions", "gcsfs.retry"])
def test_missing_credentials_are_one_line(alike, monkeypatch, kind):
    def refused(**_):
        raise type("NoCredentials", (Exception,), {"__module__": kind})("no credentials\nfound")

    monkeypatch.setattr(cli, "app", refused)
    done = alike("store", "ls", "s3://bucket/x")
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert "no credentials found; give the credentials" in done.err


def test_a_store_that_is_a_link_to_itself_is_named(alike, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    done = alike("store", "ls", "loop")
    assert done.status == 2, done.err
    assert done.err.count("\n") == 1, done.err


def test_a_full_disk_is_told_before_anything_starts(alike, place, monkeypatch):
    monkeypatch.setattr(
        orchestration.shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000)
    )
    text = '[images]\nsource = "two"\n[network]\nname = "resnet18"\n'
    (place / "full.toml").write_text(text, encoding="utf-8")
    done = alike("run", "full.toml", cwd=place)
    assert done.status == 1, done.err
    assert "3 MB left" in done.err
    assert done.err.count("\n") == 1, done.err


def test_a_place_that_cannot_be_written_is_named(alike, place):
    (place / "file").touch()
    text = '[images]\nsource = "two"\n[network]\nname = "resnet18"\n[output]\nfolder = "file/a"\n'
    (place / "nowhere.toml").write_text(text, encoding="utf-8")
    done = alike("run", "nowhere.toml", cwd=place)
    assert done.status == 2, done.err
    assert str(place / "file") in done.err
    assert done.err.count("\n") == 1, done.err


@pytest.mark.parametrize(
    "table",
    [
        "networks",
        "datasets",
        "measures",
        "scores",
        "losses",
        "explainers",
        "pair-explainers",
        "indexes",
    ],
)
def test_list(alike, table):
    rows = json.loads(alike("list", table, "--json").out)
    assert len(rows) >= 4
    assert len({row["about"] for row in rows}) > 1 or table == "networks"
    assert all(row["about"] for row in rows)


def test_doctor(alike):
    found = json.loads(alike("doctor", "--json").out)
    assert found["Versions"]["torch"].startswith("2.")
    assert found["A run would use"]["device"] in ("cpu", "cuda")


def leaves(command, words=()):
    """Every command with the words that call it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
    else:
        for name, child in inner.items():
            yield from leaves(child, (*words, name))


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.mark.quick
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_an_example_whose_options_exist(words):
    shown = COMMANDS[words].help
    assert f"alike {' '.join(words)}" in shown
    known = {flag for option in COMMANDS[words].params for flag in option.opts}
    used = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", " ".join(examples(words, shown))))
    assert used <= known


def examples(words, shown):
    """The lines of a help text that call this command."""
    return re.findall(rf"alike {' '.join(words)} ([^`\n]*)", shown)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_one_name_and_one_default_for_what_commands_share(words):
    options = {flag: option for option in COMMANDS[words].params for flag in option.opts}
    assert not {"--out", "--output", "--key"} & set(options), "--to, --features"
    if "--split" in options:
        assert options["--split"].default == "held_out"
    for name, about in (("--store", "Store of the features"), ("--features", "xtraction")):
        if name in options and words[0] not in ("extract", "retrain"):
            assert about in options[name].help
