"""What all tests share: the folder of real images and weights that stands beside a checkout."""

from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real images and weights; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real images and weights in {SHARED}")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _own_agreements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests agree to run is kept in a folder of theirs, never in the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield
