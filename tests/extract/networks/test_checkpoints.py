"""Checkpoints as people bring them: the wanted weights come out, or a line that helps."""

import argparse
import datetime
import os
import pathlib
import pickle
import runpy
import sys
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from images import class_folders
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.images.sources import open_source
from alike.extract.networks.checkpoints import choose_tensors, read_checkpoint
from alike.extract.networks.extraction import Extraction
from alike.extract.networks.network import load_network, network_of
from alike.extract.networks.taps import forward_taps
from alike.extract.pipeline import extract
from alike.extract.store.store import Store
from alike.flows.commands.extract import class_list

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the small inputs in {CASES}")
TINY = f"{CASES / 'networks' / 'tiny.py'}:make"

NOTES = {
    "wanted": None,
    "ema_beside": r"took model_ema \(ema: the averaged weights\), ignored model$",
    "timm_ema": r"took state_dict_ema \(ema: .*ignored state_dict$",
    "only_ema": None,
    "averaged": r"took module, ignored n_averaged$",
    "lightning_criterion": r"took state_dict\.model, ignored criterion\.\*$",
    "lightning_path": None,
    "lightning_namespace": None,
    "numpy_scalar": None,
    "moco": r"took state_dict\.encoder_q, ignored encoder_k\.\*$",
    "backbone": None,
    "params": None,
    "model_state": None,
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    argv, paths = sys.argv, list(sys.path)
    sys.argv = ["make.py", str(folder)]
    try:
        runpy.run_path(str(CASES / "checkpoints" / "make.py"))
    finally:
        sys.argv, sys.path[:] = argv, paths
        sys.modules.pop("tiny", None)
    return folder


@needs_cases
@pytest.mark.parametrize("case", NOTES)
def test_cases_load_to_equal_logits(case: str, checkpoints: Path) -> None:
    network = load_network(TINY, str(checkpoints / f"{case}.pt"))
    wanted = torch.load(checkpoints / "wanted.pt")
    for name, value in network.module.state_dict().items():
        torch.testing.assert_close(value, wanted[name])
    assert network.weights_hash == load_network(TINY, str(checkpoints / "wanted.pt")).weights_hash
    says = NOTES[case]
    assert len(network.notes) == (says is not None)
    if says:
        with pytest.raises(BadInput, match=says):
            raise BadInput(network.notes[0])


@needs_cases
def test_weights_without_a_head_give_maps_and_vectors(checkpoints: Path, tmp_path: Path) -> None:
    network = load_network(TINY, str(checkpoints / "no_head.pt"))
    whole = load_network(TINY, str(checkpoints / "wanted.pt"))
    batch = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = (
            forward_taps(n.module, batch, ["last_conv", "fc"]) for n in (network, whole)
        )
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name])
    assert network.classifier() is None
    assert "hold no classifier (fc.bias, fc.weight): no logits" in network.notes[0]
    with pytest.raises(BadInput, match=r"no tap logits: the weights hold no fc\.bias, fc\.weight"):
        forward_taps(network.module, batch, ["logits"])
    images = open_source(str(class_folders(tmp_path / "images", {"a": 2, "b": 2}, (32, 32))))
    store = Store.open(tmp_path / "store", create=True)
    report = extract(images, network, store, device="cpu")
    assert report.n_rows == 4
    assert network.notes[0] in report.notes
    assert set(store.features().arrays) == {"last_conv", "fc", "gap", "pixels"}
    assert not store.features().constants()
    # Random numbers of the head that is not there must not reach the hash.
    assert load_network(TINY, str(checkpoints / "no_head.pt")).weights_hash == network.weights_hash
    with pytest.raises(BadInput, match="no tap logits"):
        extract(images, network, store, taps=("fc", "logits"), device="cpu")


