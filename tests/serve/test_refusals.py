"""Questions that are wrong in a realistic way: refused in one line, and never taken for others."""

import asyncio
from functools import cache

import httpx
import numpy as np
import pandas as pd
import pytest

import alike
from alike.connection import Connection, _part
from alike.extract.errors import AlikeError, BadInput
from alike.extract.secrets import check_token
from alike.serve import run
from alike.serve.app import create_app
from alike.serve.guard import LOCAL, Access, refuse
from alike.serve.service import NeighbourService

API = "/api/v1"
MANY = f"{API}/neighbours"
TAG = f"{API}/tags/odd"


@pytest.fixture(scope="module")
def service(place):
    return NeighbourService(place / "store")


made = cache(create_app)


def asked(service, verb, path, access=LOCAL, **more):
    """What an application in this process answers; a fault is an answer of 500."""

    async def answer():
        transport = httpx.ASGITransport(made(service, access), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(verb, path, **more)

    return asyncio.run(answer())


@pytest.mark.quick
@pytest.mark.parametrize(
    ("verb", "path", "body", "line"),
    [
        ("POST", MANY, '{"images": ["3"], "k": true}', "k: input should be a valid integer"),
        ("POST", MANY, '{"images": ["3"], "k": "3"}', "k: input should be a valid integer"),
        ("POST", MANY, '{"images": [3]}', "images.0: input should be a valid string, not 3"),
        ("POST", MANY, '{"images": ["3"], "k": 3, "k": 5}', "k: given 2 times, once is expected"),
        ("POST", MANY, '{"images": []}', "images: list should have at least 1 item after valid"),
        ("PUT", TAG, '{"images": ["3"], "present": "no"}', "present: input should be a valid bool"),
        ("PUT", TAG, '{"images": ["3"], "present": 0}', "present: input should be a valid bool"),
        ("PUT", TAG, '{"images": ["3"], "present": true, "present": false}', "present: given 2"),
    ],
)  # fmt: skip
def test_a_body_is_what_it_says(service, verb, path, body, line):
    """Before, true was 1 and "no" was false, and of a name given twice the last value counted."""
    headers = {"Content-Type": "application/json"}
    answer = asked(service, verb, path, content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(line)
    # JSON has one kind of number.
    good = asked(service, "POST", MANY, content='{"images": ["3"], "k": 3.0}', headers=headers)
    assert len(good.json()["answers"][0]["neighbours"]) == 3


def test_a_refusal_is_one_short_line(service):
    long = "x" * 100_000
    for body in ({"images": ["3"], long: 1}, {"images": ["3"], "labels": [long]}):
        answer = asked(service, "POST", MANY, json=body)
        assert answer.status_code in (404, 422)
        assert len(answer.content) < 3000
    # Without what cannot be written as UTF-8, and without what is nobody's business.
    line = refuse(422, f"\ud800 https://me:secret@host/a.csv?sig=secret\nb {long}").body.decode()
    assert line.startswith('{"error":"\\\\ud800 https://***@host/a.csv?*** b xxx')
    assert len(line) < 2100


@pytest.mark.parametrize("value", ["bytes=abc", "bytes=999999999-", "bytes=5-2", "x", "bytes=0-9"])
def test_a_range_of_a_file_of_the_page_is_the_whole_file(service, value):
    """Before, a wrong one was refused in plain text."""
    answer = asked(service, "GET", "/static/main.js", headers={"Range": value})
    assert answer.status_code == 200
    assert answer.text == asked(service, "GET", "/static/main.js").text


@pytest.mark.parametrize(
    "query", ["images?count=1_0", "images/3/neighbours?k=1_0", "typical?distance=0.1&distance=1_0"]
)
def test_a_number_is_no_source_of_python(service, query):
    answer = asked(service, "GET", f"{API}/{query}")
    assert (answer.status_code, "a number is expected, not '1_0'" in answer.text) == (422, True)
    assert asked(service, "GET", f"{API}/images?label=1_0").status_code == 404


def test_a_body_that_is_not_named_as_json(service):
    answer = asked(service, "POST", MANY, content=b"{}", headers={"Content-Type": "json"})
    assert (answer.status_code, "Content-Type: application/json" in answer.text) == (415, True)


def test_a_token_is_found_among_cookies_of_any_form(service):
    """Cookies of all servers of a host come together; `http.cookies` drops all if one is odd."""
    access = Access(token="a&b")
    for odd in ('theme={"dark":true}; ', "x=ä ö; ", "[]; "):
        headers = {"Cookie": f"{odd}{access.cookie}=a&b".encode()}
        assert asked(service, "GET", f"{API}/set", access, headers=headers).status_code == 200
        headers = {"Cookie": f"{odd}{access.cookie}=a".encode()}
        assert asked(service, "GET", f"{API}/set", access, headers=headers).status_code == 401


def test_rows_of_what_is_no_measure_are_refused(service, analysed):
    for table in ("classes", "class-pairs", "histograms", "examples"):
        answer = asked(service, "GET", f"{API}/{table}?measure=network")
        assert answer.status_code == 404, table
        assert "network" not in asked(service, "GET", f"{API}/{table}").json()["measures"]


# Tokens


@pytest.mark.quick
@pytest.mark.parametrize("token", ["secret\n", "se cret", "sécret", "\tsecret"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token):
    for take in (check_token, lambda one: alike.connect("http://127.0.0.1:9", token=one)):
        with pytest.raises(BadInput, match="the token has a space, a line end or") as refused:
            take(token)
        assert "cret" not in str(refused.value)
    assert check_token("a&b+c#d%e") == "a&b+c#d%e"


@pytest.mark.quick
def test_an_empty_token_is_no_wish_for_none(place, monkeypatch):
    """As of `--token "$TOKEN"` where the variable is not set."""
    from typer.testing import CliRunner

    from alike.flows.cli import app

    monkeypatch.setattr(run, "serve", lambda *_, **__: None)
    words = ["serve", str(place / "store"), "--host", "0.0.0.0", "--token"]
    refused = CliRunner().invoke(app, [*words, ""])
    assert "an empty --token" in str(refused.exception)
    refused = CliRunner().invoke(app, [*words, "sec ret"])
    assert "at place 4 of 7" in str(refused.exception)


# The client


@pytest.mark.quick
@pytest.mark.parametrize(
    "address",
    ["http://[::1", "http://h:x", "http://", "x", "127.0.0.1:9/?token=secret", "http://a:b:c/"],
)
def test_an_address_that_cannot_be(address):
    with pytest.raises(BadInput, match=r"one such as http://127.0.0.1:8000 is expected") as refused:
        alike.connect(address)
    assert "secret" not in str(refused.value)


@pytest.mark.quick
def test_what_cannot_be_asked():
    with pytest.raises(BadInput, match=r"http://\*\*\*@127.0.0.1:9 does not answer"):
        alike.connect("http://user:secret@127.0.0.1:9")
    for timeout in (0, -1, float("inf"), 1e30):
        with pytest.raises(BadInput, match=r"timeout .* seconds above 0 and up to 1,000,000"):
            alike.connect("http://127.0.0.1:9", timeout=timeout)
    assert [_part(one) for one in ("a/b", "a?b#c", "..", "a.b", "é")] == [
        "a%2Fb", "a%3Fb%23c", "%2E%2E", "a.b", "%C3%A9"
    ]  # fmt: skip


class Answering(Connection):
    """A connection without a server: one answer to everything."""

    def __init__(self, answer):
        self.address, self._below, self._timeout = "http://here", "", 0.5
        self._http = httpx.Client(base_url="http://here", transport=httpx.MockTransport(answer))


@pytest.mark.quick
def test_what_answers_but_is_no_server():
    def slow(request):
        raise httpx.ReadTimeout("timed out", request=request)

    with pytest.raises(BadInput, match=r"did not answer within 0.5 s: give connect a longer"):
        Answering(slow).ask("GET", "scores")
    with pytest.raises(BadInput, match="not by a document"):
        Answering(lambda _: httpx.Response(200, text="<html>")).ask("GET", "scores")
    with pytest.raises(BadInput, match="http://here: status 502"):
        Answering(lambda _: httpx.Response(502, text="<html>")).ask("GET", "scores")
    with pytest.raises(AlikeError, match="http://here: a fault"):
        Answering(lambda _: httpx.Response(500, json={"error": "a fault"})).ask("GET", "scores")
    with pytest.raises(BadInput, match="cannot be sent"):
        Answering(slow).ask("GET", "images", asked={"label": "\ud800"})
    with pytest.raises(BadInput, match="an empty name"):
        Answering(slow).ask("GET", "runs", "")
    closed = Answering(slow)
    closed.close()
    with pytest.raises(BadInput, match="is closed: connect once more"):
        closed.ask("GET", "scores")


def test_the_client_asks_what_was_meant(client, place):
    file = place / "images" / "dog" / "3.png"
    with alike.connect(client.address) as server:
        known, marked = server.image(file), server.tags()
        assert server.image(bytearray(file.read_bytes())) == known
        assert server.image(np.int64(known["row"])) == known
        two = server.neighbours(np.array([3, 5]), np.int64(2), among="cat,dog")
        assert two["query_row"].tolist() == [3, 3, 5, 5]
        assert set(two["label"]) <= {"cat", "dog"}
        table, _ = server.explain(3, "gradcam", target=np.int64(1))
        assert table["method"].tolist() == ["gradcam"]
        # Each would have been another question: a tag `a`, the rows 1 and 2, the list of runs.
        with pytest.raises(BadInput, match="a tag of 1 to 64 letters"):
            server.tag([3], "a#b")
        with pytest.raises(BadInput, match="images '12': a list"):
            server.tag("12", "odd")
        with pytest.raises(BadInput, match="should match pattern"):
            server.run("..")
        with pytest.raises(BadInput, match="json: no parameter of this question"):
            server.classes(json=3)
        pd.testing.assert_frame_equal(server.tags(), marked)


@pytest.mark.quick
def test_a_wrong_token_is_told_at_once(service):
    def answer(request):
        answered = asked(service, "GET", str(request.url.path), Access(("*",), "right"),
                         headers=dict(request.headers))  # fmt: skip
        return httpx.Response(answered.status_code, content=answered.content)

    class Here(Answering):
        def __init__(self, address, **named):
            super().__init__(answer)
            self._http.base_url = "http://here/api/v1"
            if named["token"]:
                self._http.headers["Authorization"] = f"Bearer {named['token']}"
            self.version = self._greet(named["store"])

    assert Here("", token="right", store="").version == alike.__version__
    for token in ("", "wrong"):
        with pytest.raises(BadInput, match="the token is missing or wrong"):
            Here("", token=token, store="")
