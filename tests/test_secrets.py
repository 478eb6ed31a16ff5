"""What settings take from the environment, and what is never printed."""

import pandas as pd
import pytest
from PIL import Image

from alike.analysis.report.lookup import listed
from alike.analysis.report.making import _bad_table
from alike.extract import secrets
from alike.extract.errors import BadInput
from alike.extract.images.sources import open_source
from alike.extract.networks import Transform
from alike.extract.secrets import filled, hide, masked, masked_all
from alike.extract.store.store import Store
from alike.flows.settings import read_pipeline


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch):
    monkeypatch.setattr(secrets, "_values", {})


@pytest.mark.quick
def test_references_are_replaced_wherever_a_text_stands(monkeypatch):
    monkeypatch.setenv("PLACE", "photos")
    table = {"a": "x/${PLACE}/y", "b": ["${PLACE}", 3], "c": {"d": "$${PLACE}"}, "e": 1.5}
    assert filled(table) == {
        "a": "x/photos/y",
        "b": ["photos", 3],
        "c": {"d": "${PLACE}"},
        "e": 1.5,
    }
    with pytest.raises(BadInput, match=r"images\.source names \$\{NOWHERE\}"):
        filled({"images": {"source": "${NOWHERE}"}})


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/x", "https://***@host/x"),
        ("s3://AKIA123@bucket/x and more", "s3://***@bucket/x and more"),
        ("https://host/x?a=1&sig=zz#part", "https://host/x?***#part"),
        ("https://me:${PW}@host/x?sig=${SIG}", "https://me:${PW}@host/x?sig=${SIG}"),
        ("s3://me:se/cret/@bucket/x", "s3://***@bucket/x"),
        ("http://localhost:9000/a@2x.png", "http://localhost:9000/a@2x.png"),
        ("write to me@host about /a?b", "write to me@host about /a?b"),
    ],
)
def test_urls_show_no_passwords(text, shown):
    assert masked(text) == shown
    assert masked_all({"a": [text]}) == {"a": [shown]}


@pytest.mark.quick
def test_secret_values_show_as_their_references(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "abcdefgh")
    monkeypatch.setenv("PLACE", "photographs")
    filled("${API_TOKEN} ${PLACE}")
    hide("short")
    assert masked("Bearer abcdefgh for photographs, short") == (
        "Bearer ${API_TOKEN} for photographs, short"
    )


@pytest.mark.quick
@pytest.mark.parametrize("setting", ["webhook = '${WHERE}'", "command = ['${WHERE}', 'x']"])
def test_what_receives_an_alarm_is_hidden_whatever_its_name(tmp_path, monkeypatch, setting):
    monkeypatch.setenv("WHERE", "r0ut1ng-of-mine")
    file = tmp_path / "p.toml"
    rest = (
        '[images]\nsource = "x"\n[network]\nname = "resnet18"\n[alarm]\nwhen = ["sameness < 1"]\n'
    )
    file.write_text(rest + setting)
    try:
        pipeline = read_pipeline(file)
    except BadInput as error:
        said = str(error)
    else:
        said = f"{pipeline.shown} {masked('no such file: r0ut1ng-of-mine')}"
    assert "r0ut1ng" not in said
    assert "${WHERE}" in said


@pytest.mark.quick
def test_arguments_of_a_command_are_not_shown(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(
        '[images]\nsource = "x"\n[network]\nname = "resnet18"\n[alarm]\n'
        'when = ["sameness < 1"]\ncommand = ["page-me", "--password=hunter"]\n'
    )
    assert read_pipeline(file).shown["alarm"]["command"] == ["page-me", "***"]


def test_settings_show_what_the_file_says(tmp_path, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    monkeypatch.setenv("PLACE", "photos")
    file = tmp_path / "p.toml"
    file.write_text(
        '[images]\nsource = "https://me:${DB_PASSWORD}@h/${PLACE}.csv"\n[network]\n'
        'name = "resnet18"\n[alarm]\nwebhook = "https://hooks.example.org/services/T0/B0/zz"\n'
        'when = ["sameness fell"]\n'
    )
    pipeline = read_pipeline(file)
    assert pipeline.images.source == "https://me:correct-horse@h/photos.csv"
    assert pipeline.shown["images"]["source"] == "https://me:${DB_PASSWORD}@h/${PLACE}.csv"
    assert pipeline.shown["alarm"]["webhook"] == "https://hooks.example.org/***"
    assert masked("POST https://hooks.example.org/services/T0/B0/zz") == (
        "POST https://hooks.example.org/***"
    )
    assert "alarm" not in pipeline.written


def test_a_store_keeps_the_reference_and_opens_it(tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("ACCESS_KEY", "bucket-of-mine")
    with fsspec.open("memory://bucket-of-mine/set.csv", "w") as file:
        file.write("path,label\nmemory://bucket-of-mine/1.png,cat\n")
    source = open_source("memory://${ACCESS_KEY}/set.csv")
    assert [one.label for one in source] == ["cat"]
    store = Store.open(tmp_path / "store", create=True)
    store.set_source(source.spec, source.options)
    assert store.source()[0] == "memory://${ACCESS_KEY}/set.csv"
    assert b"bucket-of-mine" not in (tmp_path / "store" / "store.json").read_bytes()
    assert [one.label for one in open_source(store.source()[0])] == ["cat"]
    store.set_source("https://me:literal@host/set.csv")
    assert store.source()[0] == "https://***@host/set.csv"


def test_no_file_of_a_store_holds_what_the_environment_gave(tmp_path, monkeypatch):
    import fsspec
    import torch

    from alike.extract.networks import load_network
    from alike.extract.pipeline import extract

    monkeypatch.setenv("ACCESS_KEY", "bucket-of-mine")
    files = fsspec.filesystem("memory")
    for number in range(2):
        with files.open(f"bucket-of-mine/{number}.png", "wb") as file:
            Image.new("RGB", (8, 8), (90 * number, 0, 0)).save(file, "png")
    files.pipe("bucket-of-mine/set.csv", b"path,label\n0.png,cat\n1.png,dog\n")
    code = "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 2, 3), "
    code += "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))\n"
    (tmp_path / "net.py").write_text(code)
    torch.manual_seed(0)
    network = load_network(f"{tmp_path}/net.py:net", "none", transform=Transform((8, 8)))
    store = Store.open(tmp_path / "store", create=True)
    source = open_source("memory://${ACCESS_KEY}/set.csv")
    extract(source, network, store, taps=("logits",), device="cpu")
    assert store.features().attrs["source"] == "memory://${ACCESS_KEY}/set.csv"
    held = [one for one in (tmp_path / "store").rglob("*") if one.is_file()]
    assert [one for one in held if b"bucket-of-mine" in one.read_bytes()] == []


@pytest.mark.quick
def test_a_report_shows_urls_of_images_without_their_secrets(tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    path = "https://me:verysecret@host/1.png?sig=alsosecret"
    listing = {"image_id": ["a" * 64], "path": [path], "label": ["cat"], "size": [1]}
    store.list_images(pd.DataFrame(listing).assign(state="ok", reason=""))
    assert listed(store)[0] == {0: "https://***@host/1.png?***"}
    (line,) = _bad_table(pd.DataFrame({"path": [path], "reason": [f"no answer of {path}"]})).split(
        "verysecret"
    )
    assert "alsosecret" not in line
