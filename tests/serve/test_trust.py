"""What may go wrong with a server that others reach: each promise of docs/serve.md, attacked."""

import asyncio
import contextlib
import errno
import io
import json
import re
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
import uvicorn
from PIL import Image
from starlette.requests import Request
from uvicorn.server import ServerState

from alike.extract.errors import BadInput
from alike.extract.images.decoding import decode
from alike.extract.images.split import image_id
from alike.serve import run
from alike.serve.api import _neighbours
from alike.serve.app import create_app
from alike.serve.budgets import Budgets, Busy, ByteCache, ClientGone, Gate
from alike.serve.guard import LOOPBACK, Access, Guard, _same_origin
from alike.serve.models import NeighbourQuestion
from alike.serve.pictures import Thumbnails, thumbnail
from alike.serve.run import (
    allowed_hosts,
    allowed_name,
    is_private,
    listener_at,
    new_token,
    page_address,
    serve,
)
from alike.serve.service import NeighbourService
from alike.serve.work import Work

API = "/api/v1"


def png_of(width, height, value=0):
    file = io.BytesIO()
    mode = "L" if value else "1"
    Image.new(mode, (width, height), value).save(file, "PNG", compress_level=9)
    return file.getvalue()


def port_of(client):
    return int(client.address.rpartition(":")[2])


# Pictures by content hash


def test_pictures_of_two_stores_at_one_address_never_mix(client, place):
    """An address holds the hash of what lies there, and no other store answers it otherwise."""
    from alike.extract.frames import NamedImage

    for row in (0, 11):
        image = client.json(f"{API}/images/{row}")
        data = (place / "images" / image["path"]).read_bytes()
        assert image["image"] == image_id(data)
        status, headers, body = client.get(f"{API}/images/{image['image']}/thumbnail?side=96")
        assert status == 200
        assert "immutable" in headers["Cache-Control"]
        assert body == thumbnail(NamedImage("x", data), 96)
        # No picture has a row in its address.
        for kind in ("thumbnail", "input?transform=00000000"):
            assert client.get(f"{API}/images/{row}/{kind}")[0] == 422


def test_a_thumbnail_is_made_once_and_lies_on_disk_within_its_budget(tmp_path):
    shelf = Thumbnails(memory=0, folder=tmp_path, disk=1000)
    for number in range(20):
        shelf.keep(f"{number:064x}", 96, bytes(100), on_disk=True)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert 5 <= len(files) <= 10
    assert shelf.get(f"{19:064x}", 96) == bytes(100)
    assert shelf.get(f"{0:064x}", 96) is None
    shelf.keep("ab" * 32, 96, b"uploaded", on_disk=False)
    assert shelf.get("ab" * 32, 96) is None


