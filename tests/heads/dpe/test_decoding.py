"""From span representations to entities."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.heads.base import IGNORED
from mnerfeat.heads.dpe.decoding import (
    NOTHING,
    BoundaryPointer,
    Candidates,
    Scores,
    as_tags,
    decode,
)
from mnerfeat.heads.dpe.packed import Packed
from mnerfeat.heads.dpe.spans import Spans


def everything(batch: int, spans: int) -> Spans:
    zero = torch.zeros(batch, spans, dtype=torch.long)
    return Spans(left=zero, right=zero, count=torch.ones(batch, spans), place=zero)


def candidates(*rows: tuple[int, int, int, float]) -> Candidates:
    left, right, kind, score = zip(*rows, strict=True)
    return Candidates(
        left=torch.tensor([left]),
        right=torch.tensor([right]),
        kind=torch.tensor([kind]),
        score=torch.tensor([score]),
    )


def decoded(*rows: tuple[int, int, int, float], threshold: float = 2.5):
    return decode(candidates(*rows), everything(1, len(rows)), threshold=threshold)[0]


def test_nested_and_overlapping_candidates_leave_the_surest():
    assert decoded((0, 5, 1, 2.7), (1, 2, 2, 2.9), (5, 7, 1, 2.8), (8, 8, 2, 2.6)) == [
        (1, 2, 1),
        (5, 7, 0),
        (8, 8, 1),
    ]


def test_candidates_that_are_none_are_left_out():
    assert decoded((0, 1, 0, 2.9), (3, 2, 1, 2.9), (4, 4, 1, 2.5), (5, 5, 1, 2.51)) == [(5, 5, 0)]


def test_padding_is_no_candidate():
    spans = everything(1, 2)
    spans.count[0, 1] = 0
    some = candidates((0, 0, 1, 2.6), (1, 1, 1, 2.9))
    assert decode(some, spans, threshold=2.5) == [[(0, 0, 0)]]


EIGHTHS = st.integers(0, 24).map(lambda n: n / 8)
WORDS = st.integers(0, 7)
ROWS = st.lists(st.tuples(WORDS, WORDS, st.integers(0, 2), EIGHTHS), min_size=1, max_size=9)


@given(ROWS, EIGHTHS)
def test_decoding_is_greedy_by_score(rows, threshold):
    left = [row for row in rows if row[0] <= row[1] and row[2] and row[3] > threshold]
    chosen = []
    while left:
        best = min(left, key=lambda row: (-row[3], *row[:3]))
        chosen.append((best[0], best[1], best[2] - 1))
        left = [row for row in left if row[1] < best[0] or row[0] > best[1]]
    assert decoded(*rows, threshold=threshold) == sorted(chosen)


def test_entities_become_tags_and_padding_is_ignored():
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    tags = as_tags([[(0, 1, 1), (2, 2, 0), (4, 4, 1)], []], mask)
    assert tags.tolist() == [[3, 4, 1, 0, 3], [0, 0, *[IGNORED] * 3]]


def test_a_candidate_is_the_likeliest_of_each():
    scores = Scores(
        left=torch.tensor([[[0.0, 2.0, NOTHING]]]),
        right=torch.tensor([[[1.0, 3.0, NOTHING]]]),
        kind=torch.tensor([[[0.0, 1.0, 4.0]]]),
    )
    found = Candidates.of(scores)
    assert [int(x) for x in (found.left, found.right, found.kind)] == [1, 1, 2]
    wanted = (
        torch.tensor(2.0).sigmoid()
        + torch.tensor(3.0).sigmoid()
        + torch.tensor([0.0, 1.0, 4.0]).softmax(0)[2]
    )
    torch.testing.assert_close(found.score[0, 0], wanted)


def test_the_pointer_is_its_equation_for_each_span_and_word():
    torch.manual_seed(0)
    pointer = BoundaryPointer(6)
    spans, words = torch.randn(2, 3, 6), torch.randn(2, 4, 6)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    got = pointer(Packed.whole(spans), pointer.word(words), mask)
    for post in range(2):
        for span in range(3):
            for word in range(4):
                if not mask[post, word]:
                    assert got[post, span, word].sigmoid() == 0
                    continue
                hidden = pointer.span(spans[post, span]) + pointer.word(words[post, word])
                wanted = pointer.score(hidden.clamp(min=0))[0]
                torch.testing.assert_close(got[post, span, word], wanted, rtol=1e-4, atol=1e-5)


def test_different_spans_can_point_to_different_words():
    """Without the ReLU one word would be the best of every span."""
    torch.manual_seed(0)
    pointer = BoundaryPointer(16)
    spans, words = 3 * torch.randn(1, 40, 16), torch.randn(1, 9, 16)
    mask = torch.ones(1, 9, dtype=torch.bool)
    best = pointer(Packed.whole(spans), pointer.word(words), mask).argmax(2)
    assert len(best.unique()) > 2
