"""DPE-MNER's benchmarks run, at toy size."""

from pathlib import Path

import pytest

from tests.scripts import load


def test_the_toy_world_is_run_for_every_head_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_dpe = load("benchmarks/toy_dpe.py")
    record, done = tmp_path / "toy_dpe.md", tmp_path / "scores.jsonl"
    sizes = ["--train", "8", "--dev", "2", "--test", "4", "--epochs", "1", "--spans", "6"]
    heads = ["text-CRF", "BERT-Iterative", "DPE-MNER"]
    asked = [*sizes, "--world", "views", "--seeds", "1", "--heads", *heads]
    asked += ["--record", str(record), "--scores", str(done)]
    found = toy_dpe.main(asked)
    assert list(found) == heads
    for name in heads:
        assert f"| {name} | **" in record.read_text("utf-8")
    assert set(found["DPE-MNER"][1]["swapped"]) == {"grid", "caption", "regions", "tags"}
    monkeypatch.setattr(toy_dpe, "measure", None)  # what is done is not done again
    again = toy_dpe.main(asked)
    assert [again[name][1]["f1"] for name in heads] == [found[name][1]["f1"] for name in heads]
    with pytest.raises(TypeError):  # but for other options it is
        toy_dpe.main([*asked, "--spans", "7"])


@pytest.mark.parametrize("head", ["iterative", "dpe"])
def test_spans_are_followed_through_training(tmp_path: Path, head: str) -> None:
    dpe_spans = load("benchmarks/dpe_spans.py")
    record = tmp_path / "dpe_spans.md"
    sizes = ["--train", "8", "--test", "6", "--batch", "4", "--steps", "4", "--every", "2"]
    reports = dpe_spans.main(
        ["--head", head, "--set", "spans=9", "pointer=relu", *sizes, "--record", str(record)]
    )
    assert [report.step for report in reports] == [2, 4]
    for report in reports:
        assert set(report.cosine) == {"pooled", "x_s", "H_m"}
        assert all(-1 <= cosine <= 1.001 for cosine in report.cosine.values())
    assert reports[0].stable is None
    assert 0 <= reports[1].stable <= 1
    assert f"# {head}, world `one`, spans=9 pointer=relu" in record.read_text("utf-8")


def test_what_it_costs_is_measured_on_both_sides(shared: Path, tmp_path: Path) -> None:
    dpe_speed = load("benchmarks/dpe_speed.py")

    record = tmp_path / "dpe_speed.md"
    data = str(shared / "data" / "twitter2017")
    sizes = ["--encoder", "minilm", "--batch", "2", "--rounds", "1", "--threads", "1"]
    ratios = dpe_speed.main(["--data", data, *sizes, "--record", str(record)])
    assert len(ratios) == 4
    assert all(ratio > 0 for ratio in ratios.values())
    assert "| DPE-MNER, training | **" in record.read_text("utf-8")
