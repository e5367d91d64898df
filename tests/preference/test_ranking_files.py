"""Tasks out, rankings in, and the proxy; through the library and through the commands."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from mnerfeat.cache import FeatureCache
from mnerfeat.cli.ranking import app
from mnerfeat.datasets import read_split
from mnerfeat.errors import (
    ConfigError,
    DataError,
    ExtractionError,
    MnerfeatError,
    ProvenanceError,
)
from mnerfeat.preference import RankConfig, read_rankings
from mnerfeat.preference.blank import blank_name
from mnerfeat.preference.posts import draw_d_dis, match_posts
from mnerfeat.preference.rankings import parse_rankings, write_rankings
from mnerfeat.training.ranking import read_all_splits, train_ranker
from mnerfeat.training.ranking_files import import_rankings, write_proxy, write_tasks


def ranked_by_people(tasks, truth):
    """What Label Studio would export, had people ranked as the truth does."""
    return [
        {
            "id": number,
            "data": task["data"],
            "annotations": [
                {
                    "completed_by": 1,
                    "result": [
                        {
                            "type": "ranker",
                            "value": {
                                "ranker": {
                                    "relevant": list(truth[task["data"]["id"]].relevant),
                                    "irrelevant": list(truth[task["data"]["id"]].irrelevant),
                                }
                            },
                        }
                    ],
                }
            ],
        }
        for number, task in enumerate(tasks)
    ]


def test_tasks_that_people_ranked_are_d_dis(toy, tmp_path):
    data = toy.world.data
    written = write_tasks(data, tmp_path / "tasks.json", images="", share=0.2, seed=4)
    tasks = json.loads(written.tasks.read_text("utf-8"))
    assert written.posts == len(tasks) == 30
    assert written.interface.read_text("utf-8").startswith("<View>")
    truth = {one.id: one for one in read_rankings(toy.world.rankings)}
    (tmp_path / "export.json").write_text(json.dumps(ranked_by_people(tasks, truth)), "utf-8")
    rankings = import_rankings(tmp_path / "export.json", data, tmp_path / "rankings.jsonl")
    assert read_rankings(tmp_path / "rankings.jsonl") == rankings
    assert {one.source for one in rankings} == {"human"}
    posts = read_all_splits(data)
    ranked = match_posts(parse_rankings(tmp_path / "rankings.jsonl"), posts)
    chosen = draw_d_dis(ranked, split="train", posts=len(posts["train"]), share=0.2, seed=4)
    assert {one.post.id for one in chosen} == {task["data"]["id"] for task in tasks}
    assert all(one.images == truth[one.id].images for one in rankings)


def test_the_authors_file_is_told_by_its_content_and_imported(toy, tmp_path):
    truth = read_rankings(toy.world.rankings)[:4]
    lines = []
    for one in truth:
        names = [name.replace(".png", ".jpg") for name in one.images]
        names.insert(one.blank, "inf.png")
        lines += [f"id: {one.id}", "text: …", "label: …", "images:", *names]
    path = tmp_path / "preference2.txt"
    path.write_text("\n".join(lines), "utf-8")
    data = tmp_path / "data"
    data.mkdir()
    posts = read_split(toy.world.data, "train").posts
    (data / "train.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "id": post.id,
                    "text": post.words,
                    "label": post.tags,
                    "images": [name.replace(".png", ".jpg") for name in post.images],
                }
            )
            + "\n"
            for post in posts
        ),
        "utf-8",
    )
    rankings = import_rankings(path, data, tmp_path / "rankings.jsonl")
    assert [(one.id, one.blank, one.split) for one in rankings] == [
        (one.id, one.blank, "train") for one in truth
    ]


def test_nothing_is_written_where_anything_is_wrong(toy, tmp_path):
    out = tmp_path / "rankings.jsonl"
    odd = tmp_path / "odd.txt"
    odd.write_text("rank;image\n1;a.jpg\n", "utf-8")
    with pytest.raises(DataError, match="no known format"):
        import_rankings(odd, toy.world.data, out)
    lines = toy.world.rankings.read_text("utf-8").splitlines()[:2]
    lines.append('{"id": "nobody", "images": ["a"], "blank": 0}')
    (tmp_path / "some.jsonl").write_text("\n".join(lines), "utf-8")
    with pytest.raises(DataError, match="nobody"):
        import_rankings(tmp_path / "some.jsonl", toy.world.data, out)
    assert not out.exists()


def test_files_are_only_overwritten_when_asked_to(toy, tmp_path):
    out = tmp_path / "r.jsonl"
    out.write_text("precious")
    for write in (
        lambda **more: import_rankings(toy.world.rankings, toy.world.data, out, **more),
        lambda **more: write_proxy(toy.world.data, out, toy.extraction, **more),
        lambda **more: write_tasks(toy.world.data, out, images="", **more),
    ):
        with pytest.raises(ConfigError, match="--replace"):
            write()
        assert out.read_text() == "precious"
        write(replace=True)
        assert out.read_text() != "precious"
        out.write_text("precious")


def test_tasks_need_posts_with_images(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"id": 1, "text": ["a"], "label": ["O"]}\n')
    with pytest.raises(DataError, match="no post of train"):
        write_tasks(tmp_path, tmp_path / "t.json", images="")
    with pytest.raises(ConfigError, match=r"rank\.share is 0\.0"):
        write_tasks(tmp_path, tmp_path / "t.json", images="", share=0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_a_proxy_ranks_by_cosine_and_says_so_everywhere(toy, tmp_path):
    path = tmp_path / "proxy.jsonl"
    written = write_proxy(toy.world.data, path, toy.extraction)
    assert read_rankings(path) == written
    assert {one.source for one in written} == {"proxy"}
    cache = FeatureCache(toy.cache)
    posts = {post.id: post for post in read_split(toy.world.data, "train").posts}

    def unit(x):
        x = x.astype(np.float64)
        return x / np.linalg.norm(x)

    blank = unit(cache["clip_image"][cache.rows([blank_name("mean")])[0]])
    for one in written[::7]:
        text = unit(cache["clip_text"][cache.text_rows([posts[one.id].text])[0]])
        cosines = {
            name: float(text @ unit(cache["clip_image"][cache.rows([name])[0]]))
            for name in posts[one.id].images
        }
        assert list(one.images) == sorted(cosines, key=lambda name: -cosines[name])
        assert one.blank == sum(cosine > text @ blank for cosine in cosines.values())
    saved = train_ranker(
        toy.plan(rankings=path, config=RankConfig(epochs=1, share=0.2), replace=True)
    )
    assert set(saved.sources) == {"proxy"}
    toy.rewards(replace=True)
    made = FeatureCache(toy.cache)["reward"].provenance
    assert set(made.facts["rankings"]["sources"]) == {"proxy"}


@pytest.mark.parametrize(("threshold", "share"), [(-1.1, 1.0), (1.1, 0.0)])
def test_a_proxy_s_blank_may_stand_at_a_threshold(toy, tmp_path, threshold, share):
    path = tmp_path / "proxy.jsonl"
    written = write_proxy(toy.world.data, path, toy.extraction, threshold=threshold)
    assert {one.blank / len(one.images) for one in written} == {share}


# --- the commands -------------------------------------------------------------------------------


@pytest.fixture
def project(toy, tmp_path, monkeypatch):
    """A folder as people have it, with the default names."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "mnerfeat.toml").write_text('preset = "tiny"\n[rank]\nepochs = 5\nshare = 0.5\n')
    (folder / "data").symlink_to(toy.world.data)
    (folder / "images").symlink_to(toy.world.images)
    (folder / "rankings.jsonl").symlink_to(toy.world.rankings)
    (folder / "features.h5").write_bytes(toy.plain.read_bytes())
    monkeypatch.chdir(folder)
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, MnerfeatError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_train_and_eval_work_as_they_stand(project):
    told = run("train")
    assert "discriminator: learned from" in told
    assert "mnerfeat extract --features reward" in told
    assert (project / "discriminator" / "discriminator.json").is_file()
    told = run("eval", "--split", "dev")
    assert "CLIP similarity" in told
    with pytest.raises(MnerfeatError, match="--replace"):
        run("train")
    run("train", "--replace", "--seed", "3", "--calibrate", "--blank", "black", "--share", "0.2")
    raw = json.loads((project / "discriminator" / "discriminator.json").read_text())
    assert (raw["training"]["seed"], raw["blank"]) == (3, "black")
    assert len(raw["learned_from"]["train"]) == 30
    assert raw["training"]["epochs"] == 5


