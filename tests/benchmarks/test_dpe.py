"""DPE-MNER's benchmarks run, at toy size."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_toy_world_is_run_for_every_head_asked_for(tmp_path: Path) -> None:
    import toy_dpe

    record = tmp_path / "toy_dpe.md"
    sizes = ["--train", "12", "--dev", "4", "--test", "4", "--epochs", "1", "--spans", "6"]
    heads = ["DPE-MNER", "BERT-Iterative", "w/o DMF"]
    found = toy_dpe.main([*sizes, "--seeds", "1", "--heads", *heads, "--record", str(record)])
    assert list(found) == heads
    for name in heads:
        assert f"| {name} | **" in record.read_text("utf-8")


def test_what_it_costs_is_measured_on_both_sides(shared: Path, tmp_path: Path) -> None:
    import dpe_speed

    record = tmp_path / "dpe_speed.md"
    data = str(shared / "data" / "twitter2017")
    sizes = ["--encoder", "minilm", "--batch", "2", "--rounds", "1", "--threads", "1"]
    ratios = dpe_speed.main(["--data", data, *sizes, "--record", str(record)])
    assert len(ratios) == 4
    assert all(ratio > 0 for ratio in ratios.values())
    assert "| DPE-MNER, training | **" in record.read_text("utf-8")