@pytest.mark.quick
def test_a_large_jpeg_is_made_smaller_as_it_is_decoded():
    """Pillow's draft mode: like the whole decoded image made smaller, within its rounding."""
    from alike.extract.frames import NamedImage

    draw = np.random.default_rng(0)
    small = Image.fromarray(draw.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    small.resize((1600, 1200), Image.Resampling.BICUBIC).save(file, "JPEG", exif=exif)
    made = decode(thumbnail(NamedImage("x", file.getvalue()), 192)).permute(1, 2, 0).numpy()
    assert made.shape == (192, 144, 3)
    whole = Image.fromarray(decode(file.getvalue()).permute(1, 2, 0).contiguous().numpy())
    whole.thumbnail((192, 192), Image.Resampling.LANCZOS)
    assert np.abs(made.astype(int) - np.asarray(whole).astype(int)).mean() < 6


# Budgets


def test_four_bombs_at_once_take_no_memory(client):
    """88 million pixels in 10 kB each: refused by their header, before a pixel is decoded."""
    bomb = png_of(9400, 9400)
    assert len(bomb) < 20_000
    process = psutil.Process(client.process.pid)
    client.get(f"{API}/images", png_of(8, 8))
    before, most, done = process.memory_info().rss, 0, threading.Event()

    def watch():
        nonlocal most
        while not done.wait(0.005):
            most = max(most, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(4) as senders:
        answers = list(senders.map(lambda _: client.get(f"{API}/images", bomb), range(4)))
    done.set()
    watching.join()
    for status, _, body in answers:
        assert status == 422
        assert "88360000 pixels, at most 40000000" in json.loads(body)["error"]
    assert most - before < 150 * 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts resident pages by /proc")
def test_memory_of_large_images_is_given_back(client):
    """Four of 40 million pixels in 38 kB each; their pixels alone are 120 MB each."""

    def resident():
        pages = Path(f"/proc/{client.process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    large = png_of(6300, 6300, 7)
    client.get(f"{API}/images", png_of(8, 8))
    before = resident()
    with ThreadPoolExecutor(4) as senders:
        for status, _, _ in senders.map(
            lambda number: client.get(f"{API}/images", large + bytes([number])), range(4)
        ):
            assert status == 200
    assert resident() - before < 64 * 2**20


def test_an_image_of_one_pixel_width_is_answered_in_one_line(client):
    status, _, body = client.get(f"{API}/images", png_of(1, 20_000))
    assert status == 200
    name = json.loads(body)["image"]
    for path in ("thumbnail", f"input?transform={client.json(f'{API}/set')['transform']}"):
        status, _, body = client.get(f"{API}/images/{name}/{path}")
        assert status == 200 or (status == 422 and b"\\n" not in body)
    assert client.get(f"{API}/images/{name}/neighbours")[0] in (200, 422)


def test_a_form_is_told_what_to_send(client):
    status, _, body = client.get(f"{API}/images", b"--x", Content_Type="multipart/form-data")
    assert status == 415
    assert "--data-binary" in json.loads(body)["error"]


def test_a_gate_admits_in_order_within_its_capacity():
    async def main():
        gate, order, inside, most = Gate("room", 10, 20), [], 0, 0

        async def work(number, weight):
            nonlocal inside, most
            async with gate.turn(weight):
                inside += min(weight, 10)
                most = max(most, inside)
                order.append(number)
                await asyncio.sleep(0)
                inside -= min(weight, 10)

        await asyncio.gather(*(work(number, 4 if number % 3 else 99) for number in range(12)))
        assert order == list(range(12))
        assert most <= 10
        assert (gate.in_use, gate.waiting) == (0, 0)

    asyncio.run(main())


def test_a_full_queue_refuses_and_a_client_that_left_gives_its_place_back():
    async def main():
        gate, left = Gate("room", 1, 1), asyncio.Event()
        done = []

        async def wait(gone):
            async with gate.turn(1, gone):
                done.append(1)

        async with gate.turn():
            waiting = asyncio.ensure_future(wait(left.wait))
            await asyncio.sleep(0)
            with pytest.raises(Busy, match="1 requests wait for room"):
                await wait(left.wait)
            left.set()
            with pytest.raises(ClientGone):
                await waiting
            assert gate.waiting == 0
            cancelled = asyncio.ensure_future(wait(asyncio.Event().wait))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        assert not done
        assert gate.in_use == 0

    asyncio.run(main())


def test_a_cache_counts_bytes():
    cache = ByteCache(100)
    for name in "abc":
        cache.put(name, name, 40)
    assert [cache.get(name) for name in "abc"] == [None, "b", "c"]
    cache.put("large", 1, 101)
    cache.put("b", "B", 10)
    assert (cache.get("large"), cache.get("b"), cache.used) == (None, "B", 50)


def answered(messages, budgets, path=f"{API}/images", headers=()):
    """What `Guard` answers to a body in parts: seconds to wait, or bytes; and its own counts."""
    from fastapi import FastAPI, Request

    from alike.serve.app import _handle_errors

    app = FastAPI()
    _handle_errors(app)

    @app.post(path)
    async def whole(request: Request) -> int:
        return len(await request.body())

    guard = Guard(app, Access(), budgets)
    sent = []

    async def main():
        parts = iter(messages)

        async def receive():
            part = next(parts)
            if isinstance(part, float):
                await asyncio.sleep(part)
                part = b""
            return {"type": "http.request", "body": part, "more_body": part != b"end"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": path, "query_string": b"",
            "headers": [(b"host", b"localhost:1"), *headers],
        }  # fmt: skip
        await guard(scope, receive, send)

    asyncio.run(main())
    return sent[0]["status"], dict(sent[0]["headers"]), guard


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([b"x" * 50, b"end"], 200),
        ([b"x" * 50, b"x" * 60, b"end"], 413),
        ([b"x", 60.0, b"end"], 408),
    ],
)
def test_a_body_is_bounded_in_bytes_and_in_time(messages, status):
    budgets = Budgets(upload_bytes=100, body_seconds=0.05)
    answer, headers, guard = answered(messages, budgets)
    assert answer == status
    assert (guard.receiving, guard.open_requests) == (0, 0)
    assert headers[b"cross-origin-resource-policy"] == b"same-origin"


def test_all_bodies_together_are_bounded():
    status, headers, guard = answered([b"x" * 50, b"end"], Budgets(receiving_bytes=40))
    assert status == 503
    assert headers[b"retry-after"] == b"1"
    assert guard.receiving == 0


def test_clients_that_hang_up_leave_the_page_answering(client):
    """200 at once: half ask for work and leave, half say nothing at all."""
    port = port_of(client)
    question = f"GET {API}/images/3/neighbours?k=19 HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"
    left = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    for one in left[::2]:
        one.sendall(question.encode())
    status, _, _ = client.get("/")
    assert status == 200
    for one in left:
        one.close()
    status, _, body = client.get(f"{API}/images/3/neighbours?k=5")
    assert (status, len(json.loads(body)["neighbours"])) == (200, 5)


def test_work_of_several_parts_ends_when_its_client_has_gone(place, monkeypatch):
    """40 images are embedded in two parts; the client leaves during the first."""
    service = NeighbourService(place / "store")
    names = [service.upload(png_of(9, 9, number + 1))["image"] for number in range(40)]
    work = Work(service)
    left, done = threading.Event(), []
    ask = service.networks.ask

    def leaving(images, taps, opened):
        left.set()
        vectors = ask(images, taps, opened)
        done.append(len(images))
        time.sleep(0.1)
        return vectors

    monkeypatch.setattr(service.networks, "ask", leaving)

    async def receive():
        while not left.is_set():
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def main(stays):
        request = Request({"type": "http", "headers": []}, forever if stays else receive)
        question = NeighbourQuestion(images=names, k=2)
        return await _neighbours(work, request, question, lambda answers: {"answers": answers})

    async def forever():
        await asyncio.Event().wait()

    with pytest.raises(ClientGone):
        asyncio.run(main(stays=False))
    assert done == [32]
    assert (work.network.in_use, work.pixels.in_use, work.searches.in_use) == (0, 0, 0)
    answer = json.loads(asyncio.run(main(stays=True)).body)
    assert [one["query"]["image"] for one in answer["answers"]] == names
    # Those of the first part were held.
    assert done == [32, 8]
    alone = service.neighbours(names[35], 2)["neighbours"]
    found = answer["answers"][35]["neighbours"]
    assert [one["number"] for one in found] == [35, 35]
    assert [one["row"] for one in found] == [one["row"] for one in alone]


def test_explanations_end_when_their_client_has_gone(place, monkeypatch):
    """The client leaves during the first of five methods."""
    service = NeighbourService(place / "store")
    explain, done, left = service.explain, [], asyncio.Event()

    def noted(image, method, target, opened):
        said = explain(image, method, target, opened)
        done.append(method)
        loop.call_soon_threadsafe(left.set)
        time.sleep(0.1)
        return said

    monkeypatch.setattr(service, "explain", noted)
    methods = ["gradcam", "sa", "lrp", "grad_x_input", "cam"]
    query = "&".join(f"method={method}" for method in methods)
    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "path": f"{API}/images/3/explain",
        "query_string": query.encode(), "headers": [(b"host", b"localhost")], "scheme": "http",
    }  # fmt: skip

    async def main(stays):
        nonlocal loop
        loop = asyncio.get_running_loop()
        sent, messages = [], iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive():
            message = next(messages, None)
            if message is None:
                await (asyncio.Event() if stays else left).wait()
                message = {"type": "http.disconnect"}
            return message

        async def send(message):
            sent.append(message)

        await create_app(service)(dict(scope), receive, send)
        return sent

    loop = None
    sent = asyncio.run(main(stays=False))
    assert done == ["gradcam"], sent
    assert sent[0]["status"] == 499
    sent = asyncio.run(main(stays=True))
    assert done == ["gradcam", *methods]
    document = json.loads(sent[1]["body"])
    assert [one["method"] for one in document["images"]["maps"]] == methods
    assert list(document["arrays"]) == methods


