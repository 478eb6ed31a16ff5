"""Everything runs from a folder whose modules bear the names of ours, and imports none of them.

What is run is the wheel, unpacked: of ours, only `alike` can be imported.
"""

import json
import os
import subprocess
import sys

import pytest

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
    "extract {images} --network {network} --weights none --store s --train-share 0.4 --threads 1",
    "extract {images} --network {network} --weights none --store w --seed 1 --workers 2",
    "index --store s",
    "neighbours 3 {image} --store s -k 2",
    "analyse --store s --bootstrap 5 --measures gap_cosine",
    "analyse --store w --bootstrap 5 --measures gap_cosine --workers 2",
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
    "serve --help",
    "schedule --help",
    "demo --help",
)
"""The commands in the order of a study; each uses what the ones before it made."""

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


@pytest.fixture
def python(user_folder):
    """Runs this Python in the user's folder; gives its standard output."""

    def run(*words, path):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
        # The kernels of a fresh installation would be compiled anew, for 27 images.
        environment["NUMBA_DISABLE_JIT"] = "1"
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=user_folder,
            env=environment,
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
    image = tiny_set.images / "b" / "0.png"
    return {
        "images": str(tiny_set.images),
        "image": str(image),
        "network": tiny_set.network,
        "key": report.key,
    }


def check(output, installed):
    done, where, theirs = json.loads(output.splitlines()[-1])
    failed = [(words, status, said) for words, status, said in done if status != 0]
    assert not failed
    assert where.startswith(str(installed))
    assert not theirs


@pytest.mark.parametrize("with_folder", [False, True])
def test_every_command(with_folder, user_folder, python, installed, places):
    """As the script `alike` does; `PYTHONPATH=.` puts the user's modules before all others."""
    bin_folder = user_folder.parent / "bin"
    bin_folder.mkdir()
    names = (*NAMES, "analysis")
    (bin_folder / "alike").write_text(DRIVER.format(before="", names=names))
    # Workers of a statistic once: each process imports for seconds.
    study = [line for line in STUDY if with_folder or not line.startswith("analyse --store w")]
    lines = [[word.format(**places) for word in line.split()] for line in study]
    (bin_folder / "lines.json").write_text(json.dumps(lines))
    path = (".", installed) if with_folder else (installed,)
    check(python(bin_folder / "alike", bin_folder / "lines.json", path=path), installed)


def test_a_script_and_a_run(user_folder, python, installed, places):
    """The script's folder is first on its path; nothing but the script says where alike is."""
    before = f"sys.path.append({str(installed)!r})"
    text = DRIVER.format(before=before, names=(*NAMES, "analysis"))
    (user_folder / "study.py").write_text(text)
    (user_folder / "pipeline.toml").write_text(SETTINGS.format(**places))
    (user_folder / "lines.json").write_text(json.dumps([["run", "pipeline.toml"]]))
    check(python("study.py", "lines.json", path=()), installed)


@pytest.mark.parametrize("path", [(), (".",)])
def test_python_m(path, python, installed):
    assert "neighbours" in python("-m", "alike", "--help", path=(*path, installed))
    assert "gap_cosine" in python("-m", "alike", "list", "measures", path=(*path, installed))


def test_a_notebook(python, installed, places):
    """A kernel, as `python -c`, has the working folder first on its path."""
    code = f"""
import alike
places = {places!r}
alike.extract_images(places["images"], places["network"], "s", weights="none", threads=1)
alike.build_index("s")
print(alike.analyse("s", measures="gap_cosine", bootstrap=0)._repr_html_()[:4])
print(alike.neighbours([3, places["image"]], "s", 2)._repr_html_().count("<img"))
"""
    assert python("-c", code, path=(installed,)).split() == ["<div", "6"]


WORKERS = """
import sys
sys.path.append({installed!r})


def of_the_worker(names):
    import alike.extract.distributed

    return alike.__file__, sorted(set(names) & sys.modules.keys())


if __name__ == "__main__":
    import json

    from alike.extract.distributed import dask_client

    with dask_client(2) as client:
        print(json.dumps(list(client.run(of_the_worker, {names}).values())))
"""


def test_workers_find_alike_as_the_script_did(user_folder, python, installed):
    """Not by the folder that they are started in, nor by a variable of the environment."""
    names = (*NAMES, "analysis")
    text = WORKERS.format(installed=str(installed), names=names)
    (user_folder / "cluster.py").write_text(text)
    found = json.loads(python("cluster.py", path=()).splitlines()[-1])
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
    for more in ((), ("--workers", "1")):
        store = f"s{len(more)}"
        python("-m", "alike", *words, "--store", store, *more, path=(installed,))
