import json
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2

from mnerfeat.datasets import Post, read_split
from mnerfeat.datasets.tags import TYPES, Entity, tags_of
from mnerfeat.errors import DataError
from mnerfeat.evaluation import (
    ConventionScores,
    Score,
    Scores,
    gold_tags,
    mean_sd,
    mistakes,
    render,
    score,
    score_by_images,
)

TAGS = ["O", *(f"{tag}-{kind}" for kind in ("PER", "LOC", "event-x") for tag in "BI")]

Tags = list[list[str]]


@st.composite
def pairs(draw: st.DrawFn, at_least: int = 1) -> tuple[Tags, Tags]:
    """Gold and predicted tags of the same posts, the predicted ones half right."""
    gold, predicted = [], []
    for size in draw(st.lists(st.integers(1, 8), min_size=at_least, max_size=5)):
        wanted = [draw(st.sampled_from(TAGS)) for _ in range(size)]
        got = [tag if draw(st.booleans()) else draw(st.sampled_from(TAGS)) for tag in wanted]
        gold.append(wanted)
        predicted.append(got)
    return gold, predicted


def parts(scores: ConventionScores) -> list[Score]:
    return [scores.overall, scores.spans, *scores.types.values()]


@given(pairs())
def test_figures_are_those_of_seqeval(case: tuple[Tags, Tags]) -> None:
    gold, predicted = case
    scores = score(gold, predicted)
    for found, options in (
        (scores.lenient, {"zero_division": 0}),
        (scores.strict, {"zero_division": 0, "mode": "strict", "scheme": IOB2}),
    ):
        overall = found.overall
        assert overall.precision == pytest.approx(precision_score(gold, predicted, **options))
        assert overall.recall == pytest.approx(recall_score(gold, predicted, **options))
        assert overall.f1 == pytest.approx(f1_score(gold, predicted, **options))
        if not found.types:  # seqeval's report cannot be empty
            continue
        table = classification_report(gold, predicted, output_dict=True, **options)
        types = {kind: row for kind, row in table.items() if not kind.endswith("avg")}
        assert set(found.types) == set(types)
        for kind, row in types.items():
            one = found.types[kind]
            assert (one.precision, one.recall, one.f1, one.gold) == pytest.approx(
                (row["precision"], row["recall"], row["f1-score"], row["support"])
            )


@given(pairs())
def test_figures_follow_from_the_counts(case: tuple[Tags, Tags]) -> None:
    scores = score(*case)
    for convention in (scores.lenient, scores.strict):
        for one in parts(convention):
            precision = one.correct / one.predicted if one.predicted else 0.0
            recall = one.correct / one.gold if one.gold else 0.0
            both = precision + recall
            f1 = 2 * precision * recall / both if both else 0.0
            assert (one.precision, one.recall, one.f1) == pytest.approx((precision, recall, f1))
        types = convention.types.values()
        for count in ("gold", "predicted", "correct"):
            assert sum(getattr(s, count) for s in types) == getattr(convention.overall, count)
        assert convention.spans.gold == convention.overall.gold
        assert convention.spans.correct >= convention.overall.correct


@given(pairs(at_least=0))
def test_scores_survive_json(case: tuple[Tags, Tags]) -> None:
    scores = score(*case)
    assert Scores.from_json(json.loads(json.dumps(scores.as_json()))) == scores


def untouched(ones: Tags, others: Tags) -> int:
    """Entities of which no word is in an entity of the others, counted word by word."""
    count = 0
    for tags, other in zip(ones, others, strict=True):
        spans = [range(start, end + 1) for _, start, end in get_entities(tags)]
        count += sum(all(other[word] == "O" for word in span) for span in spans)
    return count


@given(pairs(at_least=0))
def test_every_entity_is_one_mistake_or_none(case: tuple[Tags, Tags]) -> None:
    gold, predicted = case
    found, lenient = mistakes(gold, predicted), score(gold, predicted).lenient
    assert found.correct == lenient.overall.correct
    assert found.correct + found.wrong_type == lenient.spans.correct
    assert (
        found.correct + found.wrong_type + found.wrong_span + found.spurious
        == lenient.overall.predicted
    )
    assert found.missed == untouched(gold, predicted)
    assert found.spurious == untouched(predicted, gold)
    assert sum(sum(row.values()) for row in found.confusions.values()) == found.wrong_type


def test_mistakes_are_told_apart() -> None:
    gold = tags_of(
        [Entity(0, 2, "PER"), Entity(3, 4, "LOC"), Entity(5, 7, "ORG"), Entity(9, 10, "MISC")], 12
    )
    got = tags_of(
        [Entity(0, 2, "PER"), Entity(3, 4, "ORG"), Entity(6, 8, "ORG"), Entity(11, 12, "LOC")], 12
    )
    found = mistakes([gold], [got])
    assert (found.correct, found.wrong_type, found.wrong_span, found.spurious, found.missed) == (
        1,
        1,
        1,
        1,
        1,
    )
    assert found.confusions == {"LOC": {"ORG": 1}}


def test_conventions_differ_on_orphans() -> None:
    scores = score([["I-PER", "O", "B-LOC"]], [["B-PER", "O", "B-LOC"]])
    assert (scores.lenient.convention, scores.strict.convention) == ("lenient", "strict")
    assert (scores.lenient.overall.gold, scores.strict.overall.gold) == (2, 1)
    assert scores.lenient.overall.f1 == 1.0
    assert scores.strict.overall.precision == 0.5
    assert (scores.posts, scores.words) == (1, 3)


