"""Steps of a run by themselves, without Prefect."""

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from alike.extract.errors import BadInput
from alike.flows.settings import read_pipeline
from alike.flows.steps import PipelineRun, explain, extract_images

NETWORK = """
from torch import nn

TRANSFORM = {"resize": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}


def flat(classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, classes)
    )
"""


@pytest.fixture
def run(tmp_path):
    """A run on 30 digits by a network that flattens its map without pooling it."""
    digits = load_digits(n_class=3)
    for number in range(30):
        file = tmp_path / "digits" / str(digits.target[number]) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((digits.images[number] * (255 / 16)).astype("uint8"))
        image.resize((32, 32)).save(file)
    (tmp_path / "net.py").write_text(NETWORK)
    settings = '[images]\nsource = "digits"\n[network]\nname = "net.py:flat"\n'
    (tmp_path / "pipeline.toml").write_text(settings)
    return PipelineRun(read_pipeline(tmp_path / "pipeline.toml"))


@pytest.mark.quick
def test_what_an_extraction_notes_is_told_by_every_run(run):
    key = extract_images(run, "none", "network")
    (note,) = run.notes
    assert note.startswith("last_conv: ")
    extract_images(run, "none", "untrained")
    assert run.notes == [note]
    again = PipelineRun(run.pipeline)
    assert extract_images(again, "none", "network") == key
    assert (again.notes, again.reused) == ([note], ["extract network"])


@pytest.mark.quick
def test_explanations_that_cannot_be_had_end_no_run(run, monkeypatch):
    def of_one_class(*_, **__):
        raise BadInput("1 class(es) to compare")

    monkeypatch.setattr("alike.analysis.explain.classes.confused_pairs", of_one_class)
    asked = run.pipeline.explain.model_copy(update={"examples": 0, "continuity_images": 1})
    other = PipelineRun(run.pipeline.model_copy(update={"explain": asked}))
    explain(other, extract_images(other, "none", "network"), "none", "network")
    assert other.decisions == [
        "Continuity of explanations is not measured: continuity is of images and their nearest: "
        "a limit of 1, expected 2 or more",
        "Most alike images of different classes: 1 class(es) to compare",
    ]
