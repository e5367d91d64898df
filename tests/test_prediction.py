import dataclasses
import json

import pytest
import torch

from mnerfeat.datasets import TagSet, read_posts
from mnerfeat.datasets.raw_text import post_of_text
from mnerfeat.datasets.tags import Entity
from mnerfeat.errors import DataError, StorageError
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.prediction import (
    Prediction,
    evaluate_predictions,
    predict,
    read_predictions,
    write_predictions,
)
from mnerfeat.tagger import Tagged, Tagger

from .tiny import encoder, encoder_folder, posts, table

SIZES = {"vit_cls": 6, "quality": 1, "relevance": 1}


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    folder = encoder_folder(tmp_path_factory.mktemp("encoder"))
    built = Tagger.build(encoder(folder), IqcrConfig(), TagSet(), column_sizes=SIZES, seed=1)
    with torch.no_grad():
        built.head.emissions.weight.mul_(10)  # fresh weights would find no entity at all
    return built


@pytest.fixture
def predictions(tagger):
    some = posts(12, 3, clue=True)
    found = tagger.tag(some, table(some, 3))
    bare = [dataclasses.replace(post, tags=None) for post in some]
    return [Prediction(post=post, tagged=tagged) for post, tagged in zip(bare, found, strict=True)]


def test_predictions_survive_writing_and_reading(predictions, tmp_path):
    assert any(one.entities for one in predictions)
    assert any(value for one in predictions for value in one.images.values())
    write_predictions(predictions, tmp_path / "out.jsonl")
    assert read_predictions(tmp_path / "out.jsonl") == predictions


def test_what_is_written_can_be_read_as_posts_with_the_predicted_tags(predictions, tmp_path):
    write_predictions(predictions, tmp_path / "out.jsonl")
    again = read_posts(tmp_path / "out.jsonl")
    assert [post.tags for post in again] == [one.tagged.tags for one in predictions]
    assert [post.images for post in again] == [one.post.images for one in predictions]


def test_entities_and_images_are_read_off_the_tags_and_names(predictions):
    one = dataclasses.replace(
        predictions[0],
        post=dataclasses.replace(predictions[0].post, words=("a", "b", "c"), images=("x.jpg",)),
        tagged=dataclasses.replace(
            predictions[0].tagged, tags=("O", "B-PER", "I-PER"), images=({"gate": 0.5},)
        ),
    )
    assert one.entities == [Entity(1, 3, "PER")]
    assert one.images == {"x.jpg": {"gate": 0.5}}


def test_posts_without_a_cache_are_predicted_by_their_text(tagger):
    some = posts(5, 3, clue=True)
    found = predict(tagger, some)
    assert [one.tagged for one in found] == tagger.tag(some)
    assert all(value is None for one in found for value in one.images.values())


def test_another_systems_labels_are_enough(tmp_path):
    path = tmp_path / "llm.jsonl"
    path.write_text(json.dumps({"text": ["New", "York"], "label": ["B-LOC", "I-LOC"]}) + "\n")
    (one,) = read_predictions(path)
    assert one.entities == [Entity(0, 2, "LOC")]
    assert one.images == {}


def test_lines_without_labels_are_named(tmp_path):
    path = tmp_path / "posts.jsonl"
    path.write_text('{"id": "7", "text": ["New", "York"]}\n')
    with pytest.raises(DataError, match="1 posts have no 'label'") as caught:
        read_predictions(path)
    assert caught.value.faults == ("7",)


def test_a_folder_that_is_not_there_is_an_error_and_nothing_is_left(predictions, tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        write_predictions(predictions, tmp_path / "no" / "out.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", ['[{"gate": 1}, null]', '"x"', "[3]"])
def test_image_values_that_do_not_fit_the_images_are_refused(tmp_path, values):
    path = tmp_path / "posts.jsonl"
    path.write_text(
        f'{{"id": "7", "text": ["a"], "label": ["O"], "images": ["x"], "image_values": {values}}}\n'
    )
    with pytest.raises(DataError, match="image_values") as caught:
        read_predictions(path)
    assert caught.value.faults[0].startswith("7:")


def test_a_post_without_words_is_predicted_beside_others(tagger):
    some = posts(5, 3, clue=True)
    bare = dataclasses.replace(some[2], words=(), tags=None)
    found = predict(tagger, [*some[:2], bare, *some[3:]])
    assert found[2].tagged.tags == ()
    assert found[2].entities == []
    assert list(found[2].images.values()) == [None] * len(bare.images)
    wanted = predict(tagger, [*some[:2], *some[3:]])
    assert [one.tagged for one in (*found[:2], *found[3:])] == [one.tagged for one in wanted]
    assert [one.tagged.tags for one in predict(tagger, [bare])] == [()]


def test_predictions_in_conll_are_scored(tmp_path):
    (tmp_path / "test.txt").write_text("IMGID:1\nBob\tB-PER\nwins\tO\n\nIMGID:2\nRio\tB-LOC\n")
    path = tmp_path / "mine.conll"
    path.write_text("IMGID:1\nBob\tB-PER\nwins\tO\n\nIMGID:2\nRio\tB-ORG\n")
    assert [one.entities for one in read_predictions(path)] == [
        [Entity(0, 1, "PER")],
        [Entity(0, 1, "ORG")],
    ]
    assert evaluate_predictions(path, tmp_path, "test").scores.strict.overall.f1 == 0.5


def test_iob1_gold_says_why_strict_precision_is_low(tmp_path, caplog):
    text = "IMGID:1\nBob\tI-PER\nwins\tO\n\nIMGID:2\nRio\tI-LOC\n"
    (tmp_path / "test.txt").write_text(text)
    (tmp_path / "mine.txt").write_text(text.replace("I-", "B-"))
    found = evaluate_predictions(tmp_path / "mine.txt", tmp_path, "test").scores
    assert (found.lenient.overall.f1, found.strict.overall.precision) == (1, 0)
    assert "The gold tags are IOB1" in caplog.text
    assert "strict precision is low" in caplog.text


def test_words_and_entities_stand_where_the_users_text_has_them():
    text = "\ud83d\ude00 at&amp;t of the U.S.  wins \ud83d"
    post = post_of_text(text, id="1")
    tags = ["O"] * len(post.words)
    tags[1:6] = ["B-ORG", *["I-ORG"] * 4]
    tags[-6:-2] = ["B-LOC", "I-LOC", "I-LOC", "I-LOC"]
    record = json.loads(json.dumps(Tagged(tags=tuple(tags), images=()).record(post)))
    assert [one["text"] for one in record["entities"]] == ["at&amp;t", "U.S."]
    for one in record["entities"]:
        assert text[one["char_start"] : one["char_end"]] == one["text"]
    assert [text[start:end] for start, end in record["offsets"]][1:-1] == list(post.words)[1:-1]
    words = dataclasses.replace(post, raw=None, offsets=None)
    record = Tagged(tags=tuple(tags), images=()).record(words)
    assert [one["text"] for one in record["entities"]] == ["at & amp ; t", "U . S ."]
    assert "offsets" not in record