def test_proxy_tasks_and_import_work_as_they_stand(project):
    assert "not by people" in run("proxy")
    assert "PROXY (not human)" in run("train", "--rankings", "proxy-rankings.jsonl")
    assert "15 tasks" in run("tasks")
    assert (project / "ranking-tasks.xml").is_file()
    told = run("import", "rankings.jsonl", "--out", "imported.jsonl")
    assert "toy rankings" in told
    imported = read_rankings(project / "imported.jsonl")
    plain = tuple(replace(one, text_id=None, image_ids=()) for one in imported)
    assert plain == read_rankings(project / "rankings.jsonl")
    cache = FeatureCache("features.h5")
    for one in imported[::20]:
        held = [cache.images.ids[row].tobytes().hex() for row in cache.rows(one.images)]
        assert list(one.image_ids) == held


def test_settings_that_cannot_be_used_are_named(project):
    with pytest.raises(MnerfeatError, match=r"rank\.share is 3"):
        run("train", "--share", "3")
    with pytest.raises(MnerfeatError, match="epocks"):
        run("train", "--set", "rank.epocks=3")


def test_another_clip_than_the_cache_s_is_refused(project, toy, tmp_path):
    out = tmp_path / "tuned"
    config = RankConfig(share=0.1, epochs=1, tune_clip=True, clip_lr=1e-3)
    train_ranker(toy.plan(out=out, config=config))
    with pytest.raises(ProvenanceError):
        run("train", "--clip", str(out / "clip"))
    assert not (project / "discriminator").exists()


