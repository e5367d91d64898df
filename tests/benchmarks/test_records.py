"""Benchmarks run at toy size, leave the records alone, and the documentation names every record."""

from pathlib import Path

import pytest

from tests.scripts import ROOT, load

RESULTS = ROOT / "benchmarks" / "results"


def test_a_training_step_at_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "record.md"
    sizes = ["--batch", "2", "--steps", "1", "--layers", "1", "--width", "64", "--towers", "0"]
    results = load("benchmarks/train_step.py").main(
        [*sizes, "--threads", "1", "--record", str(record)]
    )
    assert [result.name for result in results] == ["text only", "IQCR-MI", "GIFR"]
    assert all(0 < result.update < result.median for result in results)
    text = record.read_text("utf-8")
    assert text in capsys.readouterr().out
    assert "| text only |" in text
    assert "**1.00×**" in text


@pytest.mark.slow
def test_a_second_run_of_extraction_at_toy_size(shared: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.md"
    images = ["--images", str(shared / "data" / "images")]
    sizes = ["--only", "again", "--files", "8", "--repeats", "1", "--threads", "1"]
    assert load("benchmarks/extract.py").main([*images, *sizes, "--record", str(record)]) == []
    assert "8 photographs, everything in the cache already" in record.read_text("utf-8")


def test_the_documentation_names_every_record() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    records = sorted(path.name for path in RESULTS.glob("*.md"))
    assert records
    assert [name for name in records if f"`{name}`" not in page] == []
