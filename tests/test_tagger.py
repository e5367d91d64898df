import dataclasses
import json

import pytest
import torch

from mnerfeat.datasets import TagSet
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.errors import ConfigError, DataError
from mnerfeat.heads.base import IGNORED, HeadConfig
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.tagger import HEADS, Tagger, gold_ids, head_name, head_options, pad_ids

from .tiny import SIZES, encoder, encoder_folder, posts, table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return encoder_folder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(params=sorted(HEADS))
def tagger(request, folder):
    return Tagger.build(
        encoder(folder), HEADS[request.param](), TagSet(), column_sizes=SIZES, seed=1
    ).eval()


def test_every_head_has_a_name_and_options_with_defaults():
    for name, options in HEADS.items():
        assert issubclass(options, HeadConfig)
        assert head_name(options()) == name
        assert head_options(name) is options


def test_an_unknown_head_is_refused_with_the_choices():
    choices = ", ".join(sorted(HEADS))
    with pytest.raises(ConfigError, match=rf"unknown head 'iqrc'; choose from: {choices}"):
        head_options("iqrc")


def test_a_missing_column_is_named(folder):
    with pytest.raises(ConfigError, match=r"iqcr head reads vit_cls.*without quality, relevance"):
        Tagger.build(encoder(folder), IqcrConfig(), TagSet(), column_sizes={"vit_cls": 6}, seed=1)


def test_the_seed_draws_the_head_and_nothing_else(folder):
    texts = encoder(folder)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    same = [
        Tagger.build(texts, IqcrConfig(), TagSet(), column_sizes=SIZES, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert (torch.get_rng_state() == before).all()
    weights = [tagger.head.emissions.weight for tagger in same]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


def test_groups_hold_every_parameter_once(tagger):
    grouped = [id(x) for group in tagger.parameter_groups().values() for x in group]
    assert sorted(grouped) == sorted(id(x) for x in tagger.parameters())


def test_tags_come_in_the_order_and_number_of_the_words(tagger):
    some = posts(30, 3, clue=True)
    found = tagger.tag(some, table(some, 3), batch_size=7)
    assert len(found) == 30
    for post, tagged in zip(some, found, strict=True):
        assert len(tagged.tags) == len(post.words)
        assert len(tagged.images) == len(post.images)
        assert set(tagged.tags) <= set(TagSet().tags)


def test_batch_size_and_company_change_nothing(tagger):
    some = posts(20, 3, clue=True)
    images = table(some, 3)
    wanted = tagger.tag(some, images, batch_size=20)
    for size in (1, 3):
        for got, want in zip(tagger.tag(some, images, batch_size=size), wanted, strict=True):
            assert got.tags == want.tags
            for one, other in zip(got.images, want.images, strict=True):
                assert one == pytest.approx(other, abs=1e-5)


def test_tagging_does_not_look_at_gold_tags(tagger):
    some = posts(10, 3, clue=True)
    bare = [dataclasses.replace(post, tags=None) for post in some]
    images = table(some, 3)
    assert tagger.tag(bare, images) == tagger.tag(some, images)


def test_tagging_leaves_the_mode_as_it_was(tagger):
    some = posts(2, 3, clue=True)
    for mode in (True, False):
        tagger.train(mode)
        tagger.tag(some)
        assert tagger.training is mode


def test_posts_can_be_tagged_without_looking_at_images(tagger):
    some = posts(5, 3, clue=True)
    for post, tagged in zip(some, tagger.tag(some), strict=True):
        assert tagged.images == (None,) * len(post.images)


def test_images_of_other_posts_are_refused(tagger):
    some = posts(5, 3, clue=True)
    with pytest.raises(DataError, match="got 5 posts and the images of 4 posts"):
        tagger.tag(some, table(some[:4], 3))


def test_images_without_a_column_are_refused(folder):
    tagger = Tagger.build(encoder(folder), IqcrConfig(), TagSet(), column_sizes=SIZES, seed=1)
    some = posts(5, 3, clue=True)
    full = table(some, 3)
    bare = VisionTable(full.image_rows, full.image_columns, {})
    with pytest.raises(DataError, match="relevance"):
        tagger.tag(some, bare)


def test_an_unusable_image_has_no_values_and_the_others_keep_their_places(folder):
    tagger = Tagger.build(encoder(folder), IqcrConfig(), TagSet(), column_sizes=SIZES, seed=1)
    some = [Post(id="1", words=("the", "zorba"), tags=("O", "B-PER"), images=("a", "b", "c"))]
    full = table(some, 3)
    rows = full.image_rows.clone()
    rows[0, 0] = rows[0, 2] = -1
    broken = VisionTable(rows, full.image_columns, full.pair_columns)
    (tagged,) = tagger.tag(some, broken)
    assert tagged.images[0] is None
    assert tagged.images[2] is None
    assert tagged.images[1]["quality"] == pytest.approx(0.2)
    assert tagged.images[1]["weight"] == 1.0  # the only one left


def test_a_record_is_plain_json_that_names_spans_and_images(folder):
    tagger = Tagger.build(encoder(folder), IqcrConfig(), TagSet(), column_sizes=SIZES, seed=1)
    some = [Post(id="p", words=("zorba", "and", "miklo"), images=("a.jpg", "b.jpg"))]
    labelled = [dataclasses.replace(some[0], tags=("B-PER", "O", "O"))]
    (tagged,) = tagger.tag(some, table(labelled, 3))
    tagged = dataclasses.replace(tagged, tags=("I-LOC", "I-LOC", "B-PER"))
    record = json.loads(json.dumps(tagged.record(some[0])))
    assert record["entities"] == [
        {"type": "LOC", "start": 0, "end": 2, "text": "zorba and"},
        {"type": "PER", "start": 2, "end": 3, "text": "miklo"},
    ]
    assert record["images"] == ["a.jpg", "b.jpg"]
    assert set(record["image_values"][0]) >= {"weight", "gate", "quality", "relevance"}


def test_gold_ids_follow_the_contract_of_heads():
    labelled = Post(id="1", words=("a", "b", "c"), tags=("B-PER", "I-PER", "B-LOC"))
    assert gold_ids([labelled], TagSet()) == [[1, 2, 3]]
    assert pad_ids([[1, 2, 3], [0]]).tolist() == [[1, 2, 3], [0, IGNORED, IGNORED]]


def test_unlabelled_posts_are_named():
    with pytest.raises(DataError, match="2 posts have no tags") as caught:
        gold_ids([Post(id=x, words=("a",)) for x in ("one", "two")], TagSet())
    assert caught.value.faults == ("one", "two")