def test_the_cache_s_clip_is_checked_though_its_blank_image_is_there(toy, tmp_path):
    config = RankConfig(share=0.1, epochs=1, tune_clip=True, clip_lr=1e-3)
    train_ranker(toy.plan(out=tmp_path / "tuned", config=config))
    other = replace(toy.extraction, clip=str(tmp_path / "tuned" / "clip"))
    with pytest.raises(ProvenanceError):
        train_ranker(toy.plan(out=tmp_path / "out", extraction=other))
    assert not (tmp_path / "out").exists()


def test_rankings_of_images_that_were_replaced_since_are_refused(toy, tmp_path):
    ranked = import_rankings(
        toy.world.rankings, toy.world.data, tmp_path / "r.jsonl", cache=toy.cache
    )
    first = next(one for one in ranked if one.split == "train" or "train" in one.id)
    name = first.images[0]
    odd = replace(first, image_ids=("0" * 64, *first.image_ids[1:]))
    others = [one for one in ranked if one is not first]
    write_rankings([odd, *others], tmp_path / "changed.jsonl")
    plan = toy.plan(rankings=tmp_path / "changed.jsonl", out=tmp_path / "out")
    plan = replace(plan, config=RankConfig(share=1.0, epochs=1))
    with pytest.raises(DataError, match="are not the files that were ranked") as caught:
        train_ranker(plan)
    assert caught.value.faults == (f"{name} of post {first.id}",)
    assert not (tmp_path / "out").exists()


def test_tuning_reads_the_images_of_the_cache_not_their_namesakes(toy, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(toy.world.images, images)
    name = read_rankings(toy.world.rankings)[0].images[0]
    paths = sorted(images.glob("*.png"))
    for path, other in zip(paths, [*paths[1:], paths[0]], strict=True):
        shutil.copy(toy.world.images / other.name, path)
    assert (images / name).exists()
    config = RankConfig(share=1.0, epochs=1, tune_clip=True)
    extraction = replace(toy.extraction, images=images)
    with pytest.raises(ExtractionError, match="not the file that is in the cache"):
        train_ranker(toy.plan(config=config, extraction=extraction, out=tmp_path / "out"))


def test_replaced_options_keep_what_they_do_not_name(toy):
    plan = toy.plan()
    assert replace(plan, config=RankConfig()).data == plan.data
