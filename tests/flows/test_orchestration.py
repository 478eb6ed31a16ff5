"""What must stand before Prefect is imported."""

import socket

import pytest

from alike.extract.errors import BadInput
from alike.flows.orchestration import prepare


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.quick
@pytest.mark.parametrize("place", ["http://127.0.0.1:{}/api", "127.0.0.1:{}", "nonsense"])
def test_a_server_that_does_not_answer_is_named(place, tmp_path, monkeypatch):
    url = place.format(free_port())
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(BadInput, match="no Prefect server answers there") as told:
        prepare(tmp_path / "run")
    assert url in str(told.value)
    assert not (tmp_path / "run").exists()
