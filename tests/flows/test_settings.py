import re
import subprocess
import sys
from pathlib import Path

import pytest

from alike.extract.errors import BadInput
from alike.flows.outputs import make_output
from alike.flows.settings import parse_bytes, read_pipeline

ROOT = Path(__file__).parents[2]

SMALL = '[images]\nsource = "photos"\n[network]\nname = "resnet18"\n'


def written(folder, text):
    file = folder / "pipeline.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_paths_are_beside_the_file(tmp_path):
    (tmp_path / "Fotos é ü").mkdir()
    (tmp_path / "net.py").touch()
    text = '[images]\nsource = "Fotos é ü"\n[network]\nname = "net.py:make"\nweights = "none"\n'
    pipeline = read_pipeline(written(tmp_path, text))
    assert pipeline.images.source == str(tmp_path / "Fotos é ü")
    assert pipeline.network.name == f"{tmp_path / 'net.py'}:make"
    assert pipeline.network.weights == "none"
    assert pipeline.output.folder == tmp_path / "alike-out"


def test_train_share_follows_retrain(tmp_path):
    assert read_pipeline(written(tmp_path, SMALL)).train_share == 0.0
    # As some editors write it.
    assert read_pipeline(written(tmp_path, f"\ufeff{SMALL}")).train_share == 0.0
    assert read_pipeline(written(tmp_path, SMALL)).validation_share == 0.0
    assert read_pipeline(written(tmp_path, SMALL + "[retrain]\n")).train_share == 0.5
    assert read_pipeline(written(tmp_path, SMALL + "[retrain]\n")).validation_share == 0.25


TRANSFORM = SMALL + "transform = "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TRANSFORM + "{ resize = inf }\n", "network.transform.resize = inf: must be pixels"),
        (TRANSFORM + "{ resize = 0 }\n", "network.transform.resize = 0"),
        (TRANSFORM + "{ resize = true }\n", "network.transform.resize = True"),
        (TRANSFORM + "{ resize = [8, 8, 8] }\n", "or [height, width]"),
        (TRANSFORM + "{ resize = 99999 }\n", "network.transform.resize = 99999"),
        (TRANSFORM + "{ crop = '8' }\n", "network.transform.crop = '8'"),
        (TRANSFORM + "{ resize = 8, crop = 9 }\n", "crop 9 is larger than resize 8"),
        (TRANSFORM + "{ mean = [0.5, 0.5] }\n", "network.transform.mean"),
        (TRANSFORM + "{ mean = [0.5, 0.5, nan] }\n", "network.transform.mean.2 = nan"),
        (TRANSFORM + "{ std = [0.5, 0.5, 0] }\n", "std above 0"),
        (TRANSFORM + "{ interpolation = 'cubic' }\n", "network.transform.interpolation"),
        (TRANSFORM + "{ antialias = 3 }\n", "network.transform.antialias"),
        (TRANSFORM + "{ side = 3 }\n", "network.transform.side: no such setting"),
        (TRANSFORM + "5\n", "network.transform"),
        (SMALL + "seed = 9223372036854775808\n", "network.seed"),
        (SMALL + "[retrain]\nseed = 9223372036854775808\n", "retrain.seed"),
        (SMALL + "[analyse]\nseed = 9223372036854775808\n", "analyse.seed"),
        (SMALL + "[index]\nmemory = 0\n", "index.memory = 0"),
        (SMALL + "[index]\nrecall = nan\n", "index.recall = nan"),
        (SMALL + "[retrain]\nminimum_gain = nan\n", "retrain.minimum_gain = nan"),
        (SMALL + "[retrain]\nwhen = 'sameness < 1e999'\n", "retrain.when = 'sameness < 1e999'"),
        (SMALL + "[output]\nfolder = 's3://bucket/x'\n", "output.folder = 's3://bucket/x'"),
        (SMALL + "[output]\nfolder = '~nosuchuser/x'\n", "no such user's home"),
        (SMALL.replace("photos", "~nosuchuser/x"), "no such user's home"),
        (SMALL.replace('"photos"', '"a\\u0000b"'), "a NUL character"),
        (SMALL.replace('"resnet18"', '"a\\u0000b.py:make"'), "a NUL character"),
        ("x = " + "[" * 5000 + "]" * 5000, "too deep"),
        (SMALL + "[extrct]\n", "extrct: no such setting"),
        ('[images]\nsource = "x"\n', "network: must be given"),
        (SMALL + "[index]\nrecall = 1.5\n", "index.recall = 1.5"),
        (SMALL + "[index]\nmemory = 'much'\n", "expected a size such as 4GB"),
        (SMALL + '[retrain]\nepochs = "many"\n', "retrain.epochs = 'many'"),
        ("[images\n", "not a TOML file"),
        (SMALL + "[index]\nrecal = 0.9\n", "index.recal: no such setting; did you mean recall?"),
        (SMALL + "[extrcat]\n", "extrcat: no such setting; did you mean extract?"),
        (SMALL + "[index]\nrecall = true\n", "index.recall = True: must be no true or false"),
        (SMALL + "[cluster]\nworkers = true\n", "cluster.workers = True"),
        (SMALL + "[cluster]\nworkers = 1000000000\n", "cluster.workers = 1000000000"),
        (SMALL + "[cluster]\ndask = 'Local'\n", "cluster.dask = 'Local': must be local, or an"),
        (SMALL + "[cluster]\ndask = 'http://h:1'\n", "its protocol must be one of tcp"),
        (SMALL + "[cluster]\ndask = 'tcp://h'\n", "it has no port"),
        (SMALL + "[analyse]\nseed = false\n", "analyse.seed = False"),
        (SMALL + "[analyse]\nmeasures = 3\n", "analyse.measures = 3: must be a list"),
        (
            "images = 3\n" + SMALL.split("[network]")[1].join(["[network]", ""]),
            "a table of settings",
        ),
        (
            TRANSFORM + "{ mean = [0.5, 0.5] }\n",
            "network.transform.mean = [0.5, 0.5]: must have more",
        ),
        (SMALL + "[output]\nfolder = ' '\n", "output.folder = ' ': must name a folder"),
        (SMALL + "[extract]\ntaps = []\n", "extract.taps"),
        (SMALL + "[alarm]\nevent = true\n", "nothing is watched: give when"),
        (SMALL + "[alarm]\nwhen = ['bad > 1 %']\ncommand = ['']\n", "the name of a program"),
        (SMALL.replace("[network]", "[network]\nclasses = ['a', 'b', 'a']"), "a twice"),
    ],
)
def test_faults_are_named(tmp_path, text, says):
    with pytest.raises(BadInput, match=re.escape(says)):
        read_pipeline(written(tmp_path, text))


