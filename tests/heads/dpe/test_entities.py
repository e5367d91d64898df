"""From span representations to entities."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.heads.base import IGNORED, Candidates
from mnerfeat.heads.dpe.entities import (
    NEVER,
    BoundaryPointer,
    Decoded,
    Scores,
    above,
    best_threshold,
    gold_entities,
)
from mnerfeat.heads.dpe.packing import Packed, Spans

MASK = torch.ones(1, 9, dtype=torch.bool)


def everything(batch: int, spans: int) -> Spans:
    zero = torch.zeros(batch, spans, dtype=torch.long)
    return Spans(left=zero, right=zero, count=torch.ones(batch, spans), index=zero)


def decoded_spans(*rows: tuple[int, int, int, float]) -> Decoded:
    left, right, kind, score = zip(*rows, strict=True)
    return Decoded(
        left=torch.tensor([left]),
        right=torch.tensor([right]),
        kind=torch.tensor([kind]),
        score=torch.tensor([score]),
    )


def chosen(*rows: tuple[int, int, int, float], threshold: float = 2.5):
    candidates = decoded_spans(*rows).candidates(everything(1, len(rows)), MASK)
    return gold_entities(above(candidates, threshold)[0].tolist())


def test_nested_and_overlapping_candidates_leave_the_surest():
    assert chosen((0, 5, 1, 2.7), (1, 2, 2, 2.9), (5, 7, 1, 2.8), (8, 8, 2, 2.6)) == [
        (1, 2, 1),
        (5, 7, 0),
        (8, 8, 1),
    ]


def test_candidates_that_are_none_are_left_out():
    assert chosen((0, 1, 0, 2.9), (3, 2, 1, 2.9), (4, 4, 1, 2.5), (5, 5, 1, 2.51)) == [(5, 5, 0)]


def test_padding_is_no_candidate():
    spans = everything(1, 2)
    spans.count[0, 1] = 0
    some = decoded_spans((0, 0, 1, 2.6), (1, 1, 1, 2.9))
    assert above(some.candidates(spans, MASK), 2.5).tolist() == [[1, *[0] * 8]]


EIGHTHS = st.integers(0, 24).map(lambda n: n / 8)
WORDS = st.integers(0, 7)
ROWS = st.lists(st.tuples(WORDS, WORDS, st.integers(0, 2), EIGHTHS), min_size=1, max_size=9)


@given(ROWS, EIGHTHS)
def test_decoding_is_greedy_by_score_among_the_spans_above_the_threshold(rows, threshold):
    left = [row for row in rows if row[0] <= row[1] and row[2] and row[3] > threshold]
    wanted = []
    while left:
        best = min(left, key=lambda row: (-row[3], *row[:3]))
        wanted.append((best[0], best[1], best[2] - 1))
        left = [row for row in left if row[1] < best[0] or row[0] > best[1]]
    assert chosen(*rows, threshold=threshold) == sorted(wanted)


def test_entities_become_tags_with_their_scores_and_padding_is_ignored():
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    rows = decoded_spans((0, 1, 2, 2.0), (2, 2, 1, 1.0), (4, 4, 2, 0.5), (4, 4, 0, 3.0))
    both = Decoded(**{name: value.repeat(2, 1) for name, value in vars(rows).items()})
    spans = everything(2, 4)
    spans.count[1] = 0
    found = both.candidates(spans, mask)
    assert found.tags.tolist() == [[3, 4, 1, 0, 3], [0, 0, *[IGNORED] * 3]]
    assert found.scores.tolist() == [[2.0, 2.0, 1.0, 0.0, 0.5], [0.0] * 5]
    assert above(found, 0.9).tolist() == [[3, 4, 1, 0, 0], [0, 0, *[IGNORED] * 3]]


def f1(gold, tags):
    wanted, found = (
        {(post, *entity) for post, row in enumerate(rows.tolist()) for entity in gold_entities(row)}
        for rows in (gold, tags)
    )
    return 2 * len(wanted & found) / max(1, len(wanted) + len(found))


@given(st.lists(ROWS, min_size=1, max_size=4), st.data())
def test_the_best_threshold_has_the_highest_f1_of_all(posts, data):
    posts = [[(*row[:3], max(row[3], 0.125)) for row in rows] for rows in posts]
    found = [decoded_spans(*rows).candidates(everything(1, len(rows)), MASK) for rows in posts]
    candidates = Candidates(
        tags=torch.cat([one.tags for one in found]), scores=torch.cat([one.scores for one in found])
    )
    # Gold that agrees with some candidates: a threshold matters only if some are correct.
    gold = candidates.tags.clone()
    for post in range(len(posts)):
        if data.draw(st.booleans()):
            gold[post, data.draw(WORDS)] = data.draw(st.integers(0, 4))
    threshold = best_threshold(gold, candidates)
    best = max(f1(gold, above(candidates, n / 8 - 0.01)) for n in range(25))
    if threshold is None:
        assert best == 0
    else:
        assert f1(gold, above(candidates, threshold)) == best


def test_the_best_threshold_lies_between_what_is_kept_and_what_is_not():
    rows = decoded_spans((0, 0, 1, 2.5), (2, 2, 1, 2.0), (4, 4, 1, 1.0), (6, 6, 1, 0.5))
    candidates = rows.candidates(everything(1, 4), MASK)
    assert best_threshold(torch.tensor([[1, 0, 1, 0, 0, 0, 0, 0, 0]]), candidates) == 1.5
    assert best_threshold(torch.tensor([[0, 0, 0, 0, 0, 0, 1, 0, 0]]), candidates) == 0.25
    assert best_threshold(torch.tensor([[0, 1, 0, 0, 0, 0, 0, 0, 0]]), candidates) is None


def test_a_candidate_is_the_likeliest_of_each():
    scores = Scores(
        left=torch.tensor([[[0.0, 2.0, NEVER]]]),
        right=torch.tensor([[[1.0, 3.0, NEVER]]]),
        kind=torch.tensor([[[0.0, 1.0, 4.0]]]),
    )
    found = Decoded.of(scores)
    assert [int(x) for x in (found.left, found.right, found.kind)] == [1, 1, 2]
    wanted = (
        torch.tensor(2.0).sigmoid()
        + torch.tensor(3.0).sigmoid()
        + torch.tensor([0.0, 1.0, 4.0]).softmax(0)[2]
    )
    torch.testing.assert_close(found.score[0, 0], wanted)


@pytest.mark.parametrize("activation", ["square", "relu"])
def test_the_pointer_is_its_equation_for_each_span_and_word(activation):
    torch.manual_seed(0)
    pointer = BoundaryPointer(6, activation)
    spans, words = torch.randn(2, 3, 6), torch.randn(2, 4, 6)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    got = pointer(Packed.full(spans), pointer.word(words), mask)
    for post in range(2):
        for span in range(3):
            for word in range(4):
                if not mask[post, word]:
                    assert got[post, span, word].sigmoid() == 0
                    continue
                hidden = pointer.span(spans[post, span]) + pointer.word(words[post, word])
                hidden = hidden**2 if activation == "square" else hidden.clamp(min=0)
                wanted = pointer.score(hidden)[0]
                torch.testing.assert_close(got[post, span, word], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["square", "relu"])
def test_different_spans_can_point_to_different_words(activation):
    """Without an activation one word would be the best of every span."""
    torch.manual_seed(0)
    pointer = BoundaryPointer(16, activation)
    spans, words = 3 * torch.randn(1, 40, 16), torch.randn(1, 9, 16)
    mask = torch.ones(1, 9, dtype=torch.bool)
    best = pointer(Packed.full(spans), pointer.word(words), mask).argmax(2)
    assert len(best.unique()) > 2
