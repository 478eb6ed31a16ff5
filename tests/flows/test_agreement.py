"""The whole loop against figures that a plain torch loop gave on real images and real weights."""

import tarfile

import pytest
import torch
import torchvision
from torch.utils.data import DataLoader

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.extract.images.sources import open_source
from alike.extract.networks.network import load_network
from alike.extract.pipeline import extract
from alike.extract.store.store import Store


def scored(network, source, folder):
    """Report of the extraction, and score -> value of gap_euclid and of the network."""
    store = Store.open(str(folder / "store"), create=True)
    report = extract(source, network, store, taps=("logits",))
    analysis = analyse(store.features(), AnalysisSettings(measures=["gap_euclid"], bootstrap=0))
    scores = analysis.tables["scores"]
    return report, dict(zip(scores.score, scores.value, strict=True))


def test_resnet20_on_lossless_cifar10(shared_data, tmp_path):
    network = load_network(
        f"{shared_data}/cifar_resnet.py:resnet", f"{shared_data}/weights/resnet20-12fca82f.th"
    )
    source = open_source(str(shared_data / "cifar10_lossless_dev.npz"), split="test")
    report, scores = scored(network, source, tmp_path)
    assert (report.n_rows, report.n_bad) == (500, 0)
    assert report.top1 == pytest.approx(0.910)
    assert scores["intra_mean"] == pytest.approx(4.740, abs=5e-4)
    assert scores["inter_mean"] == pytest.approx(8.166, abs=5e-4)
    assert scores["one_nn"] == pytest.approx(0.870)


def test_squeezenet_on_photographs(shared_data, tmp_path):
    with tarfile.open(shared_data / "pacs_photo_6x150.tar") as tar:
        kept = {}
        for member in sorted(tar.getmembers(), key=lambda one: one.name):
            if member.isfile():
                kept.setdefault(member.name.split("/")[1], []).append(member)
        for members in kept.values():
            tar.extractall(tmp_path, members[:60], filter="data")
    weights = shared_data / "weights/squeezenet1_1_imagenet.pth"
    network = load_network("squeezenet1_1", str(weights))
    source = open_source(str(tmp_path / "pacs_photo"))
    report, scores = scored(network, source, tmp_path)
    assert (report.n_rows, report.n_bad) == (360, 0)
    intra, inter, one_nn = plain_loop(weights, tmp_path / "pacs_photo")
    assert scores["intra_mean"] == pytest.approx(intra, rel=1e-4)
    assert scores["inter_mean"] == pytest.approx(inter, rel=1e-4)
    assert scores["one_nn"] == pytest.approx(one_nn)
    # The figures of the shared README, whose preprocessing it does not state, lie within 3 %.
    assert (intra, inter, one_nn) == pytest.approx((87.22, 100.9, 0.814), rel=0.03)
    # Probabilities of 1,000 classes crowd near 0: coarse bins must not move the interval.
    found = analyse(
        Store.open(str(tmp_path / "store")).features(), AnalysisSettings(measures=["softmax_dot"])
    )
    rows = found.tables["scores"].set_index("score").loc[["sameness", "auc", "eer"]]
    assert (rows.low < rows.value).all()
    assert (rows.value < rows.high).all()


def plain_loop(weights, folder):
    """Mean intra and inter distance and leave-one-out 1-NN, with nothing of ours."""
    network = torchvision.models.squeezenet1_1().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    transform = torchvision.transforms.Compose([
        torchvision.transforms.Resize(256),
        torchvision.transforms.CenterCrop(224),
        torchvision.transforms.ToTensor(),
        torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    images = torchvision.datasets.ImageFolder(str(folder), transform)
    with torch.inference_mode():
        batches = DataLoader(images, batch_size=60)
        gap = torch.cat([network.features(batch).mean((2, 3)) for batch, _ in batches]).double()
    distances, truth = torch.cdist(gap, gap), torch.tensor(images.targets)
    same, own = truth[:, None] == truth[None], torch.eye(len(gap), dtype=torch.bool)
    nearest = distances.masked_fill(own, torch.inf).argmin(1)
    right = (truth[nearest] == truth).double().mean()
    return float(distances[same & ~own].mean()), float(distances[~same].mean()), float(right)