def test_all_faults_at_once(tmp_path):
    with pytest.raises(BadInput, match=r"must be given.*; .*no such setting"):
        read_pipeline(written(tmp_path, "[images]\nfolder = 3\n[network]\nname = 'resnet18'\n"))


@pytest.mark.quick
def test_a_folder_is_no_settings_file(tmp_path):
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    for path in (tmp_path, tmp_path / "loop.toml"):
        with pytest.raises(BadInput, match="no file to read settings from"):
            read_pipeline(path)


def test_missing_file(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        read_pipeline(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("512 MiB", 512 * 2**20),
        ("500M", 5 * 10**8),
        ("100", 100),
        ("1e9", 10**9),
        ("1.5kB", 1500),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["much", "4XB", "", "-1GB", "inf", "nan", "G"])
def test_wrong_sizes(text):
    with pytest.raises(BadInput, match="expected a size"):
        parse_bytes(text)


def test_trainer_settings_are_passed_on(tmp_path):
    text = SMALL + '[retrain]\nepochs = 3\n[retrain.trainer]\nlr = 0.01\naugment = "none"\n'
    settings = read_pipeline(written(tmp_path, text)).retrain.train_settings("ce")
    assert (settings.loss, settings.epochs, settings.lr, settings.augment) == (
        "ce",
        3,
        0.01,
        "none",
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("speed = 3", "retrain.trainer: no such setting: speed"),
        ("lr = -1", "retrain.trainer: lr = -1: must be greater than 0"),
        ("lr = 'x'", "lr = 'x': must be a valid number"),
        ("lr = inf", "lr = inf: must be a finite number"),
        ("warmup = nan", "warmup = nan"),
        ("patience = -1", "patience = -1"),
        ("batch_size = 2.5", "batch_size = 2.5"),
        ("optimiser = 'adam'", "must be 'adamw' or 'sgd'"),
        ("seed = 1", "seed: set it in"),
    ],
)
def test_trainer_settings_are_checked(tmp_path, line, says):
    with pytest.raises(BadInput, match=says):
        read_pipeline(written(tmp_path, SMALL + f"[retrain]\n[retrain.trainer]\n{line}\n"))


LOADED = """
import sys
from pathlib import Path
from alike.flows.settings import read_pipeline
assert read_pipeline(Path(sys.argv[1])).network.transform.build().crop == 24
print(" ".join(sorted(name for name in sys.modules if name in ("torch", "torchvision"))))
"""


def test_a_transform_is_checked_without_torch(tmp_path):
    """A run on an unchanged set reads its settings, and must not wait for torch."""
    file = tmp_path / "pipeline.toml"
    file.write_text(
        '[images]\nsource = "photos"\n[network]\nname = "resnet18"\n'
        '[network.transform]\nresize = 32\ncrop = 24\n[output]\nfolder = "out"\n'
    )
    command = [sys.executable, "-c", LOADED, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("source", "output", "refused"),
    [
        ("photos", 'folder = "photos"', "folder"),
        ("photos", 'folder = "a/../photos/"', "folder"),
        ("s3://b/photos/", 'store = "s3://b/photos"', "store"),
        (".", "", ""),
        ("photos", 'store = "photos/store"', ""),
        ("s3://b/photos", 'store = "s3://b/photos/store"', ""),
        ("photos", 'folder = "photos2"', ""),
    ],
)
def test_outputs_are_not_the_folder_of_the_images(tmp_path, source, output, refused):
    """Pictures of a run would be images of the next one."""
    (tmp_path / "photos").mkdir()
    file = written(tmp_path, SMALL.replace("photos", source) + f"[output]\n{output}\n")
    if refused:
        with pytest.raises(BadInput, match=f"^output.{refused} = .* is images.source = "):
            read_pipeline(file)
    else:
        read_pipeline(file)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BadInput, match=r"^output\.folder .*file/out cannot be written \(Not a dir"):
        make_output(tmp_path / "file" / "out")
