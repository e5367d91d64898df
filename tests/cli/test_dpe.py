"""DPE-MNER and BERT-Iterative by the commands that people type, on a toy world."""

import json
from pathlib import Path

import pytest

from mnerfeat.cache import FeatureCache
from tests.cli.conftest import Program

FEATURES = ("--features", "grid,regions,tags,caption")
FEW = ("--epochs", "1", "--set", "head.dpe.spans=10", "--set", "head.dpe.threshold=0.5")


def test_from_images_and_imported_texts_to_entities_after_each_step(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program("toy", "w", "--train", "12", "--dev", "4", "--test", "6").code == 0
    monkeypatch.chdir("w")

    lacking = program("train", "--head", "dpe", *FEW)
    assert lacking.code == 1
    extracted = program("extract", "--images", "images", *FEATURES)
    assert extracted.code == 0, extracted.err
    assert "0 failed" in extracted.out
    with FeatureCache("features.h5") as cache:
        assert set(cache.features) == {
            "grid", "regions_boxes", "regions_grid", "regions_count",
            "tags_states", "tags_length", "caption_states", "caption_length",
        }  # fmt: skip
        assert cache["grid"].row_shape == (3, 3, 64)
        line = json.loads(Path("regions.jsonl").read_text().splitlines()[0])
        (row,) = cache.images.find_names([line["image"]])
        assert cache["regions_boxes"][int(row)].tolist() == line["boxes"]
        assert cache["regions_count"][int(row)] == 3
        # [CLS] and [SEP] stand around five tags.
        assert (cache["tags_length"][:] >= 7).all()

    trained = program("train", "--head", "dpe", *FEW)
    assert trained.code == 0, trained.err
    scored = program("eval", "--split", "test")
    assert scored.code == 0, scored.err

    predicted = program("predict", "--posts", "data/test.jsonl")
    assert predicted.code == 0, predicted.err
    records = [json.loads(line) for line in predicted.out.splitlines()]
    assert all(len(record["steps"]) == 5 for record in records)
    assert all(record["steps"][-1] == record["entities"] for record in records)
    shown = next(record for record in records if record["images"])
    for values in shown["image_values"]:
        assert set(values) == {"relevance"}
        assert 0 < values["relevance"] < 1

    images = [x for name in shown["images"] for x in ("--image", f"images/{name}")]
    single = program("predict", "--text", " ".join(shown["text"]), *images)
    assert single.code == 0, single.err
    again = json.loads(single.out)
    # Another id draws other noise, and so other spans.
    for values, wanted in zip(again["image_values"], shown["image_values"], strict=True):
        assert values["relevance"] == pytest.approx(wanted["relevance"], abs=6e-2)

    ablated = program("train", "--head", "dpe", "--ablation", "no-dmf", *FEW)
    assert ablated.code == 0, ablated.err
    alone = program("train", "--head", "iterative", "--epochs", "1")
    assert alone.code == 0, alone.err
    assert program("eval", "--split", "test").code == 0


def test_a_caption_that_is_not_there_is_a_failed_image_and_bad_lines_stop_the_run(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program("toy", "w", "--train", "6", "--dev", "2", "--test", "2").code == 0
    monkeypatch.chdir("w")
    lines = Path("captions.jsonl").read_text().splitlines()
    Path("captions.jsonl").write_text("\n".join(lines[1:]))
    gone = json.loads(lines[0])["image"]
    extracted = program("extract", "--images", "images", "--features", "caption")
    assert extracted.code == 0, extracted.err
    assert "1 failed" in extracted.out
    assert f"{gone}: caption: not in captions.jsonl" in extracted.out

    Path("bad.jsonl").write_text('{"image": "a.png"}\nnonsense\n')
    refused = program("extract", "--features", "tags", "--tags", "bad.jsonl")
    assert refused.code == 1
    assert "2 lines of bad.jsonl" in refused.err
    assert "bad.jsonl:2: not JSON" in refused.err


def test_a_world_of_views_names_the_head_and_features_that_read_it(program: Program) -> None:
    drawn = program("toy", "v", "--world", "views", "--train", "3", "--dev", "1", "--test", "1")
    assert drawn.code == 0, drawn.err
    assert "--features grid,regions,tags,caption" in drawn.out
    assert "train --head dpe" in drawn.out
    assert json.loads(Path("v/world.json").read_text())["mixture"]["world"] == "views"
    other = program("toy", "v", "--train", "3", "--dev", "1", "--test", "1")
    assert other.code == 1
    assert "another toy world" in other.err
