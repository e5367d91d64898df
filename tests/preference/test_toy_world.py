"""Rankings to rewards to a tagger's data, on a toy world."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mnerfeat.cache import FAILED, OK, FeatureCache, Provenance, content_id, pair_id, text_id
from mnerfeat.datasets import Post, read_folder, write_json_lines
from mnerfeat.datasets.pair_columns import REWARD, REWARD_BLANK, REWARD_SEEN
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.errors import (
    CacheLookupError,
    ConfigError,
    DataError,
    ProvenanceError,
    RunError,
    StorageError,
)
from mnerfeat.extraction.extract import extract
from mnerfeat.extractors import rewards as rewards_module
from mnerfeat.extractors.clip import ClipExtractor
from mnerfeat.extractors.rewards import extract_rewards
from mnerfeat.heads.gifr import GifrConfig
from mnerfeat.preference import RankConfig, load_discriminator, read_rankings
from mnerfeat.preference.blank import blank_name, blank_png
from mnerfeat.preference.rankings import write_rankings
from mnerfeat.reports.rankings import render_discriminator, render_rank_evaluation
from mnerfeat.training import load_training_data
from mnerfeat.training.ranking import evaluate_ranker, train_ranker

GIFR = GifrConfig()


def evaluate(toy, **options):
    return evaluate_ranker(
        toy.discriminator, toy.world.rankings, toy.world.data, toy.cache, **options
    )


def test_nine_pairs_of_ten_are_right_on_rankings_held_out(trained):
    toy, saved = trained
    evaluation = evaluate(toy, split="test")
    assert evaluation.scores.pairwise >= 0.9
    assert evaluation.scores.tau >= 0.8
    assert evaluation.scores.relevant >= 0.95
    assert evaluation.clip_similarity.pairwise < 0.75  # the paper's premise
    assert saved.held_out_scores.pairwise >= 0.9


def test_the_discriminator_is_never_measured_on_posts_that_it_learned_from(trained):
    toy, saved = trained
    learned = set(saved.learned_from["train"])
    evaluation = evaluate(toy)
    ranked = read_rankings(toy.world.rankings)
    assert evaluation.left_out >= len(learned)
    assert evaluation.scores.rankings == len(ranked) - evaluation.left_out
    few = toy.cache.parent / "few.jsonl"
    write_rankings([one for one in ranked if one.id in learned][:3], few)
    with pytest.raises(DataError, match="was not trained on"):
        evaluate_ranker(toy.discriminator, few, toy.world.data, toy.cache)


def test_d_dis_is_a_share_of_train_and_written_down(trained):
    _, saved = trained
    assert set(saved.learned_from) == {"train"}
    assert len(saved.learned_from["train"]) == round(0.8 * 150)
    held = set(saved.held_out["train"])
    assert held < set(saved.learned_from["train"])
    assert len(held) == round(0.2 * len(saved.learned_from["train"]))


def test_the_same_seed_trains_the_same_discriminator(toy, trained):
    again = train_ranker(toy.plan(out=toy.cache.parent / "again"))
    assert again.weights_sha256 == trained[1].weights_sha256
    config = RankConfig(share=0.8, epochs=1, seed=5)
    other = train_ranker(toy.plan(out=toy.cache.parent / "other", config=config))
    assert other.learned_from != again.learned_from


def test_the_blank_image_is_an_ordinary_record_of_the_cache(trained):
    toy, _ = trained
    cache = FeatureCache(toy.cache)
    (row,) = cache.rows([blank_name("mean")])
    assert cache.images.ids[row].tobytes() == content_id(blank_png("mean", (0.5, 0.5, 0.5)))
    assert cache["clip_image"].state[row] == OK
    assert cache.images.sizes[row].tolist() == [16, 16]
    _, _, blank = load_discriminator(toy.discriminator)
    np.testing.assert_array_equal(blank, cache["clip_image"][row].astype(np.float32))


def test_other_blank_images_may_be_chosen(toy):
    config = RankConfig(share=0.8, epochs=1, blank="white")
    saved = train_ranker(toy.plan(config=config, replace=True))
    cache = FeatureCache(toy.cache)
    (row,) = cache.rows([blank_name("white")])
    _, _, blank = load_discriminator(toy.discriminator)
    assert saved.blank == "white"
    np.testing.assert_array_equal(blank, cache["clip_image"][row].astype(np.float32))


# --- rewards in the cache -----------------------------------------------------------------------


def test_every_post_s_images_have_rewards_and_r_is_equation_2(trained):
    toy, _ = trained
    cache = FeatureCache(toy.cache)
    _, discriminator, blank = load_discriminator(toy.discriminator)
    posts = toy.posts
    table = VisionTable.from_cache(cache, posts, GIFR.columns)
    for number in range(0, len(posts), 17):
        post = posts[number]
        mask, columns = table.batch(torch.tensor([number]))
        assert int(mask.sum()) == len(post.images)
        for slot, name in enumerate(post.images):
            image = cache.images.ids[cache.rows([name])[0]].tobytes()
            (row,) = cache.pairs.find([pair_id(text_id(post.text), image)])
            text = torch.from_numpy(cache["clip_text"][cache.text_rows([post.text])]).float()
            looks = torch.from_numpy(cache["clip_image"][cache.rows([name])]).float()
            reward = discriminator(text, looks).item()
            none = discriminator(text, torch.from_numpy(blank)[None]).item()
            assert cache[REWARD][row] == pytest.approx(reward, rel=1e-4, abs=1e-4)
            assert cache[REWARD_BLANK][row] == pytest.approx(none, rel=1e-4, abs=1e-4)
            wanted = 1 / (1 + np.exp(none - reward))
            assert float(columns["ranked_relevance"][0, slot]) == pytest.approx(wanted, abs=1e-5)


def test_r_is_above_a_half_where_the_truth_ranks_an_image_before_the_blank(trained):
    toy, _ = trained
    test = {post.id: post for post in read_folder(toy.world.data, ("test",))["test"].posts}
    table = VisionTable.from_cache(
        FeatureCache(toy.cache), list(test.values()), ("ranked_relevance",)
    )
    right = total = 0
    truth = {one.id: one for one in read_rankings(toy.world.rankings)}
    for number, post in enumerate(test.values()):
        _, columns = table.batch(torch.tensor([number]))
        for slot, name in enumerate(post.images):
            right += (columns["ranked_relevance"][0, slot] > 0.5).item() == (
                name in truth[post.id].relevant
            )
            total += 1
    assert right / total > 0.95


def test_a_second_extraction_has_nothing_to_do(toy):
    before = FeatureCache(toy.cache).digest()
    assert ": 0 new" in toy.rewards()
    assert FeatureCache(toy.cache).digest() == before


def test_new_posts_are_added_to_what_is_there(toy):
    first, *others = [post for post in toy.posts if len(post.images) > 1]
    new = Post(id="new", words=("never", "seen"), images=first.images)
    extract(toy.extraction, posts=[new], names=())
    summary = extract_rewards(toy.cache, [new, *others], toy.discriminator)
    assert summary.new == len(first.images)
    cache = FeatureCache(toy.cache)
    assert (cache[REWARD].state == OK).all()


def test_rewards_that_were_interrupted_end_in_the_same_cache(toy, monkeypatch):
    wanted = FeatureCache(toy.cache).digest()
    shutil.copy(toy.plain, toy.cache)
    train_ranker(toy.plan(replace=True))  # with which the blank image comes into the cache
    monkeypatch.setattr(rewards_module, "PAIRS_A_PART", 100)
    put, calls = rewards_module.CacheWriter.put, []

    def killed(self, **rows):
        calls.append(1)
        if len(calls) == 3:
            raise StorageError("killed")
        return put(self, **rows)

    monkeypatch.setattr(rewards_module.CacheWriter, "put", killed)
    with pytest.raises(StorageError):
        toy.rewards()
    assert "reward" in FeatureCache(toy.cache).features
    toy.rewards()
    assert FeatureCache(toy.cache).digest() == wanted


def test_images_that_cannot_be_read_have_no_reward_and_are_masked(toy, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    posts = [post for post in toy.posts if len(post.images) > 1][:5]
    broken = posts[0]
    for post in posts:
        for name in post.images:
            shutil.copy(toy.world.images / name, images / name)
    (images / broken.images[0]).write_bytes(b"\x89PNG\r\n\x1a\n nonsense")
    toy.cache.unlink()
    extract(replace(toy.extraction, images=images), posts=posts)
    summary = extract_rewards(toy.cache, posts, toy.discriminator)
    assert summary.failed == 1
    cache = FeatureCache(toy.cache)
    assert int((cache[REWARD].state == FAILED).sum()) == 1
    table = VisionTable.from_cache(cache, [broken], GIFR.columns)
    mask, _ = table.batch(torch.tensor([0]))
    assert mask[0].tolist() == [False, *[True] * (len(broken.images) - 1)]
    assert ": 0 new" in str(extract_rewards(toy.cache, posts, toy.discriminator))


def test_posts_without_rewards_are_all_named(toy):
    lone = Post(id="lone", words=("never", "seen"), images=toy.posts[0].images)
    with pytest.raises(CacheLookupError) as caught:
        VisionTable.from_cache(FeatureCache(toy.cache), [*toy.posts, lone], GIFR.columns)
    assert caught.value.faults == ("lone",)
    assert "mnerfeat extract --features reward --posts" in str(caught.value)


def test_a_cache_without_rewards_says_what_makes_them(toy):
    shutil.copy(toy.plain, toy.cache)
    with pytest.raises(CacheLookupError, match="mnerfeat extract --features reward --posts data"):
        VisionTable.from_cache(FeatureCache(toy.cache), toy.posts, GIFR.columns)


def test_rewards_without_embeddings_name_every_post(toy):
    lone = Post(id="lone", words=("never", "seen"), images=toy.posts[0].images)
    with pytest.raises(CacheLookupError) as caught:
        extract_rewards(toy.cache, [lone, *toy.posts], toy.discriminator)
    assert caught.value.faults == ("the text of post lone",)


def test_rewards_need_posts_and_a_discriminator(toy):
    config = replace(toy.extraction, features=("reward",))
    with pytest.raises(ConfigError, match="--posts"):
        extract(config)
    with pytest.raises(RunError, match="mnerfeat rank train"):
        extract(replace(config, discriminator=toy.cache.parent / "none"), posts=toy.posts)


def test_a_dry_run_writes_nothing(toy):
    shutil.copy(toy.plain, toy.cache)
    before = toy.cache.read_bytes()
    summary = extract_rewards(toy.cache, toy.posts, toy.discriminator, dry_run=True)
    assert summary.new == summary.pairs > 0
    assert toy.cache.read_bytes() == before


# --- a changed discriminator --------------------------------------------------------------------


def retrained(toy, **options):
    return train_ranker(
        toy.plan(config=RankConfig(share=0.8, epochs=2, seed=9), replace=True, **options)
    )


def test_a_changed_discriminator_makes_rewards_stale_with_the_command_that_renews_them(toy):
    old = FeatureCache(toy.cache)[REWARD][:].copy()
    retrained(toy)
    with pytest.raises(ProvenanceError, match="mnerfeat extract --features reward --replace"):
        toy.rewards()
    with pytest.raises(ProvenanceError, match="mnerfeat extract --features reward --replace"):
        load_training_data(toy.world.data, toy.cache, GIFR, discriminator=toy.discriminator)
    np.testing.assert_array_equal(FeatureCache(toy.cache)[REWARD][:], old)
    toy.rewards(replace=True)
    assert not np.array_equal(FeatureCache(toy.cache)[REWARD][:], old)
    load_training_data(toy.world.data, toy.cache, GIFR, discriminator=toy.discriminator)


def test_other_clip_embeddings_make_rewards_stale_too(toy):
    extract(
        replace(toy.extraction, features=("clip",), dtype="float32", replace=True),
        posts=toy.posts,
    )
    with pytest.raises(ProvenanceError, match="are stale"):
        VisionTable.from_cache(FeatureCache(toy.cache), toy.posts, GIFR.columns)
    toy.rewards(replace=True)
    VisionTable.from_cache(FeatureCache(toy.cache), toy.posts, GIFR.columns)


def test_embeddings_of_another_clip_are_refused(toy):
    path = toy.discriminator / "discriminator.json"
    raw = json.loads(path.read_text())
    raw["clip"]["clip_image"]["weights_sha256"] = "0" * 64
    path.write_text(json.dumps(raw))
    with pytest.raises(ProvenanceError, match="another CLIP"):
        toy.rewards()
    with pytest.raises(ProvenanceError, match="another CLIP"):
        evaluate(toy, split="dev")


def test_a_discriminator_is_not_overwritten_before_anything_is_trained(toy):
    with pytest.raises(RunError, match="--replace"):
        train_ranker(toy.plan(rankings=toy.cache.parent / "not-even-looked-at"))


# --- D_dis and D_model --------------------------------------------------------------------------


def test_no_post_stands_in_d_dis_and_in_d_model(trained):
    toy, saved = trained
    data = load_training_data(toy.world.data, toy.cache, GIFR, discriminator=toy.discriminator)
    learned = set(saved.learned_from["train"])
    assert not {post.id for post in data.train} & learned
    assert not {text_id(post.text).hex() for post in data.train} & set(saved.text_ids)
    every = read_folder(toy.world.data, ("train",))["train"].posts
    assert len(data.train) == len(every) - data.fingerprints["d_dis"]["posts"]
    assert data.fingerprints["d_model"]["posts"] == len(data.train)
    told = data.fingerprints["d_dis"]
    assert (told["seed"], told["share"]) == (0, 0.8)
    assert len(data.train_images) == len(data.train)
    made = data.fingerprints["features"][REWARD]["provenance"]
    assert made["discriminator"] == saved.weights_sha256


def test_the_marks_in_the_cache_say_what_the_folder_says(trained):
    toy, saved = trained
    cache = FeatureCache(toy.cache)
    seen = {
        row.tobytes().hex()
        for row in cache.pairs.pair_ids[0][np.asarray(cache[REWARD_SEEN][:]) == 1]
    }
    assert seen == set(saved.text_ids)


def test_the_full_train_set_may_be_kept(trained):
    toy, _ = trained
    data = load_training_data(toy.world.data, toy.cache, GIFR, ranked_posts="keep")
    assert len(data.train) == 150
    assert data.fingerprints["d_dis"] == {
        **load_training_data(toy.world.data, toy.cache, GIFR).fingerprints["d_dis"],
        "kept": True,
    }


def test_ranked_posts_may_be_kept_with_r_as_people_ranked_them(trained):
    toy, saved = trained
    kept, judged = (
        load_training_data(
            toy.world.data, toy.cache, GIFR, ranked_posts=kind, discriminator=toy.discriminator
        )
        for kind in ("keep", "as-ranked")
    )
    assert [post.id for post in judged.train] == [post.id for post in kept.train]
    rankings = {(one.split, one.id): one for one in read_rankings(toy.world.rankings)}
    numbers = torch.arange(len(kept.train))
    _, before = kept.train_images.batch(numbers)
    mask, after = judged.train_images.batch(numbers)
    count = 0
    for number, post in enumerate(judged.train):
        ranking = rankings.get(("train", post.id), rankings.get((None, post.id)))
        known = post.id in saved.learned_from["train"]
        for slot, image in enumerate(post.images):
            if not mask[number, slot]:
                continue
            r = after["ranked_relevance"][number, slot].item()
            if known:
                assert r == (1.0 if image in ranking.relevant else 0.0)
                count += 1
            else:
                assert r == before["ranked_relevance"][number, slot].item()
    assert 0 < count == judged.fingerprints["d_dis"]["images_as_ranked"]
    assert judged.fingerprints["d_dis"]["kept"]
    torch.testing.assert_close(after["vit_cls"], before["vit_cls"])


def test_r_as_ranked_needs_the_rankings_of_the_discriminator(toy):
    def refused(folder, match):
        with pytest.raises(RunError, match=match) as refusal:
            load_training_data(
                toy.world.data, toy.cache, GIFR, ranked_posts="as-ranked", discriminator=folder
            )
        assert "rank train --replace" in str(refusal.value)

    refused(None, r"as-ranked.*rankings\.jsonl does not exist")
    refused(toy.cache.parent / "absent", r"absent/rankings\.jsonl does not exist")
    kept = toy.discriminator / "rankings.jsonl"
    rankings = [replace(one, image_ids=()) for one in read_rankings(kept)]
    write_rankings(rankings, kept)
    refused(toy.discriminator, "has no digests")


def test_a_copy_of_a_ranked_post_s_text_is_left_out_too(toy, tmp_path):
    data = read_folder(toy.world.data)
    saved, _, _ = load_discriminator(toy.discriminator)
    ranked = next(p for p in data["train"].posts if p.id in saved.learned_from["train"])
    folder = tmp_path / "data"
    folder.mkdir()
    twin = replace(ranked, id="twin")
    write_json_lines([*data["train"].posts, twin], folder / "train.jsonl")
    write_json_lines([*data["dev"].posts, twin], folder / "dev.jsonl")
    found = load_training_data(folder, toy.cache, GIFR)
    assert "twin" not in {post.id for post in found.train}


def test_without_a_post_left_for_the_tagger_it_says_what_to_do(toy):
    train_ranker(toy.plan(config=RankConfig(share=1.0, epochs=1), replace=True))
    toy.rewards(replace=True)
    posts = toy.posts
    folder = toy.cache.parent / "data"
    folder.mkdir()
    seen = {p.id for p in posts if p.images and p.id.startswith("train")}
    write_json_lines([p for p in posts if p.id in seen], folder / "train.jsonl")
    write_json_lines([p for p in posts if p.id.startswith("dev")], folder / "dev.jsonl")
    with pytest.raises(DataError, match=r"--share 0\.1"):
        load_training_data(folder, toy.cache, GIFR)


def test_ablations_without_rewards_train_on_everything(trained):
    toy, _ = trained
    data = load_training_data(toy.world.data, toy.cache, GifrConfig(ablation="no-d"))
    assert len(data.train) == 150
    assert "d_dis" not in data.fingerprints


def test_without_any_image_no_cache_is_needed(tmp_path):
    posts = [Post(id=str(n), words=("a", "b"), tags=("O", "B-PER")) for n in range(3)]
    for split in ("train", "dev"):
        write_json_lines(posts, tmp_path / f"{split}.jsonl")
    data = load_training_data(tmp_path, tmp_path / "absent.h5", GIFR)
    mask, columns = data.train_images.batch(torch.tensor([0, 2]))
    assert not mask.any()
    assert columns["vit_cls"].shape == (2, 1, 768)
    assert columns["ranked_relevance"].shape == (2, 1)


# --- bad rankings -------------------------------------------------------------------------------


def test_rankings_that_do_not_fit_are_all_listed_and_nothing_is_written(toy):
    good = read_rankings(toy.world.rankings)[:3]
    odd = [
        *good,
        replace(good[0], id="nobody"),
        replace(good[1], id=good[1].id, images=("ghost.png",), blank=0, annotator="x"),
    ]
    path = toy.cache.parent / "odd.jsonl"
    write_rankings(odd, path)
    out = toy.cache.parent / "out"
    with pytest.raises(DataError) as caught:
        train_ranker(toy.plan(rankings=path, out=out))
    assert len(caught.value.faults) == 2
    assert not out.exists()


def test_ranked_images_that_are_not_in_the_cache_are_left_out_of_their_rankings(toy, caplog):
    post = next(p for p in toy.posts if p.id.startswith("train") and len(p.images) == 3)
    data = toy.cache.parent / "data"
    data.mkdir()
    wider = replace(post, images=(*post.images, "gone.png"))
    write_json_lines([wider, *[p for p in toy.posts if p.id != post.id]], data / "train.jsonl")
    ranked = [
        replace(one, images=("gone.png", *one.images), blank=one.blank + 1)
        if one.id == post.id
        else one
        for one in read_rankings(toy.world.rankings)
    ]
    path = toy.cache.parent / "r.jsonl"
    write_rankings(ranked, path)
    config = RankConfig(share=1.0, epochs=1)
    saved = train_ranker(toy.plan(data=data, rankings=path, config=config, replace=True))
    assert "gone.png" in caplog.text
    assert saved.scores["fitted"]["rankings"] > 100


# --- CLIP tuned ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(shared_toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "discriminator"
    config = RankConfig(share=0.1, epochs=2, batch_size=16, tune_clip=True, clip_lr=1e-4)
    return shared_toy, out, train_ranker(shared_toy.plan(out=out, config=config))


def test_a_tuned_clip_is_a_folder_that_extraction_loads(tuned):
    toy, out, saved = tuned
    assert saved.tuned_clip
    made = ClipExtractor(str(out / "clip"), dtype=np.dtype("float16"), numerics="fast").provenance[
        "clip_image"
    ]
    before = FeatureCache(toy.cache)["clip_image"].provenance
    assert made.facts["weights_sha256"] != before.facts["weights_sha256"]
    assert made.facts["config_sha256"] == before.facts["config_sha256"]
    assert made.facts["preprocessing"] == before.facts["preprocessing"]


def test_the_embeddings_of_a_tuned_clip_fit_its_discriminator(tuned, tmp_path):
    toy, out, saved = tuned
    with pytest.raises(ProvenanceError, match="with the tuned CLIP"):
        extract_rewards(toy.cache, toy.posts, out)
    cache = tmp_path / "features.h5"
    posts = [p for p in toy.posts if p.id in saved.learned_from["train"]]
    names = [name for post in posts for name in post.images]
    config = replace(toy.extraction, cache=cache, features=("clip",), clip=str(out / "clip"))
    extract(config, posts=posts, names=names)
    summary = extract_rewards(cache, posts, out)
    assert summary.new == len(set(names))
    # The blank image's embedding was kept as the tuned towers give it.
    blanks = tmp_path / "blanks"
    blanks.mkdir()
    (blanks / "blank.png").write_bytes(blank_png("mean", (0.5, 0.5, 0.5)))
    extract(replace(config, images=blanks))
    opened = FeatureCache(cache)
    _, _, blank = load_discriminator(out)
    found = opened["clip_image"][opened.rows(["blank.png"])[0]]
    np.testing.assert_allclose(blank, found.astype(np.float32), rtol=2e-3, atol=2e-3)
    original = FeatureCache(toy.cache)
    moved = np.abs(
        opened["clip_image"][opened.rows(names[:5])].astype(np.float32)
        - original["clip_image"][original.rows(names[:5])].astype(np.float32)
    )
    assert moved.max() > 0.01


def test_images_that_are_not_there_are_all_listed_before_towers_are_trained(toy, tmp_path):
    from mnerfeat.errors import ExtractionError

    config = RankConfig(share=0.1, tune_clip=True)
    nowhere = replace(toy.extraction, images=tmp_path / "empty")
    with pytest.raises(ExtractionError, match="ranked images cannot be used") as caught:
        train_ranker(toy.plan(config=config, extraction=nowhere, replace=True))
    assert len(caught.value.faults) > 10


# --- reports ------------------------------------------------------------------------------------


def test_reports_show_the_figures_and_who_ranked(trained):
    toy, saved = trained
    text = render_discriminator(saved, toy.discriminator)
    scores = saved.held_out_scores
    assert f"{100 * scores.pairwise:.1f}%" in text
    assert "toy rankings" in text
    assert "mnerfeat extract --features reward" in text
    proxy = replace(saved, rankings={**saved.rankings, "sources": {"proxy": 7}})
    assert "PROXY (not human)" in render_discriminator(proxy, toy.discriminator)
    evaluation = evaluate(toy, split="dev")
    text = render_rank_evaluation(evaluation)
    assert f"{100 * evaluation.scores.pairwise:.1f}%" in text
    assert f"{100 * evaluation.clip_similarity.pairwise:.1f}%" in text
    assert "on dev" in text


def test_provenance_tells_who_ranked(trained):
    toy, saved = trained
    made = FeatureCache(toy.cache)[REWARD].provenance
    assert made.facts["rankings"]["sources"] == dict(saved.sources) == {"toy": 120}
    assert isinstance(made, Provenance)
