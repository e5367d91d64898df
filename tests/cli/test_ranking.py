"""From rankings to relevance in predictions, by the commands that people type."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mnerfeat.cache import FeatureCache
from tests.cli.conftest import Program


@pytest.fixture(scope="module")
def finished() -> Iterator[dict[str, Path]]:
    """Where the first test that needs it leaves a folder with rewards, for the others to copy."""
    places: dict[str, Path] = {}
    yield places
    for place in places.values():
        shutil.rmtree(place)


@pytest.fixture
def world(
    program: Program,
    finished: dict[str, Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with a toy world, its features, a discriminator and its rewards."""
    if not finished:
        place = tmp_path_factory.mktemp("finished") / "w"
        made = program("toy", place, "--train", "40", "--dev", "10", "--test", "10")
        assert made.code == 0, made.err
        monkeypatch.chdir(place)
        assert program("extract", "--features", "vit,clip").code == 0
        learned = program("rank", "train", "--share", "0.5", "--set", "rank.epochs=20")
        assert learned.code == 0, learned.err
        assert "discriminator: learned from 20 toy rankings" in learned.out
        assert learned.out.rstrip().endswith("next: mnerfeat extract --features reward")
        rewards = program("extract", "--features", "reward")
        assert rewards.code == 0, rewards.err
        finished["world"] = place
    shutil.copytree(finished["world"], tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return Path.cwd()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_rankings_lead_to_scores_and_to_the_relevance_of_every_image(
    program: Program, world: Path
) -> None:
    compared = program("rank", "eval", "--split", "test")
    assert compared.code == 0, compared.err
    assert "CLIP similarity" in compared.out
    assert {"reward", "reward_blank", "reward_seen"} <= set(FeatureCache("features.h5").features)

    trained = program("train", "--head", "gifr", "--epochs", "1")
    assert trained.code == 0, trained.err
    assert "20 train posts, whose rankings trained the discriminator, are left out" in trained.err
    (run,) = (world / "runs").iterdir()
    told = json.loads((run / "run.json").read_text())["fingerprints"]
    assert (told["d_dis"]["posts"], told["d_model"]["posts"]) == (20, 20)
    scored = program("eval", "--split", "test")
    assert scored.code == 0, scored.err

    predicted = program("predict", "--posts", "data/test.jsonl")
    assert predicted.code == 0, predicted.err
    records = lines(predicted.out)
    seen = [value for record in records for value in record["image_values"]]
    assert seen
    for value in seen:
        assert 0 < value["ranked_relevance"] < 1
        assert value["before_blank"] is (value["ranked_relevance"] > 0.5)


def test_predict_makes_the_rewards_it_lacks(program: Program, world: Path) -> None:
    shutil.copytree("images", "new")
    test = Path("data/test.jsonl").read_text()
    for path in Path("images").glob("test-*"):
        path.unlink()
    Path("features.h5").unlink()
    Path("data/test.jsonl").unlink()
    assert program("extract", "--features", "vit,clip,reward").code == 0
    assert program("train", "--head", "gifr", "--epochs", "1").code == 0
    Path("test.jsonl").write_text(test)
    lacking = program("predict", "--posts", "test.jsonl")
    assert lacking.code == 1
    assert "Traceback" not in lacking.err
    done = program("predict", "--posts", "test.jsonl", "--images", "new")
    assert done.code == 0, done.err
    records = lines(done.out)
    assert len(records) == 10
    assert all(
        value["before_blank"] in {True, False} for r in records for value in r["image_values"]
    )

    # One post is looked at by itself, and comes out the same.
    record = next(r for r in records if len(r["images"]) > 1)
    images = [x for name in record["images"] for x in ("--image", f"new/{name}")]
    digest = FeatureCache("features.h5").digest()
    single = program("predict", "--text", " ".join(record["text"]), *images)
    assert single.code == 0, single.err
    (alone,) = lines(single.out)
    assert alone["label"] == record["label"]
    for mine, theirs in zip(alone["image_values"], record["image_values"], strict=True):
        assert mine["ranked_relevance"] == pytest.approx(theirs["ranked_relevance"], abs=1e-3)
    assert FeatureCache("features.h5").digest() == digest

    # Rewards of embeddings that are there take no images at all.
    shutil.rmtree("new")
    one, another, *_ = [
        post for post in lines(Path("data/train.jsonl").read_text()) if post["images"]
    ]
    twin = {**one, "id": "twin", "images": another["images"][:1]}
    Path("twin.jsonl").write_text(json.dumps(twin) + "\n")
    assert program("predict", "--posts", "twin.jsonl").code == 0
    other = {**twin, "text": ["never", "seen"], "label": ["O", "O"]}
    Path("other.jsonl").write_text(json.dumps(other) + "\n")
    refused = program("predict", "--posts", "other.jsonl")
    assert refused.code == 1
    assert "the text of post twin" in refused.err
    assert "--features clip,reward --posts" in refused.err
    assert program("extract", "--features", "clip", "--posts", "other.jsonl").code == 0
    made = program("predict", "--posts", "other.jsonl")
    assert made.code == 0, made.err
    assert lines(made.out)[0]["image_values"][0] is not None


def test_a_changed_discriminator_is_told_and_its_rewards_are_renewed(
    program: Program, world: Path
) -> None:
    assert program("train", "--head", "gifr", "--epochs", "1").code == 0
    refused = program("rank", "train", "--share", "0.2")
    assert refused.code == 1
    assert "--replace" in refused.err
    quick = ("--share", "0.2", "--set", "rank.epochs=2")
    assert program("rank", "train", "--replace", *quick).code == 0
    for command in (
        ("extract", "--features", "reward"),
        ("train", "--head", "gifr", "--epochs", "1"),
    ):
        stale = program(*command)
        assert stale.code == 1
        assert "next: mnerfeat extract --features reward --replace" in stale.err
    renewed = program("extract", "--features", "reward", "--replace")
    assert renewed.code == 0, renewed.err
    assert program("train", "--head", "gifr", "--epochs", "1", "--name", "new").code == 0
    old = next(path.name for path in (world / "runs").iterdir() if path.name != "new")
    assert program("eval", "--run", "new").code == 0
    other = program("eval", "--run", old)
    assert other.code == 1
    assert "reward: discriminator: " in other.err


def test_a_discriminator_elsewhere_is_named_in_the_next_command(
    program: Program, world: Path
) -> None:
    quick = ("--set", "rank.epochs=2", "--share", "0.3")
    other = program("rank", "train", "--out", "other", *quick)
    assert "next: mnerfeat extract --features reward --discriminator other" in other.out
    stale = program("extract", "--features", "reward", "--discriminator", "other")
    assert "next: mnerfeat extract --features reward --replace --discriminator other" in stale.err
    done = program(*stale.err.split("next: mnerfeat ")[1].split())
    assert done.code == 0, done.err
    chosen = ("--set", "extract.discriminator=other")
    assert program("train", "--head", "gifr", "--epochs", "1", *chosen).code == 0


def test_clip_may_be_tuned_and_then_serves_extraction(program: Program, world: Path) -> None:
    Path("features.h5").unlink()
    for path in Path("images").glob("test-*"):
        path.unlink()
    assert program("extract", "--features", "clip").code == 0
    tuned = program(
        "rank", "train", "--tune-clip", "--replace", "--share", "0.2",
        "--set", "rank.epochs=1", "--set", "rank.clip_lr=1e-4",
    )  # fmt: skip
    assert tuned.code == 0, tuned.err
    assert "CLIP was tuned" in tuned.out
    untuned = program("extract", "--features", "reward")
    assert untuned.code == 1
    assert "another CLIP" in untuned.err
    done = program(*tuned.out.split("next: mnerfeat ")[1].split())
    assert done.code == 0, done.err
    assert "reward" in FeatureCache("features.h5")


def test_people_rank_in_label_studio_and_some_images_only(program: Program, world: Path) -> None:
    asked = program("rank", "tasks", "--share", "0.5")
    assert asked.code == 0, asked.err
    export = []
    for number, task in enumerate(json.loads(Path("ranking-tasks.json").read_text())):
        best, *others = [item["id"] for item in task["data"]["items"]]
        ranker = {"relevant": [best], "irrelevant": others[:1], "_": others[1:]}
        result = [{"type": "ranker", "value": {"ranker": ranker}}]
        export.append({"id": number, **task, "annotations": [{"result": result}]})
    Path("export.json").write_text(json.dumps(export))
    taken = program("rank", "import", "export.json", "--out", "people.jsonl")
    assert taken.code == 0, taken.err
    assert "20 human rankings" in taken.out
    rankings = lines(Path("people.jsonl").read_text())
    assert {len(r["images"]) for r in rankings} <= {1, 2}
    learned = program(
        "rank", "train", "--rankings", "people.jsonl", "--share", "0.5", "--replace",
        "--set", "rank.epochs=1",
    )  # fmt: skip
    assert "learned from 20 human rankings" in learned.out
    assert "not human" not in program("extract", "--features", "reward", "--replace").err


def test_a_proxy_is_called_what_it_is_all_the_way(program: Program, world: Path) -> None:
    assert "not by people" in program("rank", "proxy").out
    proxy = ("--rankings", "proxy-rankings.jsonl", "--replace", "--set", "rank.epochs=1")
    assert "PROXY (not human) rankings" in program("rank", "train", *proxy).out
    assert "proxy rankings" in program("extract", "--features", "reward", "--replace").out
    trained = program("train", "--head", "gifr", "--epochs", "1")
    assert "R comes from rankings that are not human: proxy" in trained.err
    (run,) = (world / "runs").iterdir()
    made = json.loads((run / "run.json").read_text())["fingerprints"]["features"]["reward"]
    assert set(made["provenance"]["rankings"]["sources"]) == {"proxy"}


def test_all_that_is_wrong_with_rankings_is_in_one_error(program: Program, world: Path) -> None:
    good = lines(Path("rankings.jsonl").read_text())[:5]
    odd = [
        good[0],
        good[0],
        {**good[1], "id": "nobody"},
        {**good[2], "images": ["ghost.png"], "blank": 0},
        {**good[3], "images": []},
        {key: value for key, value in good[4].items() if key != "blank"},
    ]
    text = "".join(json.dumps(one) + "\n" for one in odd) + "rank;image\n"
    Path("odd.jsonl").write_text(text)
    before = sorted(Path().rglob("*"))
    for command in (
        ("rank", "train", "--rankings", "odd.jsonl", "--out", "x"),
        ("rank", "eval", "--rankings", "odd.jsonl"),
        ("rank", "import", "odd.jsonl", "--out", "x.jsonl"),
    ):
        refused = program(*command)
        assert refused.code == 1
        assert "odd.jsonl has 6 faults:" in refused.err
        for wanted in (
            "odd.jsonl:2: post",
            "odd.jsonl:3: post 'nobody' is not in train, dev, test",
            "has no image ghost.png",
            "odd.jsonl:5: the ranking is empty",
            "odd.jsonl:6: 'blank' is missing",
            "odd.jsonl:7: not JSON",
        ):
            assert wanted in refused.err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("rank train", "there is no folder data"),
        ("rank eval", "there is no discriminator in discriminator"),
        ("rank import nothing.jsonl", "nothing.jsonl cannot be read"),
        ("rank proxy", "there is no folder data"),
        ("rank tasks", "there is no folder data"),
    ],
)
def test_what_is_missing_is_named(program: Program, command: str, said: str) -> None:
    result = program(*command.split())
    assert result.code == 1
    assert "Traceback" not in result.err
    assert list(Path().iterdir()) == []
    assert said in result.err
