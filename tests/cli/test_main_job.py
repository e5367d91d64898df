"""From nothing to scores by the commands that people type."""

import json
import re
import shutil
from pathlib import Path

import pytest

from mnerfeat.cache import FeatureCache
from tests.cli.conftest import Program


@pytest.fixture
def world(program: Program, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small toy world, and the program running in it."""
    assert program("toy", "w", "--train", "40", "--dev", "12", "--test", "12").code == 0
    monkeypatch.chdir("w")
    return Path.cwd()


def test_the_three_commands_work_as_they_stand(program: Program, world: Path) -> None:
    dry = program("extract", "--images", "images", "--dry-run")
    assert dry.code == 0
    assert "nothing was done" in dry.out
    assert not (world / "features.h5").exists()

    extracted = program("extract", "--images", "images")
    assert extracted.code == 0, extracted.err
    assert "0 failed" in extracted.out
    assert "features.h5" in extracted.out
    assert {"vit_cls", "clip_image", "clip_text", "quality"} == set(
        FeatureCache("features.h5").features
    )
    again = program("extract", "--images", "images")
    assert " 0 new" in again.out

    trained = program("train", "--head", "iqcr", "--epochs", "2")
    assert trained.code == 0, trained.err
    (run,) = (world / "runs").iterdir()
    assert f"next: mnerfeat eval --split test --run {run.name}\n" in trained.out
    assert {"run.json", "model.safetensors", "metrics.json", "text"} <= {
        path.name for path in run.iterdir()
    }

    scored = program("eval", "--split", "test")
    assert scored.code == 0, scored.err
    assert "lenient (seqeval's default)" in scored.out
    assert "strict IOB2" in scored.out
    metrics = json.loads((run / "metrics-test.json").read_text())
    assert f"{100 * metrics['scores']['lenient']['overall']['f1']:.2f}" in scored.out
    imported = program("eval", "--predictions", run / "predictions" / "test.jsonl")
    tables = [one.out.split("\n", 1)[1].split("lenient F1 by")[0] for one in (imported, scored)]
    assert tables[0] == tables[1]
    assert "by number of images used" in scored.out
    assert "by number of images named" in imported.out

    predicted = program("predict", "--posts", "data/test.jsonl")
    assert predicted.code == 0, predicted.err
    records = [json.loads(line) for line in predicted.out.splitlines()]
    stored = (run / "predictions" / "test.jsonl").read_text().splitlines()
    assert [r["label"] for r in records] == [json.loads(line)["label"] for line in stored]
    with_image = next(r for r in records if r["images"])
    assert {"quality", "relevance", "weight", "gate"} <= set(with_image["image_values"][0])

    image = Path("images") / with_image["images"][0]
    text = " ".join(with_image["text"])
    arguments = [x for name in with_image["images"] for x in ("--image", f"images/{name}")]
    single = program("predict", "--text", text, *arguments, "--out", "one.jsonl")
    assert single.code == 0, single.err
    record = json.loads(Path("one.jsonl").read_text())
    assert record["images"][0] == str(image)
    assert record["label"] == with_image["label"]
    for name, value in with_image["image_values"][0].items():
        assert record["image_values"][0][name] == pytest.approx(value, abs=1e-3)
    assert sorted(FeatureCache("features.h5").images.names())[0][0].startswith("dev-")

    other = program("train", "--head", "text", "--epochs", "1", "--seed", "1", "--seed", "2")
    assert "mean ± sd of 2 runs" in other.out
    names = re.findall(r"--run (\S+)", other.out)
    assert "mean ± sd of 2 runs" in program("eval", "--run", names[0], "--run", names[1]).out


def test_new_posts_are_predicted_after_extracting_what_the_cache_lacks(
    program: Program, world: Path
) -> None:
    shutil.copytree("images", "new")
    for path in Path("images").glob("test-*"):
        path.unlink()
    assert program("extract", "--images", "images").code == 0
    assert program("train", "--epochs", "1").code == 0
    lacking = program("predict", "--posts", "data/test.jsonl")
    assert lacking.code == 1
    assert "contains none of the" in lacking.err
    done = program("predict", "--posts", "data/test.jsonl", "--images", "new")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 12


def test_a_cache_made_by_other_models_is_refused(program: Program, world: Path) -> None:
    assert program("extract", "--images", "images").code == 0
    assert program("train", "--epochs", "1").code == 0
    refused = program("extract", "--images", "images", "--set", "extract.dtype=float32")
    assert refused.code == 1
    assert "--replace" in refused.err
    assert (
        program("extract", "--images", "images", "--set", "extract.dtype=float32", "--replace").code
        == 0
    )
    stale = program("eval", "--split", "test")
    assert stale.code == 1
    for feature in ("vit_cls", "clip_image", "clip_text"):
        assert f"{feature}: dtype: float32 in the cache, float16 in the run" in stale.err


def test_a_missing_model_names_the_next_command(program: Program, world: Path) -> None:
    missing = program("extract", "--images", "images", "--vit", "no/such-model")
    assert missing.code == 1
    assert "next: " in missing.err
    assert not (world / "features.h5").exists()
    missing = program("train", "--head", "text", "--encoder", "no/such-encoder")
    assert missing.code == 1
    assert "next: " in missing.err
    assert not (world / "runs").exists()
