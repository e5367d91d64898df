"""`train`, `eval` and `predict` one after the other: no command changes what another one meant."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mnerfeat.cache import FeatureCache
from mnerfeat.datasets import read_split
from tests.cli.conftest import Program


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy world with a cache and the runs `iqcr-run`, `text-run-seed1` and `text-run-seed2`."""
    folder = tmp_path_factory.mktemp("built") / "w"
    seeds = ("--seed", "1", "--seed", "2")
    for command in (
        ("toy", str(folder), "--train", "30", "--dev", "10", "--test", "10"),
        ("extract", "--images", "images"),
        ("train", "--epochs", "2", "--name", "iqcr-run"),
        ("train", "--epochs", "1", "--head", "text", "--name", "text-run", *seeds),
    ):
        subprocess.run(
            [sys.executable, "-m", "mnerfeat", *command],
            cwd=None if command[0] == "toy" else folder,
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture
def world(built: Path, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the program runs."""
    shutil.copytree(built, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def swap_images() -> dict[str, str]:
    """Make a folder in which the images of test have each other's names; return what is where."""
    names = sorted(path.name for path in Path("images").glob("test-*"))
    other = dict(zip(names, [*names[1:], names[0]], strict=True))
    Path("new").mkdir()
    for name, source in other.items():
        shutil.copy(f"images/{source}", f"new/{name}")
    return other


def test_a_prediction_changes_no_cache_of_training(program: Program, world: Path) -> None:
    first = program("eval", "--run", "iqcr")
    assert first.code == 0, first.err
    digest, content = FeatureCache("features.h5").digest(), Path("features.h5").read_bytes()
    swap_images()
    predicted = program("predict", "--posts", "data/test.jsonl", "--images", "new", "--run", "iqcr")
    assert predicted.code == 0, predicted.err
    assert " 0 are new" in predicted.err  # all bytes are known, under other names
    assert FeatureCache("features.h5").digest() == digest
    assert Path("features.h5").read_bytes() == content
    assert program("eval", "--run", "iqcr").out == first.out


def test_an_image_means_the_bytes_in_its_folder(program: Program, world: Path) -> None:
    other = swap_images()
    posts = records(Path("data/test.jsonl").read_text())
    for post in posts:
        post["images"] = [other[name] for name in post["images"]]
    Path("renamed.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts))
    by_name = program("predict", "--posts", "renamed.jsonl", "--run", "iqcr")
    by_bytes = program("predict", "--posts", "data/test.jsonl", "--images", "new", "--run", "iqcr")
    assert by_bytes.code == by_name.code == 0, by_bytes.err + by_name.err
    for mine, theirs in zip(records(by_bytes.out), records(by_name.out), strict=True):
        assert mine["label"] == theirs["label"]
        assert mine["image_values"] == theirs["image_values"]


def test_an_image_that_is_not_in_the_folder_is_missing_whatever_the_cache_holds(
    program: Program, world: Path
) -> None:
    post = next(post for post in records(Path("data/test.jsonl").read_text()) if post["images"])
    Path("one.jsonl").write_text(json.dumps(post) + "\n")
    Path("empty").mkdir()
    done = program("predict", "--posts", "one.jsonl", "--images", "empty", "--run", "iqcr")
    assert done.code == 0, done.err
    assert records(done.out)[0]["image_values"] == [None] * len(post["images"])
    assert f"{len(post['images'])} images of the posts are not in empty" in done.err


def test_new_images_go_into_the_runs_own_cache_and_are_extracted_once(
    program: Program, world: Path
) -> None:
    from PIL import Image

    Path("new").mkdir()
    Image.new("RGB", (40, 40), (9, 200, 30)).save("new/1.png")
    post = {"id": "1", "text": ["saw", "Gorbo"], "images": ["1.png"]}
    Path("new.jsonl").write_text(json.dumps(post) + "\n")
    command = ("predict", "--posts", "new.jsonl", "--images", "new", "--run", "iqcr")
    digest = FeatureCache("features.h5").digest()
    first = program(*command)
    assert " 1 are new" in first.err
    assert (world / "runs/iqcr-run/predict.h5").is_file()
    assert FeatureCache("features.h5").digest() == digest
    again = program(*command)
    assert " 0 are new" in again.err
    assert again.out == first.out
    Path("features.h5").unlink()
    assert records(program(*command).out)[0]["label"] == records(first.out)[0]["label"]


def test_predict_takes_the_models_that_the_run_was_trained_with(
    program: Program, world: Path
) -> None:
    """Without the settings of the folder, whose preset is tiny, nothing goes to the hub."""
    post = next(post for post in records(Path("data/test.jsonl").read_text()) if post["images"])
    images = [x for name in post["images"] for x in ("--image", f"images/{name}")]
    Path("mnerfeat.toml").unlink()
    Path("features.h5").unlink()
    done = program("predict", "--text", " ".join(post["text"]), *images, "--run", "iqcr")
    assert done.code == 0, done.err
    assert all(records(done.out)[0]["image_values"])


def test_places_in_the_text_as_it_was_typed(program: Program, world: Path) -> None:
    text = "  saw  Gorbo, by the wall"
    done = program("predict", "--text", text, "--run", "text-run-seed1")
    (record,) = records(done.out)
    assert [text[start:end] for start, end in record["offsets"]] == record["text"]
    for entity in record["entities"]:
        assert text[entity["char_start"] : entity["char_end"]] == entity["text"]


def test_a_person_reads_entities_and_images_and_a_pipe_gets_json(
    program: Program, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = program("predict", "--posts", "data/test.jsonl", "--run", "iqcr")
    first = records(piped.out)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = program("predict", "--posts", "data/test.jsonl", "--run", "iqcr")
    assert shown.out.count("\n\n") == len(first) - 1
    assert "{" not in shown.out
    for record in first:
        for entity in record["entities"]:
            words = " ".join(record["text"][entity["start"] : entity["end"]])
            assert f"[{words} {entity['type']}]" in shown.out
        for name, values in zip(record["images"], record["image_values"], strict=True):
            assert f"  {name}: quality {values['quality']:.3f}" in shown.out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert program("predict", "--posts", "data/test.jsonl", "--run", "iqcr", "--json").out == (
        piped.out
    )


def test_results_on_other_data_get_a_name_of_their_own(program: Program, world: Path) -> None:
    run = world / "runs/iqcr-run"
    assert program("eval", "--run", "iqcr").code == 0
    own = json.loads((run / "metrics-test.json").read_text())
    split = read_split(Path("data"), "test")
    assert own["data"] == str(world / "data")
    assert (own["split"], own["fingerprint"], own["own_data"]) == ("test", split.fingerprint, True)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", own["date"])
    predictions = (run / "predictions/test.jsonl").read_bytes()
    assert records(predictions.decode())[0]["data"] == f"test:{split.fingerprint[:8]}"

    shutil.copytree("data", "other")
    for name in ("train", "dev", "test"):
        lines = Path(f"data/{name}.jsonl").read_text().splitlines(keepends=True)
        Path(f"other/{name}.jsonl").write_text("".join(lines[1:]))
    done = program("eval", "--run", "iqcr", "--data", "other")
    assert done.code == 0, done.err
    mark = read_split(Path("other"), "test").fingerprint[:8]
    assert f"metrics-test-{mark}.json" in done.out
    assert json.loads((run / f"metrics-test-{mark}.json").read_text())["own_data"] is False
    assert (run / f"predictions/test-{mark}.jsonl").is_file()
    assert json.loads((run / "metrics-test.json").read_text()) == own
    assert (run / "predictions/test.jsonl").read_bytes() == predictions


def test_a_changed_test_split_replaces_no_result_either(program: Program, world: Path) -> None:
    run = world / "runs/text-run-seed1"
    assert program("eval", "--run", run.name).code == 0
    before = (run / "metrics-test.json").read_bytes()
    lines = Path("data/test.jsonl").read_text().splitlines(keepends=True)
    Path("data/test.jsonl").write_text("".join(lines[1:]))
    assert program("eval", "--run", run.name).code == 0
    assert (run / "metrics-test.json").read_bytes() == before
    assert len(list(run.glob("metrics-test-*.json"))) == 1


def test_runs_of_different_configurations_have_no_common_mean(
    program: Program, world: Path
) -> None:
    runs = ("--run", "iqcr-run", "--run", "text-run-seed1", "--run", "text-run-seed2")
    done = program("eval", *runs)
    assert done.code == 0, done.err
    assert "of 3 runs" not in done.out
    assert done.out.count("mean ± sd of 2 runs (sd with n − 1)") == 1
    mean = 0.0
    for name in ("text-run-seed1", "text-run-seed2"):
        metrics = json.loads((world / "runs" / name / "metrics-test.json").read_text())
        mean += 50 * metrics["scores"]["lenient"]["overall"]["f1"]
    assert f"F1 {mean:.2f} ± " in done.out


def test_the_run_folder_says_how_it_was_made(world: Path) -> None:
    run = json.loads((world / "runs/text-run-seed2/run.json").read_text())
    assert run["origin"]["command"].endswith("--name text-run --seed 1 --seed 2")
    assert run["origin"]["data"].endswith("/w/data")
    assert run["origin"]["seeds"] == [1, 2]
    assert run["seconds"] > 0
    assert run["completed"] > run["created"]
    assert "epochs = 1" in (world / "runs/text-run-seed2/config.toml").read_text()


def test_ctrl_c_says_how_to_resume_and_resuming_names_its_run(
    program: Program, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnerfeat.training import trainer

    real = trainer._fit
    monkeypatch.setattr(trainer, "_fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    stopped = program("train", "--epochs", "1", "--head", "text", "--name", "mine")
    assert stopped.code == 130
    assert "next: mnerfeat train --resume --name mine\n" in stopped.err
    monkeypatch.setattr(trainer, "_fit", real)
    refused = program(
        *("train", "--resume", "--epochs", "4", "--head", "iqcr", "--lr", "1", "--seed", "9")
    )
    assert refused.code == 2
    for fault in ("head: 'text' there, 'iqcr' here", "train.epochs: 1 there, 4 here",
                  "train.encoder_lr", "seeds: 1 there, 9 here"):  # fmt: skip
        assert fault in refused.err
    done = program("train", "--resume")
    assert done.code == 0, done.err
    assert "next: mnerfeat eval --split test --run mine\n" in done.out


def test_a_wrong_name_comes_with_the_nearest(program: Program, world: Path) -> None:
    wrong = program("eval", "--run", "icqr-run")
    assert wrong.code == 1
    assert "did you mean iqcr-run?" in wrong.err
    several = program("eval", "--run", "text")
    assert several.code == 1
    assert "text-run-seed1" in several.err