@needs_cases
@pytest.mark.parametrize(
    ("file", "says"),
    [
        (
            "whole_module",
            r"whole pickled nn\.Module .class tiny\.Tiny.*save its state_dict\(\)",
        ),
        ("lfs_pointer", "is a Git LFS pointer, not the weights: run `git lfs pull`"),
    ],
)
def test_refusals_of_the_cases(file: str, says: str, checkpoints: Path) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        load_network(TINY, str(checkpoints / f"{file}.pt"))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@needs_cases
def test_key_and_prefix_choose_and_come_back(checkpoints: Path) -> None:
    other = torch.load(checkpoints / "ema_beside.pt")["model"]
    by_key = load_network(TINY, str(checkpoints / "ema_beside.pt"), weights_key="model")
    by_prefix = load_network(TINY, str(checkpoints / "moco.pt"), weights_prefix="encoder_k.")
    for network in (by_key, by_prefix):
        assert torch.equal(network.module.fc.weight, other["fc.weight"])
        stored = network.extraction(("fc",), "float32").to_dict()
        assert network_of(Extraction.from_dict(stored)).weights_hash == network.weights_hash
    with pytest.raises(BadInput, match="have no 'nothing'; there are model: 16 tensors"):
        load_network(TINY, str(checkpoints / "ema_beside.pt"), weights_key="nothing")
    with pytest.raises(BadInput, match=r"no name that begins with 'x\.'; there are state_dict: 32"):
        load_network(TINY, str(checkpoints / "moco.pt"), weights_prefix="x.")


# Siblings of the cases.


def make() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def test_which_copy_is_taken(tmp_path: Path) -> None:
    right, other = make().state_dict(), make().state_dict()
    optimiser = {"state": {0: {"exp_avg": torch.ones(4, 3, 1, 1)}}, "param_groups": []}
    files = {
        "teacher and student": under("student.", other) | under("teacher.", right),
        "teacher beside": {"student": other, "teacher": right},
        "ema inside": {"model": other, "ema": {"module": right, "decay": 0.99}},
        "ema by prefix": under("model.", other) | under("ema_model.module.", right),
        "optimiser": {"model": right, "optimizer": optimiser, "epoch": 3},
        "two wrappers": {"net": other, "state_dict": right},
        "compiled": {"model": under("_orig_mod.module.", right)},
        "backbone and queue": under("backbone.", right) | {"queue": torch.ones(3)},
        "numpy": {"model": right, "mean": np.zeros(3), "best": np.float32(1), "n": np.int64(3)},
        "windows": {"model": right, "where": pathlib.PureWindowsPath("C:/x")},
        "namespace": {"model": right, "args": argparse.Namespace(out=pathlib.Path("x"), lr=[0.1])},
        "times": {"model": right, "at": datetime.datetime.now(), "took": datetime.timedelta(1)},
        "simple": {"model": right, "args": SimpleNamespace(lr=0.1), "log": defaultdict(list)},
        "average of Lightning": {"state_dict": right, "current_model_state": other},
        "average by another word": {"net": other, "avg_model": right},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / "file.pt")
        choice = choose_tensors(read_checkpoint(tmp_path / "file.pt"), right)
        assert choice.tensors.keys() == right.keys(), name
        for tensor, value in choice.tensors.items():
            assert torch.equal(value, right[tensor]), name


