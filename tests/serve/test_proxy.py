"""Behind nginx with TLS, at a path, with the lines that docs/serve.md has."""

import re
import shutil
import socket
import ssl
import subprocess
import time
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from .conftest import ROOT, server

missing = [name for name in ("nginx", "openssl") if not shutil.which(name)]
AROUND = """
pid {place}/pid;
error_log {place}/errors;
daemon off;
events {{}}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {place}/certificate.pem;
        ssl_certificate_key {place}/key.pem;
        {location}
    }}
}}
"""


def answers(port):
    """Whether somebody listens there."""
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def documented():
    """The lines of docs/serve.md."""
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    return re.search(r"location /alike/ \{.*?\n\}", text, re.DOTALL)[0]


@pytest.mark.quick
def test_the_proxy_tells_the_port():
    """Without it, a page at another port than 443 counts as another site's and may not upload."""
    assert "proxy_set_header Host $http_host;" in documented()


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.fixture
def proxied(place, tmp_path):
    """Address behind the proxy, and a context that trusts its certificate."""
    options = ["--allowed-host", "localhost", "--root-path", "/alike", "--token", "secret"]
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    request += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    request += ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"]
    subprocess.run(request, check=True, capture_output=True)
    location, port = documented(), free_port()
    with server(place / "store", options=options) as client:
        own = urlsplit(client.address).port
        location = location.replace("127.0.0.1:8000", f"127.0.0.1:{own}")
        written = AROUND.format(place=tmp_path, port=port, location=location)
        (tmp_path / "nginx.conf").write_text(written)
        started = ["nginx", "-p", tmp_path, "-e", tmp_path / "errors", "-c", "nginx.conf"]
        with subprocess.Popen(started) as process:
            until = time.monotonic() + 20
            while not answers(port) and time.monotonic() < until:
                time.sleep(0.1)
            trusted = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
            try:
                yield f"https://localhost:{port}", trusted
            finally:
                process.terminate()


@pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
def test_the_page_and_its_uploads_work_behind_tls_at_a_path(proxied, place):
    address, trusted = proxied
    picture = (place / "images" / "dog" / "5.png").read_bytes()
    with httpx.Client(verify=trusted, base_url=address, timeout=120) as browser:
        assert browser.get("/alike/").status_code == 401
        first = browser.get("/alike/?token=secret")
        assert first.status_code == 303
        assert urljoin(str(first.url), first.headers["location"]) == f"{address}/alike/"
        cookie = first.headers["set-cookie"].lower()
        assert "path=/alike" in cookie
        assert "secure" in cookie
        page = browser.get("/alike/")
        assert page.status_code == 200
        for asset in re.findall(r'(?:src|href)="([^":]+\.(?:js|css))"', page.text):
            assert browser.get(f"/alike/{asset.removeprefix('/alike/')}").status_code == 200
        assert browser.get("/alike/api/v1/set").json()["network"].endswith("small")
        own = {"Origin": address, "Sec-Fetch-Site": "same-origin"}
        assert browser.post("/alike/api/v1/images", content=picture, headers=own).status_code == 200
        other = {"Origin": "https://example.org"}
        answer = browser.post("/alike/api/v1/images", content=picture, headers=other)
        assert answer.status_code == 403