def test_stored_rows_do_not_wait_for_the_network(place):
    service = NeighbourService(place / "store")
    with service.networks.lock, ThreadPoolExecutor(1) as other:
        answer = other.submit(service.neighbours, "3", 5).result(timeout=60)
    assert len(answer["neighbours"]) == 5


def test_images_whose_vectors_do_not_stay_are_embedded_once_and_in_the_turn_of_the_network(
    place, monkeypatch
):
    """There is room for the vectors of two of 40 images: a search thread would ask again."""
    # 8 float32 are a vector; an eighth of the budget is for vectors, and the maps never fit.
    service = NeighbourService(place / "store", budgets=Budgets(vectors=8 * 2 * 32))
    names = [service.upload(png_of(9, 9, number + 1))["image"] for number in range(40)]
    asked, threads = [], set()
    ask = service.networks.ask

    def noted(images, taps, opened):
        asked.extend(image.image_id for image in images)
        threads.add(threading.current_thread().name.partition("_")[0])
        return ask(images, taps, opened)

    monkeypatch.setattr(service.networks, "ask", noted)
    app = create_app(service)

    async def main():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            many = await client.post(f"{API}/neighbours", json={"images": names, "k": 3})
            assert (many.status_code, asked) == (200, names)
            one = await client.get(f"{API}/images/{names[0]}/neighbours?k=3")
            pair = await client.get(f"{API}/images/{names[0]}/alike/3")
            return many.json(), one.json(), pair.json()

    many, one, pair = asyncio.run(main())
    assert threads == {"work"}
    plenty = NeighbourService(place / "store")
    for number in (0, 39):
        plenty.upload(png_of(9, 9, number + 1))
        wanted = plenty.neighbours(names[number], 3)["neighbours"]
        for line in wanted:
            line["number"] = number
            line["distance"] = pytest.approx(line["distance"], abs=1e-5)
        assert many["answers"][number]["neighbours"] == wanted
    assert one["neighbours"][0]["row"] == many["answers"][0]["neighbours"][0]["row"]
    assert pair["distance"] == pytest.approx(plenty.alike(names[0], "3")["distance"], abs=1e-5)


