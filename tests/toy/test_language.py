"""Names that belong to one split for good, and captions that say what is drawn."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mnerfeat.toy.drawing import DAMAGES
from mnerfeat.toy.figures import KINDS
from mnerfeat.toy.language import (
    DAMAGE_WORDS,
    SHARES,
    WALL_WORDS,
    caption,
    make_names,
    share_of,
    vocabulary,
)
from mnerfeat.toy.plan import plan_posts


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_no_name_belongs_to_two_shares_whatever_the_seeds(seed):
    names = {
        share: set(make_names(share, 50, np.random.default_rng([seed, number])))
        for number, share in enumerate(SHARES)
    }
    for share, its in names.items():
        assert len(its) == 50
        assert {share_of(name) for name in its} == {share}
        assert not its & set(vocabulary())


def test_every_word_for_a_wall_means_one_wall():
    uses = Counter(word for words in WALL_WORDS.values() for word in words)
    assert set(uses.values()) == {1}


def test_caption_says_figure_wall_and_damage():
    rng = np.random.default_rng(0)
    for toy in plan_posts(300, seed=4):
        for image in toy.images:
            words = caption(image.scene, rng).split()
            assert [word for word in words if word in KINDS] == [image.scene.kind]
            walls = [wall for wall, its in WALL_WORDS.items() if set(its) & set(words)]
            assert walls == [image.scene.wall]
            severe = {name for name, severity in image.scene.damage if severity >= 50}
            assert {name for name in DAMAGES if DAMAGE_WORDS[name] in words} == severe


def test_vocabulary_holds_every_word_of_posts_and_captions_that_is_no_name():
    rng = np.random.default_rng(0)
    known = set(vocabulary())
    for toy in plan_posts(500, seed=5):
        tags = toy.post.tags or ()
        outside = {w for w, tag in zip(toy.post.words, tags, strict=True) if tag == "O"}
        assert outside - known <= {".", ",", ":"}
        for image in toy.images:
            assert set(caption(image.scene, rng).split()) <= known
