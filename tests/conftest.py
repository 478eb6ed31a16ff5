"""What all tests share: the folder of real images and weights that stands beside a checkout."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real images and weights; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real images and weights in {SHARED}")
    return SHARED
