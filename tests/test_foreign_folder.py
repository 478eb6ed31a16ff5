"""Everything runs from a folder whose modules bear the names of ours, and imports none of them.

What is run is the wheel, unpacked: of ours, only `alike` can be imported.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from functools import partial

import pytest
from PIL import Image

FULL = os.environ.get("ALIKE_FULL") == "1"

NAMES = ("train", "index", "extract", "flows", "serve", "models", "utils")

SETTINGS = """
[images]
source = {images!r}
train_share = 0.4
[network]
name = {network!r}
weights = "none"
[extract]
device = "cpu"
[output]
folder = "out"
"""

STUDY = (
    "--help",
    "list measures",
    "doctor",
    "check {images} --network {network} --weights none --images 2",
    "extract {images} --network {network} --weights none --store s --train-share 0.4 --threads 1",
    "extract {images} --network {network} --weights none --store w --seed 1 --cluster 2",
    "index --store s",
    "neighbours 3 {image} --store s -k 2",
    "analyse --store s --bootstrap 5 --measures gap_cosine",
    "analyse --store w --bootstrap 5 --measures gap_cosine --cluster 2",
    "compare {key} {key} --store s --bootstrap 5",
    "explain {image} --store s --methods gradcam --to pictures",
    "map --store s --perplexity 2",
    "export --store s --to out.parquet",
    "report --store s --to report.html --no-maps",
    "retrain --store s --to runs/a --epochs 1 --loss ce --device cpu",
    "store ls s",
    "store verify s",
    "store log s",
    "store gc s --dry-run",
    "store upgrade s --dry-run",
    "store export s --features {key} --to group.h5",
    "store import t group.h5",
    "twins --store s",
    "card s --to card.json",
    "probe background --store s --masks {masks} --split all",
    "store forget {image} --store s",
)
"""The commands in the order of a study; each uses what the ones before it made."""

SCHEDULE = 'schedule pipeline.toml --cron "0 2 * * *" --timezone UTC'
FLOWS = ("run pipeline.toml", "demo --to demo", SCHEDULE)
DAILY = (
    "plan pipeline.toml",
    "status pipeline.toml",
    "runs ls pipeline.toml",
    "runs show pipeline.toml",
    "runs diff pipeline.toml last",
    "runs plot pipeline.toml",
    "runs accept pipeline.toml",
)
"""What looks at the run of a settings file."""
"""Those that a script runs; the last one names a server that is not there."""

WAITING = {
    "serve --store {store} --port 0": r"(http://127.0.0.1:\d+/)",
    f"{SCHEDULE} --port {{port}}": "(is being served)",
}
"""Those that answer until they are interrupted, and what they say when they can be asked."""

SHORT = r"""
import re
import sklearn.datasets
import alike.flows.demo
import alike.flows.schedule

# 48 digits of two classes, and no training after the first.
all_digits = sklearn.datasets.load_digits


def few_digits():
    digits = all_digits(n_class=2)
    digits.images, digits.target = digits.images[:48], digits.target[:48]
    return digits


sklearn.datasets.load_digits = few_digits
sections = re.split(r"\n(?=\[)", alike.flows.demo.PIPELINE)
rest = [one for one in sections if not one.startswith(("[explain]", "[retrain]"))]
few = "[analyse]\nmeasures = ['gap_cosine']\nuntrained = false\n"
few += "[explain]\nconfused = 0\nexamples = 0\n"
alike.flows.demo.PIPELINE = "\n".join([*rest, few])


# The schedule up to the server.
def start_server(port, log):
    import alike.flows.serving

    alike.flows.serving.serve = lambda flow, deployed, *rest: print("served", deployed["name"])


