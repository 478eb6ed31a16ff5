import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from images import small_file

from alike.extract.errors import BadInput
from alike.extract.forward import Forward
from alike.extract.images.sources import open_source
from alike.extract.networks.extraction import Extraction
from alike.extract.networks.network import load_network, network_of, write_network
from alike.extract.networks.taps import forward_taps
from alike.extract.networks.transform import Transform
from alike.extract.networks.weights import write_weights
from alike.extract.pipeline import extract
from alike.extract.store.store import Store


@pytest.fixture
def small(tmp_path: Path) -> str:
    return small_file(tmp_path)


def test_random_weights_depend_on_the_seed_and_leave_torch_alone(small: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (load_network(small, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert first.weights_hash == again.weights_hash != other.weights_hash
    assert not first.module.training


def test_own_file_gives_transform_and_class_names(small: str) -> None:
    network = load_network(small)
    assert network.transform.size == (16, 16)
    assert network.class_names == ("cat", "dog", "owl")


def test_weights_of_another_class_count_and_a_prefix_load(small: str, tmp_path: Path) -> None:
    six = load_network(small, args={"classes": 6})
    state = {f"module.{name}": value for name, value in six.module.state_dict().items()}
    torch.save({"state_dict": state, "best": 0.5}, tmp_path / "six.pth")
    loaded = load_network(small, str(tmp_path / "six.pth"))
    assert loaded.args == {"classes": 6}
    assert loaded.weights_hash == six.weights_hash
    classifier = loaded.classifier()
    assert classifier is not None
    assert classifier[0].shape == (6, 6)


def test_torchvision_head_of_six_classes_loads(tmp_path: Path) -> None:
    six = load_network("squeezenet1_1", args={"num_classes": 6})
    torch.save(six.module.state_dict(), tmp_path / "six.pth")
    loaded = load_network("squeezenet1_1", str(tmp_path / "six.pth"))
    assert loaded.weights_hash == six.weights_hash
    assert loaded.class_names is None
    assert loaded.classifier() is None


def test_safetensors_carry_names_transform_and_arguments(small: str, tmp_path: Path) -> None:
    network = load_network(
        small, args={"classes": 2}, transform=Transform((8, 8)), class_names=["a", "b"]
    )
    write_network(tmp_path / "new.safetensors", network)
    loaded = load_network(small, str(tmp_path / "new.safetensors"))
    assert loaded.transform == Transform((8, 8))
    assert loaded.class_names == ("a", "b")
    assert loaded.weights_hash == network.weights_hash
    with pytest.raises(BadInput, match=r"written for network .*small\.py:small, not resnet18"):
        load_network("resnet18", str(tmp_path / "new.safetensors"))


def test_network_comes_back_from_the_stored_description(small: str) -> None:
    network = load_network(small, args={"classes": 4}, seed=3)
    stored = json.loads(json.dumps(network.extraction(("fc",), "float32").to_dict()))
    again = network_of(Extraction.from_dict(stored))
    assert again.weights_hash == network.weights_hash
    Path(small.split(":")[0]).write_text(Path(small.split(":")[0]).read_text() + "\n# changed\n")
    with pytest.raises(BadInput, match="now has hash"):
        network_of(Extraction.from_dict(stored), trusted=True)


def test_key_tells_weights_transform_and_precision_but_not_taps(small: str) -> None:
    network = load_network(small)
    key = network.extraction(("fc",), "float32").key
    assert key.startswith("small-small-")
    assert key == network.extraction(("fc", "logits"), "float32").key
    assert key != network.extraction(("fc",), "bfloat16").key
    other = load_network(small, transform=Transform((16, 16), mean=(0.5, 0.5, 0.5)))
    assert key != other.extraction(("fc",), "float32").key


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("resnet5o", "none", "torchvision has resnet50"),
        ("resnet50", "IMAGENET1K_V9", "IMAGENET1K_V1, IMAGENET1K_V2"),
        ("resnet18", "gone.pth", "does not exist"),
        ("nothere.py:net", "none", "does not exist"),
        ("small.py:large", "none", "it has small, broken, negative"),
        ("small.py:broken", "none", "no such size"),
        ("small.py:small", "pickled.pth", r"a whole pickled nn\.Module .class torch.*Linear"),
        ("small.py:small", "text.pth", "not a plain state_dict"),
        ("small.py:small", "junk.pth", "not a plain state_dict"),
        ("small.py:small", "nothing.pth", "is empty: copy or download it again"),
        ("small.py:negative", "none", "RuntimeError: .*negative dimension"),
        ("small.py:small", "text.safetensors", "not valid safetensors"),
        ("small.py:small", "empty.pth", "no tensors"),
        ("small.py:small", "numbers.pth", "no tensors by name.*its keys are epoch, best"),
        (
            "small.py:small",
            "other.pth",
            "missing 8 .*holds its own level: 1 tensors .foo.",
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(
    name: str, weights: str, says: str, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "junk.pth").write_text("junk")
    (tmp_path / "nothing.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickled.pth")
    torch.save({}, tmp_path / "empty.pth")
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "numbers.pth")
    torch.save({"foo": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(BadInput, match=says) as caught:
        load_network(name, weights)
    assert "\n" not in str(caught.value)


@pytest.mark.quick
def test_enum_without_a_network_names_the_file_to_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BadInput, match=r"bring resnet18-f37072fd\.pth"):
        load_network("resnet18", "DEFAULT")


def test_enum_found_in_the_cache_brings_transform_and_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    module = load_network("shufflenet_v2_x0_5").module
    torch.save(module.state_dict(), cache / "shufflenetv2_x0.5-f707e7126e.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # torchvision asks for the hash in the name only when it downloads.
    network = load_network("shufflenet_v2_x0_5", "IMAGENET1K_V1")
    assert network.weights == "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    assert network.class_names is not None
    assert network.class_names[0] == "tench"
    assert (network.transform.resize, network.transform.crop) == (256, 224)
    assert network_of(network.extraction(("fc",), "float32")).weights_hash == network.weights_hash


def test_published_inception_weights_get_their_input_transform(tmp_path: Path) -> None:
    plain = load_network("googlenet", args={"num_classes": 2})
    assert not plain.module.transform_input
    torch.save(plain.module.state_dict(), tmp_path / "published.pth")
    assert load_network("googlenet", str(tmp_path / "published.pth")).module.transform_input
    write_network(tmp_path / "ours.safetensors", plain)
    assert not load_network("googlenet", str(tmp_path / "ours.safetensors")).module.transform_input


def test_resnet20_agrees_with_a_plain_loop(shared_data: Path) -> None:
    network = load_network(
        f"{shared_data}/cifar_resnet.py:resnet", f"{shared_data}/weights/resnet20-12fca82f.th"
    )
    source = open_source(str(shared_data / "cifar10_lossless_dev.npz"), split="test")
    stored = np.load(shared_data / "cifar10_lossless_dev.npz")
    truth = stored["y_test"]
    assert len(list(source)) == len(truth) == 500
    frames = torch.from_numpy(stored["x_test"]).permute(0, 3, 1, 2)
    forward = Forward(network, (32, 32), ("gap", "logits"), torch.device("cpu"), "float32")
    arrays = forward(frames)
    assert (arrays["logits"].argmax(1) == truth).mean() == pytest.approx(0.910)
    gap = arrays["gap"].astype(np.float64)
    distances = np.sqrt(((gap[:, None] - gap[None]) ** 2).sum(2))
    same = truth[:, None] == truth[None]
    other = ~np.eye(len(gap), dtype=bool)
    assert distances[same & other].mean() == pytest.approx(4.740, abs=5e-4)
    assert distances[~same].mean() == pytest.approx(8.166, abs=5e-4)
    np.fill_diagonal(distances, np.inf)
    assert (truth[distances.argmin(1)] == truth).mean() == pytest.approx(0.870)


def test_mobilenet_v2_and_its_classifier_load(shared_data: Path) -> None:
    network = load_network("mobilenet_v2", f"{shared_data}/weights/mobilenet_v2_imagenet.pth")
    assert network.class_names is not None
    assert len(network.class_names) == 1000
    batch = torch.rand(1, 3, 96, 96)
    with torch.inference_mode():
        taps = forward_taps(network.module, batch, ["last_conv", "gap", "fc", "logits"])
    classifier = network.classifier()
    assert classifier is not None
    weight, bias = classifier
    torch.testing.assert_close(taps["gap"], taps["fc"])
    torch.testing.assert_close(taps["gap"] @ weight.T + bias, taps["logits"], atol=1e-4, rtol=1e-4)


def test_squeezenet_on_photographs_is_as_right_as_a_plain_loop(
    shared_data: Path, tmp_path: Path
) -> None:
    """200 JPEGs named by WordNet ids: decode, transform, weights and class match together."""
    with tarfile.open(shared_data / "nips2017_first200.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    words = (shared_data / "weights" / "imagenet_synset_words.txt").read_text().splitlines()
    (table,) = tmp_path.rglob("images.csv")
    files = {path.stem: path for path in tmp_path.rglob("*.jpg")}
    listed = pd.read_csv(table)
    wanted = [str(files[name]) for name in listed["ImageId"]]
    labels = [words[number - 1].split()[0] for number in listed["TrueLabel"]]
    pd.DataFrame({"path": wanted, "label": labels}).to_csv(tmp_path / "set.csv")
    network = load_network(
        "squeezenet1_1",
        f"{shared_data}/weights/squeezenet1_1_imagenet.pth",
        class_names=words,
    )
    store = Store.open(tmp_path / "store", create=True)
    source = open_source(str(tmp_path / "set.csv"))
    report = extract(source, network, store, taps=("logits",), device="cpu")
    assert report.n_rows == 200
    assert report.top1 == pytest.approx(0.485, abs=0.006)
    assert not any("preprocessing" in note for note in report.notes)


def test_the_folder_of_a_retraining_is_taken_for_a_network_of_torchvision(tmp_path):
    module = load_network("squeezenet1_1").module
    (tmp_path / "runs").mkdir()
    write_weights(tmp_path / "runs" / "weights.safetensors", module)
    loaded = load_network("squeezenet1_1", str(tmp_path / "runs"))
    assert loaded.weights == str(tmp_path / "runs" / "weights.safetensors")