@pytest.mark.parametrize("gold", [[], [["O", "O"]]])
def test_nothing_to_find_scores_nothing_and_warns_of_nothing(gold: Tags) -> None:
    scores = score(gold, gold)
    for convention in (scores.lenient, scores.strict):
        assert convention.types == {}
        assert convention.overall == convention.spans
        assert set(vars(convention.overall).values()) == {0}


def test_types_come_in_the_fields_order() -> None:
    gold = [["B-zoo", "B-MISC", "B-ORG", "B-LOC", "B-PER", "B-art"]]
    assert list(score(gold, gold).strict.types) == [*TYPES, "art", "zoo"]


def test_what_cannot_be_scored_is_listed_at_once() -> None:
    with pytest.raises(DataError) as caught:
        score([["O"], ["O", "O"], ["O"]], [["O", "O"], ["O", "B-MIS"], ["X"]])
    assert len(caught.value.faults) == 3
    assert "post 1: 2 predicted tags; the post has 1 words" in caught.value.faults
    with pytest.raises(DataError, match="1 posts were predicted; the gold has 2"):
        score([["O"], ["O"]], [["O"]])


def test_posts_are_scored_by_how_many_images_they_have() -> None:
    posts = [
        Post(id=str(n), words=("a",), tags=("B-PER",), images=("x",) * n) for n in (0, 1, 2, 5, 2)
    ]
    predicted = [["B-PER"], ["O"], ["B-PER"], ["O"], ["B-LOC"]]
    groups = score_by_images(posts, predicted)
    assert list(groups) == ["no image", "one image", "several images"]
    assert [group.posts for group in groups.values()] == [1, 1, 3]
    assert [group.strict.overall.correct for group in groups.values()] == [1, 0, 1]
    assert list(score_by_images(posts[1:2], predicted[1:2])) == ["one image"]


def test_unlabelled_posts_are_all_named() -> None:
    posts = [Post(id="1", words=("a",), tags=("O",)), *(Post(id=n, words=("a",)) for n in "23")]
    with pytest.raises(DataError, match="2 of 3 posts have no labels") as caught:
        gold_tags(posts)
    assert caught.value.faults == ("post 2", "post 3")


@given(st.lists(pairs().map(lambda case: case[1]), min_size=1, max_size=1), st.data())
def test_mean_and_sd_are_those_of_the_figures(golds: list[Tags], data: st.DataObject) -> None:
    (gold,) = golds
    runs = [
        score(gold, [[data.draw(st.sampled_from(TAGS)) for _ in post] for post in gold])
        for _ in range(data.draw(st.integers(2, 4)))
    ]
    spreads = mean_sd(runs)
    for name in ("lenient/f1", "strict/f1", "strict/spans/recall"):
        values = [run.figures()[name] for run in runs]
        assert spreads[name].mean == pytest.approx(statistics.mean(values))
        assert spreads[name].sd == pytest.approx(statistics.stdev(values))
        assert spreads[name].runs == len(runs)
    assert set(spreads) == {name for run in runs for name in run.figures()}


def test_a_type_that_a_run_lacks_counts_as_zero_there() -> None:
    gold = [["B-PER"]]
    runs = [score(gold, [["B-PER"]]), score(gold, [["B-LOC"]])]
    spreads = mean_sd(runs)
    assert spreads["strict/PER/f1"].mean == 0.5
    assert spreads["strict/LOC/f1"].mean == 0.0
    assert spreads["lenient/f1"].sd == pytest.approx(0.5**0.5)


def test_one_run_has_no_standard_deviation() -> None:
    assert mean_sd([score([["B-PER"]], [["B-PER"]])])["lenient/f1"].sd is None


def test_runs_over_different_posts_have_no_mean() -> None:
    runs = [score([["B-PER"]], [["O"]]), score([["B-LOC"]], [["O"]])]
    with pytest.raises(DataError, match="not scored on the same posts") as caught:
        mean_sd(runs)
    assert len(caught.value.faults) == 2
    with pytest.raises(DataError, match="no scores"):
        mean_sd([])


@pytest.mark.parametrize("value", [{}, {"posts": 1, "words": 2, "lenient": 3, "strict": 4}])
def test_what_is_no_scores_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(DataError, match="these are not scores"):
        Scores.from_json(value)


def test_the_text_names_both_conventions() -> None:
    text = render(score([["I-PER", "B-LOC"]], [["B-PER", "O"]]))
    assert "lenient (seqeval's default)" in text
    assert "strict IOB2" in text
    assert "100.00   50.00   66.67       2       1       1" in text


@pytest.mark.parametrize(
    ("name", "split", "strict", "lenient"),
    [("twitter2015", "test", 5072, 5207), ("twitter2017", "test", 1351, 1351)],
)
def test_real_gold_has_the_entities_of_each_convention(
    shared: Path, name: str, split: str, strict: int, lenient: int
) -> None:
    gold = gold_tags(read_split(shared / "data" / name, split).posts)
    scores = score(gold, gold)
    assert (scores.strict.overall.gold, scores.lenient.overall.gold) == (strict, lenient)
    assert scores.strict.overall.f1 == scores.lenient.overall.f1 == 1.0