def test_average_of_parameters_takes_the_buffers_beside_it(tmp_path: Path) -> None:
    """A usual average holds no running means: it is taken all the same, with those of the model."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    state = {name: torch.rand_like(value.float()) for name, value in module.state_dict().items()}
    buffers = {name for name, _ in module.named_buffers()}
    average = {name: torch.rand_like(state[name]) for name in state if name not in buffers}
    for place, content in {
        "ema.shadow": {"ema": {"shadow": average, "decay": 0.99}},
        "ema": {"ema": {f"module.{name}": value for name, value in average.items()}},
    }.items():
        torch.save({"model": state, **content}, tmp_path / "file.pt")
        checkpoint = read_checkpoint(tmp_path / "file.pt")
        choice = choose_tensors(checkpoint, module.state_dict(), buffers=buffers)
        for name, value in (state | average).items():
            assert torch.equal(choice.tensors[name], value)
        note = choice.note(Path("file.pt"))
        assert note.startswith(f"weights file.pt: took {place}")
        assert note.endswith("(ema: the averaged weights), its buffers from model")
        by_key = choose_tensors(checkpoint, module.state_dict(), key="model", buffers=buffers)
        assert torch.equal(by_key.tensors["0.weight"], state["0.weight"])


def test_an_average_without_names_is_named_as_ignored(tmp_path: Path) -> None:
    state = make().state_dict()
    average = {"decay": 0.99, "shadow_params": [value + 1 for value in state.values()]}
    random = [torch.zeros(3).byte()] * 2
    torch.save({"model": state, "ema": average, "rng": random}, tmp_path / "f")
    choice = choose_tensors(read_checkpoint(tmp_path / "f"), state)
    assert choice.note(Path("f")) == "weights f: took model, ignored ema.shadow_params"


@pytest.mark.quick
def test_keys_with_escape_codes_are_shown_as_text(tmp_path: Path) -> None:
    names = {"\x1b[31mmodel": make().state_dict(), "line\nbreak": {"x": torch.ones(1)}}
    torch.save(names, tmp_path / "f")
    checkpoint = read_checkpoint(tmp_path / "f")
    note = choose_tensors(checkpoint, make().state_dict()).note(Path("f"))
    for text in (note, checkpoint.describe()):
        assert text.isprintable()


class Unsafe:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("ran",))


def test_no_code_is_run_and_the_class_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": make().state_dict(), "config": Unsafe()}, "unsafe.pt")
    with pytest.raises(BadInput, match=r"holds an object of class \w+\.mkdir beside its tensors"):
        read_checkpoint(Path("unsafe.pt"))
    torch.save({"model": make().state_dict(), "list": np.array([Unsafe()], object)}, "object.pt")
    with pytest.raises(BadInput, match=r"would run code|not a plain state_dict"):
        read_checkpoint(Path("object.pt"))
    assert not Path("ran").exists()


@pytest.mark.quick
def test_other_kinds_of_file_are_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>not found</html>")
    torch.save(nn.Linear(2, 2), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "dumped.pt").write_bytes(pickle.dumps(nn.Linear(2, 2)))
    (tmp_path / "numpy.pt").write_bytes(pickle.dumps({"fc.weight": np.zeros(2)}))
    torch.save(make().state_dict(), tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:900])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "onnx.pt").write_bytes(b"\x08\x07\x12\x07pytorch")
    with zipfile.ZipFile(tmp_path / "export.pt", "w") as archive:
        archive.writestr("net/data/weights/weight_0", b"")
    for name, says in {
        "script": "TorchScript archive",
        "page": "is an HTML page",
        "old": r"a whole pickled nn\.Module \(class torch\.nn\.modules\.linear\.Linear\)",
        "dumped": r"a pickle of an object of class torch\.nn\.modules\.linear\.Linear that to",
        "numpy": r"is a pickle that torch\.save did not write",
        "half": "was cut short",
        "empty": "is empty",
        "onnx": r"not a plain state_dict \(Unsupported operand 8\)",
        "export": r"archive of torch\.export",
    }.items():
        with pytest.raises(BadInput, match=says) as caught:
            read_checkpoint(tmp_path / f"{name}.pt")
        assert str(caught.value).isprintable()


def test_weights_of_a_larger_network_are_not_taken_for_a_smaller_one(tmp_path: Path) -> None:
    """Every tensor of a ResNet-18 is in the file of a ResNet-34."""
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "larger.pt")
    with pytest.raises(BadInput, match=r"do not fit resnet18: unexpected .*layer1\.2"):
        load_network("resnet18", str(tmp_path / "larger.pt"))


NETS = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


def fixed():
    return Net(3)


def asked(num_classes):
    return Net(num_classes)
"""


