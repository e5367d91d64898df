"""What all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Time limits per example would fail on a busy machine; pytest-timeout guards against hanging.
settings.register_profile("mnerfeat", deadline=None)
settings.load_profile("mnerfeat")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, which is not part of the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("MNERFEAT_SHARED", beside))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data in {folder}; MNERFEAT_SHARED names the folder that holds it")
    return folder
