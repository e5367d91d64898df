"""The yardstick runs at toy size here, and at its own size with `-m slow`."""

from statistics import fmean
from types import ModuleType

import pytest

from tests.scripts import load


@pytest.fixture(scope="module")
def toy_heads() -> ModuleType:
    return load("benchmarks/toy_heads.py")


def test_benchmark_runs_every_head_and_writes_its_record(toy_heads, tmp_path):
    sizes = ["--train", "20", "--dev", "8", "--test", "8", "--epochs", "1", "--seeds", "1"]
    found = toy_heads.main([*sizes, "--record", str(tmp_path / "toy_heads.md")])
    assert list(found) == ["text only", "IQCR-MI", "w/o IQW", "w/o CMW"]
    text = (tmp_path / "toy_heads.md").read_text(encoding="utf-8")
    for name in found:
        assert f"| {name} | **" in text


@pytest.mark.slow
def test_heads_show_what_they_are_made_for(toy_heads, tmp_path):
    found = toy_heads.main(["--record", str(tmp_path / "toy_heads.md")])
    f1 = {name: fmean(values) for name, values in found.items()}
    assert all(len(values) == 3 for values in found.values())
    assert f1["IQCR-MI"] >= f1["text only"] + 25
    assert f1["IQCR-MI"] >= f1["w/o IQW"] + 5
    assert f1["IQCR-MI"] >= f1["w/o CMW"] + 5
