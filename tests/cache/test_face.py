"""What `mnerfeat.cache` offers, and what importing it does not cost."""

import subprocess
import sys

import pytest

import mnerfeat.cache


def test_all_that_is_offered_is_there() -> None:
    for name in mnerfeat.cache.__all__:
        assert getattr(mnerfeat.cache, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mnerfeat.cache.nothing  # noqa: B018


def test_reading_and_writing_import_neither_tools_nor_torch() -> None:
    code = (
        "import sys; from mnerfeat.cache import CacheWriter, FeatureCache, pack; "
        "print({'torch', 'mnerfeat.cache.maintenance.export', 'mnerfeat.cache.maintenance.repair'}"
        " & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
