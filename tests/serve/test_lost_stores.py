"""Stores that are deleted or damaged while they are served: described answers, nothing written."""

import asyncio
import logging
import shutil
import threading
import time

import httpx
import pytest

from alike.analysis.stored import Analysis
from alike.extract.forgetting import forget_images
from alike.extract.store import Store, read_tags
from alike.extract.store.upkeep import collect_garbage
from alike.serve.app import create_app
from alike.serve.opened import EVERY
from alike.serve.service import NeighbourService
from alike.serve.stores import ServedStore

API = "/api/v1"
LOST = f"{API}/stores/lost"


class Asking:
    """Asks an application in this process; a fault is an answer of 500."""

    def __init__(self, app):
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def ask(self, verb, path, **more):
        async def answer():
            async with httpx.AsyncClient(
                transport=self._transport, base_url="http://localhost"
            ) as client:
                return await client.request(verb, path, **more)

        return asyncio.run(answer())

    def get(self, path):
        return self.ask("GET", path)


@pytest.fixture
def both(place, tmp_path):
    """A server of two stores in one process, and the folder of the second."""
    shutil.copytree(place / "store", tmp_path / "lost")
    first = NeighbourService(place / "store")
    services = {"store": first, "lost": NeighbourService(tmp_path / "lost", beside=first)}
    app = create_app([ServedStore(name, one) for name, one in services.items()])
    return Asking(app), tmp_path / "lost"


@pytest.mark.quick
def test_a_store_that_was_deleted_is_said_to_be_gone(both, caplog):
    asking, folder = both
    image = asking.get(f"{LOST}/images/3").json()["image"]
    assert asking.get(f"{LOST}/images/{image}/thumbnail").status_code == 200
    assert len(asking.get(f"{API}/stores").json()) == 2
    shutil.rmtree(folder)
    caplog.set_level(logging.WARNING)
    change = {"images": [image], "present": True}
    answers = [
        asking.ask("PUT", f"{LOST}/tags/zz", json=change),
        asking.ask("POST", f"{LOST}/images", content=b"no image"),
        asking.ask("POST", f"{LOST}/neighbours", json={"images": [image]}),
        *(
            asking.get(f"{LOST}/{path}")
            for path in (
                "set", "images", "images/3", "images/3/neighbours", "images/3/alike/5", "tags",
                "images/3/explain", "map", "scores", "runs", f"images/{image}/thumbnail",
            )
        ),
    ]  # fmt: skip
    for answer in answers:
        assert answer.status_code == 404
        assert str(folder) in answer.json()["error"]
        assert "not there any more" in answer.json()["error"]
    assert not folder.exists()
    assert len({record.getMessage() for record in caplog.records}) == 1
    assert not any(record.exc_info for record in caplog.records)
    # The other store answers as before, also of images that neither has.
    assert [one["name"] for one in asking.get(f"{API}/stores").json()] == ["store"]
    assert asking.get(f"{API}/images/{image}/thumbnail").status_code == 200
    assert asking.get(f"{API}/images/{'0' * 64}/thumbnail").status_code == 404


def test_a_store_that_comes_back_answers_again(both, tmp_path):
    asking, folder = both
    before = asking.get(f"{LOST}/images/3/neighbours").json()
    folder.rename(tmp_path / "elsewhere")
    assert asking.get(f"{LOST}/images/3/neighbours").status_code == 404
    (tmp_path / "elsewhere").rename(folder)
    assert asking.get(f"{LOST}/images/3/neighbours").json() == before


def test_a_damaged_store_is_answered_as_described(both, caplog):
    asking, folder = both
    neighbours = asking.get(f"{LOST}/images/3/neighbours").json()
    shutil.rmtree(folder / "features.zarr")
    caplog.set_level(logging.WARNING)
    described = asking.get(f"{API}/openapi.json").json()["paths"]
    for path in ("/images/{image}/alike/{other}", "/images/{image}/prediction"):
        answer = asking.get(LOST + path.format(image=3, other=5))
        assert answer.status_code == 409
        assert "features.zarr" in answer.json()["error"]
        assert "alike extract" in answer.json()["error"]
        assert str(answer.status_code) in described[API + path]["get"]["responses"]
        assert "Retry-After" not in answer.headers
    assert not any(record.exc_info for record in caplog.records)
    assert asking.get(f"{LOST}/images/3/neighbours").json() == neighbours


