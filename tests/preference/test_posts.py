from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.cache import text_id
from mnerfeat.errors import DataError
from mnerfeat.preference.posts import draw_d_dis, draw_posts, match_posts
from mnerfeat.preference.rankings import Ranking, RankingFile

from .builders import TinyPost

POSTS = {
    "train": [TinyPost(id="1", images=("a", "b")), TinyPost(id="2", images=("c",))],
    "dev": [TinyPost(id="1", images=("d",)), TinyPost(id="3", images=("e",))],
}

ADVICE = "if several people ranked it, add 'annotator'"


def read(rankings, *faults):
    """As if read from a file, a ranking a line."""
    places = tuple(f"r.jsonl:{number}" for number in range(1, len(rankings) + 1))
    return RankingFile(path=Path("r.jsonl"), rankings=tuple(rankings), places=places, faults=faults)


def test_rankings_find_their_posts():
    given_ = [
        Ranking(id="1", images=("b", "a"), blank=1, split="train"),
        Ranking(id="3", images=("e",), blank=0),
    ]
    matched = match_posts(read(given_), POSTS)
    assert [one.key for one in matched] == [("train", "1"), ("dev", "3")]
    assert matched[0].post is POSTS["train"][0]


def test_every_ranking_that_does_not_fit_is_listed():
    odd = [
        Ranking(id="1", images=("a",), blank=0),
        Ranking(id="9", images=("a",), blank=0),
        Ranking(id="2", images=("c", "x", "y"), blank=0),
        Ranking(id="3", images=("e",), blank=0, split="train"),
        Ranking(id="2", images=("c",), blank=0),
    ]
    with pytest.raises(DataError, match=r"r\.jsonl has 6 faults") as caught:
        match_posts(read(odd, "r.jsonl:6: not JSON"), POSTS)
    assert caught.value.faults == (
        "r.jsonl:6: not JSON",
        f"r.jsonl:5: post '2' is ranked twice (first: r.jsonl:3); {ADVICE}",
        "r.jsonl:1: post '1' is in train and in dev; add 'split'",
        "r.jsonl:2: post '9' is not in train, dev",
        "r.jsonl:3: post '2' (train) has no image x, y; it has c",
        "r.jsonl:4: post '3' is not in train",
    )


def test_a_ranking_of_another_text_is_refused():
    same = text_id("some words").hex()
    (one,) = match_posts(read([Ranking(id="2", images=("c",), blank=0, text_id=same)]), POSTS)
    assert one.key == ("train", "2")
    other = Ranking(id="2", images=("c",), blank=0, text_id=text_id("others").hex())
    with pytest.raises(DataError, match="has another text than the post that was ranked"):
        match_posts(read([other]), POSTS)


KEYS = st.lists(st.tuples(st.sampled_from(["train", "dev"]), st.text(max_size=3)), unique=True)


@given(keys=KEYS, count=st.integers(0, 30), seed=st.integers(0, 3), shuffle=st.randoms())
def test_a_draw_depends_on_the_posts_and_the_seed_alone(keys, count, seed, shuffle):
    drawn = draw_posts(keys, count, seed=seed)
    assert len(drawn) == min(count, len(keys))
    assert drawn <= set(keys)
    other = list(keys)
    shuffle.shuffle(other)
    assert draw_posts(other, count, seed=seed) == drawn
    assert draw_posts(keys, max(0, count - 1), seed=seed) <= drawn


def test_seeds_draw_differently_and_evenly():
    keys = [("train", str(n)) for n in range(1000)]
    draws = [draw_posts(keys, 100, seed=seed) for seed in range(60)]
    assert len(set(draws)) == 60
    counts = [sum(key in one for one in draws) for key in keys]
    assert 4.5 < sum(counts) / len(counts) < 7.5
    assert max(counts) < 25


def ranked(count, split="train"):
    posts = {split: [TinyPost(id=str(n), images=("a",)) for n in range(count)]}
    some = [Ranking(id=str(n), images=("a",), blank=0) for n in range(count)]
    return match_posts(read(some), posts)


def test_d_dis_is_a_share_of_all_posts_of_the_split():
    chosen = draw_d_dis(ranked(50), split="train", posts=100, share=0.1, seed=0)
    assert len(chosen) == 10
    again = draw_d_dis(ranked(50)[::-1], split="train", posts=100, share=0.1, seed=0)
    assert {one.key for one in again} == {one.key for one in chosen}


def test_all_rankings_are_used_where_there_are_few():
    assert len(draw_d_dis(ranked(5), split="train", posts=100, share=0.1, seed=0)) == 5


def test_rankings_of_other_splits_are_never_used():
    both = (*ranked(50), *ranked(50, "dev"))
    chosen = draw_d_dis(both, split="train", posts=100, share=1.0, seed=0)
    assert {one.split for one in chosen} == {"train"}
    with pytest.raises(DataError, match="none of the 50 rankings is of a post of train"):
        draw_d_dis(ranked(50, "dev"), split="train", posts=100, share=1.0, seed=0)
