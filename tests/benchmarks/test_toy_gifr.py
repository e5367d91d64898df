"""The yardstick of GIFR runs at toy size here, and at its own size with `-m slow`."""

import json
from statistics import fmean

import pytest

from tests.scripts import load


@pytest.fixture
def toy_gifr():
    return load("benchmarks/toy_gifr.py")


def test_it_trains_what_was_not_measured_yet_and_writes_its_record(toy_gifr, tmp_path):
    measured = tmp_path / "measured.jsonl"
    measured.write_text(json.dumps({"seed": 1, "head": "text only", "f1": 12.5}) + "\n")
    record = tmp_path / "toy_gifr.md"
    sizes = ["--train", "20", "--dev", "6", "--test", "8", "--epochs", "1", "--share", "0.3"]
    heads = ["--seeds", "1", "--heads", "text only", "GIFR", "--threads", "1"]
    files = ["--measured", str(measured), "--record", str(record)]
    found, pairs = toy_gifr.main([*sizes, *heads, *files])
    assert found["text only"] == [12.5]
    assert [json.loads(line)["head"] for line in measured.read_text().splitlines()] == [
        "text only",
        "GIFR",
    ]
    assert len(pairs) == 1
    text = record.read_text("utf-8")
    assert "| text only | **12.5** |" in text
    assert f"| GIFR | **{found['GIFR'][0]:.1f}** |" in text


@pytest.mark.slow
def test_gifr_and_its_ablations_show_what_they_are_made_for(toy_gifr, tmp_path):
    found, pairs = toy_gifr.main(["--record", str(tmp_path / "toy_gifr.md")])
    f1 = {name: fmean(values) for name, values in found.items()}
    assert all(len(values) == 3 for values in found.values())
    assert f1["GIFR"] >= f1["text only"] + 25
    assert f1["GIFR"] >= f1["w/o D"] + 5
    assert f1["GIFR"] >= f1["w/o G"] + 5
    assert min(pairs) >= 0.9