# Origins, hosts, tokens


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"origin": "http://localhost:8000", "host": "localhost:8000"}, True),
        ({"origin": "https://localhost:8000", "host": "localhost:8000"}, True),
        ({"origin": "http://localhost:8001", "host": "localhost:8000"}, False),
        ({"origin": "null", "host": "localhost:8000"}, False),
        ({"origin": "http://[", "host": "localhost:8000"}, False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_our_own_page_may_ask(headers, allowed, method):
    scope = {"method": method, "path": f"{API}/images"}
    assert _same_origin(scope, headers) is allowed


def test_a_link_elsewhere_may_open_the_page_alone():
    headers = {
        "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"
    }  # fmt: skip
    assert _same_origin({"method": "GET", "path": "/"}, headers)
    assert not _same_origin({"method": "POST", "path": "/"}, headers)
    assert not _same_origin({"method": "GET", "path": f"{API}/images"}, headers)
    assert not _same_origin({"method": "GET", "path": "/"}, {**headers, "sec-fetch-dest": "iframe"})


def test_a_page_elsewhere_can_push_no_image_out(client):
    new = png_of(9, 9, 77)
    status, _, _ = client.get(f"{API}/images", new, Origin="http://elsewhere.example")
    assert status == 403
    assert client.get(f"{API}/images/{image_id(new)}")[0] == 404
    status, headers, _ = client.get(f"{API}/set", Sec_Fetch_Site="cross-site")
    assert status == 403
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1.elsewhere.example", "", "["])
def test_other_names_of_the_host_are_refused(client, host):
    status, _, body = client.get(f"{API}/set", Host=host)
    assert status == 400
    assert "error" in json.loads(body) or not host


def test_a_token_is_wanted_once_and_then_a_cookie(place):
    """Behind a proxy that serves the page at /alike, over TLS."""
    app = create_app(NeighbourService(place / "store"), Access((*LOOPBACK, "pets.org"), "secret"))
    transport = httpx.ASGITransport(app=app, root_path="/alike")

    async def main():
        async with httpx.AsyncClient(transport=transport, base_url="https://pets.org") as client:

            async def ask(path, **headers):
                client.cookies.clear()
                return await client.get(f"/alike{path}", headers=headers)

            assert (await ask(f"{API}/health")).status_code == 200
            for path in ("/", f"{API}/set", "/static/main.js", "/?token=guess"):
                answer = await ask(path)
                assert answer.status_code == 401
                assert "token" in answer.json()["error"]
            answer = await ask("/", Accept="text/html,*/*")
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert "printed an address that ends in <code>?token=…</code>" in answer.text
            (sheet,) = re.findall(r'href="([^"]+)"', answer.text)
            assert (await ask(f"/{sheet}")).status_code == 200
            # On the machine itself the page is not at the path of the proxy.
            own = await ask("/?token=secret", Host="127.0.0.1:8000")
            assert "Path=/;" in own.headers["Set-Cookie"]
            answer = await ask("/?token=secret")
            assert (answer.status_code, answer.headers["Location"]) == (303, "./")
            cookie = answer.headers["Set-Cookie"]
            for part in ("HttpOnly", "SameSite=lax", "Secure", "Path=/alike"):
                assert part in cookie
            page = await ask("/", Cookie=cookie.partition(";")[0])
            assert page.status_code == 200
            for part in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
                assert not part.startswith("/")
                answer = await ask(f"/{part}", Authorization="Bearer secret")
                assert answer.status_code == 200
            bearer = {"Authorization": "Bearer secret"}
            assert (await ask(f"{API}/set", **bearer)).json()["images"] == 20
            assert (await ask(f"{API}/set", Authorization="Bearer other")).status_code == 401
            assert (await ask(f"{API}/set", **bearer, Host="elsewhere.org")).status_code == 400

    asyncio.run(main())


def test_a_random_token_is_long_and_new():
    assert len({new_token() for _ in range(50)}) == 50
    assert len(new_token()) >= 40


def test_who_can_reach_a_server():
    assert is_private("127.0.0.1", ())
    assert not is_private("127.0.0.1", ("pets.example.org",))
    assert not is_private("0.0.0.0", ())
    assert allowed_hosts("10.0.0.7")[-1] == "10.0.0.7"
    assert allowed_name("P2.example.org:8443") == "p2.example.org"
    assert [allowed_name(one) for one in ("::1", "[::1]:80", "*")] == ["::1", "::1", "*"]
    for wrong in ("http://x", "x/alike", "", "a b"):
        with pytest.raises(BadInput, match="give a name alone"):
            allowed_name(wrong)
    named = ("localhost", "pets.example.org")
    assert page_address("127.0.0.1", 80, named, "/a") == "https://pets.example.org/a/"
    assert page_address("::", 80, named, "") == "http://pets.example.org:80/"
    # What is printed can be opened, and only names and addresses are named.
    shown = urlsplit(page_address("0.0.0.0", 80, (), ""))
    assert shown.hostname in allowed_hosts("0.0.0.0")
    others = set(allowed_hosts("0.0.0.0")) - {"localhost", socket.gethostname().lower()}
    assert all(ip_address(one) for one in others)
    assert page_address("127.0.0.1", 80, named[:1], "/a") == "http://127.0.0.1:80/"
    assert socket.gethostname().lower() in allowed_hosts("0.0.0.0")


@pytest.mark.parametrize("port", [99_999, -1])
def test_a_port_that_is_none(place, port):
    with pytest.raises(BadInput, match=f"port {port}: from 0"):
        serve(NeighbourService(place / "store"), port=port)


def test_a_taken_port(client, place):
    with pytest.raises(BadInput, match="choose another by --host, --port"):
        serve(NeighbourService(place / "store"), port=port_of(client))


async def listening(app, most=None):
    """A server of an application, by our protocol, that bounds its connections."""
    config = uvicorn.Config(app, http=run.Protocol, lifespan="off", limit_concurrency=most)
    config.load()
    state = ServerState()
    return await asyncio.get_running_loop().create_server(
        lambda: run.Protocol(config=config, server_state=state, app_state={}),
        sock=listener_at("127.0.0.1", 0),
    )


def assert_refusal(raw, status):
    """Bytes of an answer: our body for every error, and the headers of every answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
    assert first.split()[1] == str(status)
    assert headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    document = json.loads(body)
    assert list(document) == ["error"]
    assert "\n" not in document["error"]
    return headers, document["error"]


def raw_answer(port, data):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as asked:
        asked.sendall(data)
        return b"".join(iter(lambda: asked.recv(65536), b""))


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nNo colon\r\n\r\n",
        b"GET /" + b"x" * 66_000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_as_everything_else(client, data):
    headers, line = assert_refusal(raw_answer(port_of(client), data), 400)
    assert headers["connection"] == "close"
    assert "64 KiB" in line
    assert client.json(f"{API}/health")["status"] == "ok"


def test_too_many_connections_are_refused_as_everything_else():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    question = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

    async def main():
        async with await listening(app, most=3) as server:
            place = server.sockets[0].getsockname()
            others = [await asyncio.open_connection(*place) for _ in range(3)]
            reader, writer = await asyncio.open_connection(*place)
            writer.write(question)
            refused = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            await writer.wait_closed()
            # Those that were there before are answered.
            reader, writer = others[0]
            writer.write(question)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            for _, writer in others:
                writer.close()
            return refused, answer

    refused, answer = asyncio.run(main())
    headers, line = assert_refusal(refused, 503)
    assert (headers["retry-after"], headers["connection"]) == ("1", "close")
    assert "try again" in line
    assert b"204" in answer


@pytest.mark.parametrize("outside", [False, True], ids=["in a route", "outside of the guard"])
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (RuntimeError("inside"), 500, "a fault of the server (RuntimeError): its log says more"),
        (OSError(errno.EIO, "inside"), 503, "the storage does not answer (OSError): try again"),
        (TimeoutError("inside"), 503, "the storage does not answer (TimeoutError): try again"),
    ],
)
def test_a_fault_is_refused_as_everything_else(place, outside, error, status, words, capsys):
    """What is inside stays in the log."""
    service = NeighbourService(place / "store")

    def broken(*_):
        raise error

    service.facts = broken
    app = create_app(service)

    async def fails(scope, receive, send):
        broken()

    async def main():
        async with await listening(fails if outside else app) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"GET /api/v1/set HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            return answer

    headers, line = assert_refusal(asyncio.run(main()), status)
    assert line.startswith(words)
    assert headers.get("retry-after") == ("1" if status == 503 else None)
    said = capsys.readouterr().err
    assert type(error).__name__ in said
    assert "inside" in said


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
@pytest.mark.parametrize("part", [b"", b"GET / HTTP/1.1\r\nHo"])
def test_a_client_whose_headers_do_not_arrive_is_hung_up_on(monkeypatch, first, part):
    """At the start of a connection, and after an answer."""
    monkeypatch.setattr(run, "HEADER_SECONDS", 0.05)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def main():
        async with await listening(app) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            if first:
                writer.write(first)
                assert b"204" in await reader.readuntil(b"\r\n\r\n")
            writer.write(part)
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()

    asyncio.run(main())


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["open", "closing"])
@pytest.mark.parametrize("parts", [1, 64], ids=["at once", "in parts"])
def test_a_client_that_does_not_read_is_hung_up_on(monkeypatch, parts, close):
    """And one that reads slowly gets all of its answer."""
    monkeypatch.setattr(run, "SEND_SECONDS", 0.5)
    part = bytes(4 * 2**20 // parts)
    length = len(part) * parts
    ended = []

    async def app(scope, receive, send):
        headers = [(b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(parts):
            more = number < parts - 1
            await send({"type": "http.response.body", "body": part, "more_body": more})
        ended.append(scope["path"])

    async def asking(place, path):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        client.connect(place)
        client.setblocking(False)
        question = b"GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (path, close)
        await asyncio.get_running_loop().sock_sendall(client, question)
        return client

    async def main():
        loop = asyncio.get_running_loop()
        async with await listening(app) as server:
            place = server.sockets[0].getsockname()
            stuck, slow = await asking(place, b"/stuck"), await asking(place, b"/slow")
            taken, began = 0, loop.time()
            # Longer than a client may be stuck.
            while loop.time() < began + 1.8 and taken < length // 2:
                taken += len(await loop.sock_recv(slow, 2**14))
                await asyncio.sleep(0.01)
            while taken < length and (more := await loop.sock_recv(slow, 2**20)):
                taken += len(more)
            assert taken > length
            slow.close()
            await asyncio.sleep(0.2)
            assert sorted(ended) == ["/slow", "/stuck"]
            rest = 0
            with contextlib.suppress(ConnectionResetError):
                while more := await asyncio.wait_for(loop.sock_recv(stuck, 2**20), 30):
                    rest += len(more)
            assert rest < length
            stuck.close()

    asyncio.run(main())


@pytest.mark.quick
def test_answers_leave_at_once():
    """With Nagle's algorithm the body of an answer waits 40 ms for an acknowledgement."""

    async def delayed():
        waits = asyncio.get_running_loop().create_future()

        async def answer(_, writer):
            asked = socket.IPPROTO_TCP, socket.TCP_NODELAY
            waits.set_result(not writer.get_extra_info("socket").getsockopt(*asked))
            writer.close()

        with contextlib.closing(listener_at("127.0.0.1", 0)) as listener:
            async with await asyncio.start_server(answer, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                found = await waits
                writer.close()
                return found

    assert not asyncio.run(delayed())