alike.flows.schedule.start_server = start_server
"""
"""What makes the demo and the schedule take seconds."""

DRIVER = '''
"""Runs command lines one after the other in one process, as the script `alike` runs one."""
import contextlib, io, json, sys

{before}
from alike.flows.cli import main


def run(words):
    sys.argv = ["alike", *words]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
        except BaseException as error:
            status = repr(error)
    return words, status, said.getvalue()[-2000:]


if __name__ == "__main__":
    done = [run(words) for words in json.load(open(sys.argv[1]))]
    import alike
    print(json.dumps([done, alike.__file__, sorted(set({names}) & sys.modules.keys())]))
'''


@pytest.fixture
def user_folder(tmp_path):
    """A folder of a researcher whose modules must not be imported by anything of ours."""
    folder = tmp_path / "study"
    (folder / "analysis").mkdir(parents=True)
    for name in NAMES:
        (folder / f"{name}.py").write_text(f'raise RuntimeError("the module {name} of the user")\n')
    text = 'raise RuntimeError("the package analysis of the user")\n'
    (folder / "analysis" / "__init__.py").write_text(text)
    return folder


def environment_of(path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    if not FULL:
        # The kernels of a fresh installation would be compiled anew, for a few images.
        environment["NUMBA_DISABLE_JIT"] = "1"
    return environment | {"PYTHONPATH": os.pathsep.join(map(str, path))}


@pytest.fixture
def python(user_folder):
    """Runs this Python in the user's folder; gives its standard output."""

    def run(*words, path):
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=user_folder,
            env=environment_of(path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "of the user" not in done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def places(tiny_set):
    import alike

    store = tiny_set.folder / "key"
    report = alike.extract_images(tiny_set.images, tiny_set.network, store, weights="none")
    alike.build_index(store)
    masks = tiny_set.folder / "masks"
    for file in tiny_set.images.rglob("*.png"):
        place = masks / file.relative_to(tiny_set.images)
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            mask = Image.new("L", image.size)
        width, height = mask.size
        mask.paste(255, (width // 4, height // 4, width // 2, height // 2))
        mask.save(place)
    return {
        "masks": str(masks),
        "store": str(store),
        "images": str(tiny_set.images),
        "image": str(tiny_set.images / "b" / "0.png"),
        "network": tiny_set.network,
        "key": report.key,
    }


def check(output, installed):
    done, where, theirs = json.loads(output.splitlines()[-1])
    failed = [(words, status, said) for words, status, said in done if status != 0]
    assert not failed
    assert where.startswith(str(installed))
    assert not theirs


PATHS = pytest.mark.parametrize("path", [(), (".",)], ids=["plain", "PYTHONPATH=."])
"""`PYTHONPATH=.` puts the user's modules before all others."""


def in_words(lines, **places):
    return [[word.format(**places) for word in shlex.split(line)] for line in lines]


@PATHS
def test_every_command(path, user_folder, python, installed, places):
    """As the script `alike` does."""
    bin_folder = user_folder.parent / "bin"
    bin_folder.mkdir()
    names = (*NAMES, "analysis")
    (bin_folder / "alike").write_text(DRIVER.format(before="", names=names))
    # Workers of a statistic once: each process imports for seconds.
    study = [line for line in STUDY if path or not line.startswith("analyse --store w")]
    (bin_folder / "lines.json").write_text(json.dumps(in_words(study, **places)))
    path = (*path, installed)
    check(python(bin_folder / "alike", bin_folder / "lines.json", path=path), installed)


@PATHS
def test_a_script_and_what_it_runs(path, user_folder, python, installed, places):
    """The script's folder is first on its path; nothing but the script says where alike is."""
    before = f"sys.path.append({str(installed)!r})\n{'' if FULL else SHORT}"
    text = DRIVER.format(before=before, names=(*NAMES, "analysis"))
    (user_folder / "study.py").write_text(text)
    (user_folder / "pipeline.toml").write_text(SETTINGS.format(**places))
    # Each on one path; by ALIKE_FULL on both, and the schedule as one of `WAITING`.
    flows = FLOWS[1:] if path else (FLOWS[0], *DAILY)
    if FULL:
        flows = (FLOWS[0], *DAILY, FLOWS[1])
    (user_folder / "lines.json").write_text(json.dumps(in_words(flows)))
    check(python("study.py", "lines.json", path=path), installed)


@contextmanager
def waiting(command, path, ready, folder):
    """A command that answers until it is interrupted; gives what it says of its place."""
    process = subprocess.Popen(
        [sys.executable, "-m", "alike", *command],
        cwd=folder, env=environment_of(path), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        # A shell that runs pytest in the background has Ctrl-C ignored, by children too.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    said = ""
    try:
        while not (found := re.search(ready, said)):
            line = process.stdout.readline()
            assert line, said[-3000:]
            said += line
        yield found[1]
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[0]
    finally:
        process.kill()
        process.wait()
    assert "of the user" not in said


@pytest.mark.parametrize("line", WAITING)
@PATHS
def test_commands_that_wait(line, path, user_folder, installed, places):
    if not FULL and (line.startswith("schedule") or not path):
        pytest.skip("slow: set ALIKE_FULL=1")
    (user_folder / "pipeline.toml").write_text(SETTINGS.format(**places))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (command,) = in_words([line], port=port, **places)
    with waiting(command, (*path, installed), WAITING[line], user_folder) as answer:
        if answer.startswith("http"):
            with urllib.request.urlopen(answer, timeout=60) as page:
                assert b"<html" in page.read()


def test_no_command_is_left_out():
    import typer.main

    from alike.flows.cli import app

    lines = [line.split() for line in (*STUDY, *FLOWS, *DAILY, *WAITING)]
    tried = {" ".join(words[:2]) for words in lines} | {words[0] for words in lines}
    commands = typer.main.get_command(app).commands
    ours = {
        f"{name} {more}".strip()
        for name, command in commands.items()
        for more in (getattr(command, "commands", [""]) if name != "list" else [""])
    }
    assert {"store import", "serve", "list"} <= ours
    assert not ours - tried


@PATHS
def test_python_m(path, python, installed):
    assert "neighbours" in python("-m", "alike", "--help", path=(*path, installed))
    assert "gap_cosine" in python("-m", "alike", "list", "measures", path=(*path, installed))


@PATHS
def test_a_notebook(path, python, installed, places):
    """A kernel, as `python -c`, has the working folder first on its path."""
    code = f"""
import alike
places = {places!r}
alike.extract_images(places["images"], places["network"], "s", weights="none", threads=1)
alike.build_index("s")
print(alike.analyse("s", measures="gap_cosine", bootstrap=0)._repr_html_()[:4])
print(alike.neighbours([3, places["image"]], "s", 2)._repr_html_().count("<img"))
"""
    assert python("-c", code, path=(*path, installed)).split() == ["<div", "6"]


WORKERS = """
import sys
sys.path.append({installed!r})


def of_the_worker(names):
    import alike.extract.distributed

    return alike.__file__, sorted(set(names) & sys.modules.keys())


if __name__ == "__main__":
    import json

    from alike.extract.distributed_client import dask_client

    with dask_client(2) as client:
        print(json.dumps(list(client.run(of_the_worker, {names}).values())))
"""


@PATHS
def test_workers_find_alike_as_the_script_did(path, user_folder, python, installed):
    """Not by the folder that they are started in, nor by a variable of the environment."""
    names = (*NAMES, "analysis")
    text = WORKERS.format(installed=str(installed), names=names)
    (user_folder / "cluster.py").write_text(text)
    found = json.loads(python("cluster.py", path=path).splitlines()[-1])
    assert found == [[str(installed / "alike" / "__init__.py"), []]] * 2


def test_a_network_file_imports_its_own_sibling(user_folder, python, installed, places):
    (user_folder / "models.py").write_text("from torch import nn\n\ndef build_model():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(4, 3))\n")  # fmt: skip
    (user_folder / "net.py").write_text(
        "TRANSFORM = {'resize': [12, 12]}\n\ndef net():\n"
        "    from models import build_model\n    return build_model()\n"
    )
    words = ("extract", places["images"], "--network", "net.py:net", "--weights", "none")
    for more in ((), ("--cluster", "1")):
        store = f"s{len(more)}"
        python("-m", "alike", *words, "--store", store, *more, path=(installed,))