def test_another_store_in_its_place_is_not_answered_from_the_old_one(both, unlabelled, tmp_path):
    """Neither rows nor tags: one without the extraction is refused, one with it is opened anew."""
    asking, folder = both
    image = asking.get(f"{LOST}/images/3").json()["image"]
    change = {"images": [image], "present": True}
    folder.rename(tmp_path / "elsewhere")
    Store.open(folder, create=True)
    for answer in (
        asking.ask("PUT", f"{LOST}/tags/zz", json=change),
        asking.get(f"{LOST}/images/3/neighbours"),
        asking.get(f"{LOST}/tags"),
    ):
        assert answer.status_code == 404
        assert "was replaced by another one" in answer.json()["error"]
    assert [one["name"] for one in asking.get(f"{API}/stores").json()] == ["store"]
    # One with other images of the same network.
    shutil.rmtree(folder)
    shutil.copytree(unlabelled, folder)
    images = len(Store.open(unlabelled).features().table())
    assert asking.get(f"{LOST}/set").json()["images"] == images
    assert len(asking.get(f"{API}/stores").json()) == 2
    answer = asking.ask("PUT", f"{LOST}/tags/zz", json=change)
    assert (answer.status_code, "not stored" in answer.json()["error"]) == (404, True)
    assert read_tags(Store.open(folder)).empty


def test_an_extraction_that_was_deleted_is_gone(both):
    asking, folder = both
    assert asking.get(f"{LOST}/images/3/neighbours").status_code == 200
    lost = Store.open(folder)
    collect_garbage(lost, drop=(lost.features().key,))
    time.sleep(EVERY)
    answer = asking.get(f"{LOST}/images/3/neighbours")
    assert (answer.status_code, "no features" in answer.json()["error"]) == (404, True)


def test_an_image_that_was_forgotten_is_answered_no_more(both):
    """Its index goes with it: the one in memory, which has the image, must not answer either."""
    asking, folder = both
    image = asking.get(f"{LOST}/images/3").json()
    assert asking.get(f"{LOST}/images/4/neighbours?k=50").json()["missing"] == 0
    forget_images(Store.open(folder), ["3"])
    time.sleep(0.1)
    for path in ("images/3", "images/3/alike/4", "images/3/prediction", "images/4/neighbours"):
        assert asking.get(f"{LOST}/{path}").status_code == 404, path
    for path in ("images?count=50", "set", "images/4", "lists/bad", "tags"):
        answer = asking.get(f"{LOST}/{path}")
        assert answer.status_code == 200
        assert image["image"] not in answer.text
    assert len(asking.get(f"{LOST}/images?count=50").json()["images"]) == 19
    assert "alike index --store" in asking.get(f"{LOST}/set").json()["needs"]
    # The first store has it still.
    assert asking.get(f"{API}/images/3").json() == image


def test_an_analysis_that_is_being_written_is_never_half_of_two(analysed, place, tmp_path):
    """Answers are of the old one until the last table is there, then of the new one."""
    from dataclasses import replace

    from alike.serve.analysed import StoredAnalyses

    shutil.copytree(place / "store", tmp_path / "store")
    store = Store.open(tmp_path / "store")
    old = analysed[0]
    old.save(store)
    new = replace(old, settings={**old.settings, "seed": 7})
    asked, write = StoredAnalyses(store), store.write_table
    assert asked.analysis(old.key).settings["seed"] == old.settings["seed"]
    seeds, fresh = [], []

    def written(place, table, attrs):
        write(place, table, attrs)
        seeds.append(asked.analysis(old.key).settings["seed"])
        if len(seeds) == len(new.tables) - 2:
            # Who reads it for the first time waits for the rest.
            reader = threading.Thread(target=lambda: fresh.append(Analysis.load(store, old.key)))
            reader.start()
            readers.append(reader)

    readers = []
    store.write_table = written
    new.save(store)
    readers[0].join()
    assert seeds == [old.settings["seed"]] * (len(new.tables) - 1) + [7]
    assert fresh[0].settings["seed"] == 7