def test_factory_without_a_number_of_classes_is_told_which_argument(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    name = f"{tmp_path / 'nets.py'}"
    six = load_network(f"{name}:asked", args={"num_classes": 6})
    torch.save(six.module.state_dict(), tmp_path / "six.pt")
    with pytest.raises(
        BadInput, match=r"have 6 classes, .*fixed makes 3 .*: add the argument num_cl"
    ):
        load_network(f"{name}:fixed", str(tmp_path / "six.pt"))
    with pytest.raises(BadInput, match="argument: 'num_classes'; give --network-arg num_classes="):
        load_network(f"{name}:asked")
    with pytest.raises(
        BadInput, match="argument 'num_classes'; add num_classes to the factory's arg"
    ):
        load_network(f"{name}:fixed", args={"num_classes": 3})


def test_backbone_of_a_convolutional_classifier(tmp_path: Path) -> None:
    """SqueezeNet's last layer is a 1x1 convolution: maps and vectors work without it."""
    torch.manual_seed(0)
    whole = torchvision.models.squeezenet1_1(weights=None).eval()
    state = {n: v for n, v in whole.state_dict().items() if not n.startswith("classifier.")}
    torch.save(state, tmp_path / "backbone.pt")
    network = load_network("squeezenet1_1", str(tmp_path / "backbone.pt"))
    assert network.headless
    assert network.lacking == ("logits",)
    assert any("hold no classifier (classifier.1.bias" in note for note in network.notes)
    batch = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = forward_taps(network.module, batch, ["last_conv", "fc"])
        wanted = whole.features(batch)
    assert torch.allclose(found["last_conv"], wanted)
    assert torch.allclose(found["fc"], wanted.mean((2, 3)))
    with pytest.raises(BadInput, match=r"no tap logits: the weights hold no classifier\.1"):
        forward_taps(network.module, batch, ["logits"])


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: (value * 10).to(torch.int8), "conv.weight int8"),
        (lambda value: value.to(torch.complex64), "conv.weight complex64"),
        (lambda value: value.to_sparse(), "conv.weight sparse"),
        (lambda value: value.to("meta"), "conv.weight without values"),
        (lambda value: value * float("nan"), "conv.weight NaN"),
        (lambda value: value - float("inf"), "conv.weight infinite"),
    ],
)
def test_weights_that_are_no_real_numbers_are_refused(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], says: str
) -> None:
    """Integers would be cast without their scale, and of complex numbers a half dropped."""
    (tmp_path / "nets.py").write_text(NETS)
    name = f"{tmp_path / 'nets.py'}:fixed"
    state = load_network(name).module.state_dict()
    torch.save({**state, "conv.weight": change(state["conv.weight"])}, tmp_path / "odd.pt")
    with pytest.raises(BadInput, match=f"no real numbers 1 .{says}"):
        load_network(name, str(tmp_path / "odd.pt"))
    half = {key: value.bfloat16() for key, value in state.items()}
    torch.save(half, tmp_path / "half.pt")
    loaded = load_network(name, str(tmp_path / "half.pt")).module.state_dict()
    assert all(torch.equal(loaded[key], value.float()) for key, value in half.items())


def test_a_flipped_bit_is_said(tmp_path: Path) -> None:
    """Torch reads past the checksums of its files."""
    (tmp_path / "nets.py").write_text(NETS)
    name, file = f"{tmp_path / 'nets.py'}:fixed", tmp_path / "w.pt"
    state = load_network(name).module.state_dict()
    torch.save(state, file)
    assert not any("checksum" in note for note in load_network(name, str(file)).notes)
    data = bytearray(file.read_bytes())
    data[bytes(data).index(state["conv.weight"].numpy().tobytes()) + 1] ^= 1
    file.write_bytes(data)
    assert any("differs from its own checksum" in n for n in load_network(name, str(file)).notes)


def test_index_of_shards_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(BadInput, match="lists in which files the weights are, and holds none"):
        read_checkpoint(tmp_path / "model.safetensors.index.json")


def test_weights_of_fewer_bits_are_said_and_refused_with_a_scale(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    name, file = f"{tmp_path / 'nets.py'}:fixed", tmp_path / "w.pt"
    state = load_network(name).module.state_dict()
    small = {**state, "fc.weight": state["fc.weight"].to(torch.float8_e4m3fn)}
    small["fc.bias"] = state["fc.bias"].half()
    torch.save(small, file)
    network = load_network(name, str(file))
    assert network.notes == (
        f"weights {file}: cast 1 tensors from float16 to float32, "
        "1 tensors from float8_e4m3fn to float32",
    )
    assert torch.equal(network.module.fc.weight, small["fc.weight"].float())
    torch.save({**small, "fc.weight_scale": torch.tensor(3.0)}, file)
    with pytest.raises(BadInput, match=r"no real numbers 1 \(fc\.weight float8_e4m3fn with a sca"):
        load_network(name, str(file))


@pytest.mark.quick
def test_class_names_that_are_no_utf8_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("cat\nBär\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"names\.txt is not UTF-8: line 2 has the byte 0xe4"):
        class_list(str(tmp_path / "names.txt"))
    (tmp_path / "names.txt").write_bytes("cat\nBär\n".encode("utf-8-sig"))
    assert class_list(str(tmp_path / "names.txt")) == ["cat", "Bär"]
