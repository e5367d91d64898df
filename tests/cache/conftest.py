"""What most tests of the cache start with."""

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a cache goes; it is not there yet."""
    return tmp_path / "features.h5"
