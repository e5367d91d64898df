"""The benchmark runs, at toy size; times are never asserted."""

from pathlib import Path

import pytest

from tests.scripts import load

benchmark = load("benchmarks/cache.py")


@pytest.mark.parametrize("part", benchmark.MEASURED)
def test_each_part_is_measured_and_recorded(part: str, tmp_path: Path) -> None:
    record = tmp_path / "record.md"
    written = benchmark.main(
        ["--toy", "--only", part, "--folder", str(tmp_path), "--record", str(record)]
    )
    assert written == record.read_text()
    assert [*benchmark.recorded(record)] == [part]


def test_the_parts_of_a_record_stand_in_their_order(tmp_path: Path) -> None:
    record = tmp_path / "record.md"
    for part in ("writing", "size", "writing"):
        benchmark.main(
            ["--toy", "--only", part, "--folder", str(tmp_path), "--record", str(record)]
        )
    assert [*benchmark.recorded(record)] == ["size", "writing"]
    assert record.read_text().count("# The cache: speed") == 1
