"""Matching against brute force, and the loss against each noisy span taken by itself."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from mnerfeat.heads.dpe.entities import (
    NEVER,
    LossOptions,
    Scores,
    find_targets,
    match,
    matching_loss,
    repetitions,
)
from mnerfeat.heads.dpe.packing import Spans

WEIGHTS = LossOptions(boundary=2.0, kind=3.0, nil=0.4)


@given(st.integers(0, 6), st.integers(1, 20))
def test_entities_are_repeated_until_they_fill_the_noisy_spans(entities, spans):
    times = repetitions(entities, spans)
    assert len(times) == entities
    assert sum(times) == max(spans, entities) * (entities > 0)
    assert max(times, default=0) - min(times, default=0) <= 1
    assert times == sorted(times, reverse=True)


@given(st.data())
def test_matching_is_the_cheapest_of_all(data):
    supply = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    demand = data.draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))
    cost = np.array(
        data.draw(
            st.lists(
                st.lists(st.integers(-9, 9), min_size=len(demand), max_size=len(demand)),
                min_size=len(supply),
                max_size=len(supply),
            )
        ),
        float,
    )
    plan = match(cost, np.array(supply), np.array(demand))
    rows = [row for row, times in enumerate(supply) for _ in range(times)]
    columns = [column for column, times in enumerate(demand) for _ in range(times)]
    pairs = min(len(rows), len(columns))
    if len(rows) <= len(columns):
        best = min(
            (sum(cost[r, c] for r, c in zip(rows, some, strict=True))
             for some in permutations(columns, pairs)),
            default=0,
        )  # fmt: skip
    else:
        best = min(
            sum(cost[r, c] for r, c in zip(some, columns, strict=True))
            for some in permutations(rows, pairs)
        )
    assert plan.sum() == pairs
    assert (plan * cost).sum() == best
    assert (plan.sum(1) <= supply).all()
    assert (plan.sum(0) <= demand).all()


def random_case(seed: int, spans: int, lengths: list[int]):
    generator = torch.Generator().manual_seed(seed)
    words, kinds = max(lengths), 3
    last = torch.tensor(lengths) - 1
    bounds = torch.rand(2, len(lengths), spans, generator=generator) * lengths_of(lengths)
    left, right = bounds.long().sort(dim=0).values
    found = Spans.distinct(left, right.minimum(last.unsqueeze(1)))
    shape = (len(lengths), found.left.shape[1])
    outside = torch.arange(words) > last.view(-1, 1, 1)
    scores = Scores(
        left=torch.randn(*shape, words, generator=generator).masked_fill(outside, NEVER),
        right=torch.randn(*shape, words, generator=generator).masked_fill(outside, NEVER),
        kind=torch.randn(*shape, kinds, generator=generator),
    )
    return found, scores


def lengths_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor(lengths).view(1, -1, 1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("seed", range(6))
def test_the_loss_is_that_of_every_noisy_span_by_itself(seed, reduction):
    noisy, lengths = 9, [5, 3, 1, 4]
    gold = [[(0, 1, 0), (3, 4, 1)], [], [(0, 0, 1)], [(0, 3, 0), (1, 1, 1), (2, 3, 0), (0, 0, 0)]]
    spans, scores = random_case(seed, noisy, lengths)
    targets = find_targets(scores, spans, gold, WEIGHTS)
    loss = matching_loss(scores, targets, replace(WEIGHTS, reduction=reduction))
    for post, entities in enumerate(gold):
        place = spans.index[post]
        left, right = (x[post, place, : lengths[post]] for x in (scores.left, scores.right))
        kind = scores.kind[post, place]
        repeated = [e for e, n in zip(entities, repetitions(len(entities), noisy), strict=True)
                    for _ in range(n)]  # fmt: skip
        wanted_kind = torch.zeros(noisy, dtype=torch.long)
        boundary = torch.zeros(())
        if repeated:
            cost = np.array(
                [
                    [
                        -WEIGHTS.boundary
                        * float(left[span, first].sigmoid() + right[span, last].sigmoid())
                        - WEIGHTS.kind * float(kind[span].softmax(0)[number + 1])
                        for first, last, number in repeated
                    ]
                    for span in range(noisy)
                ]
            )
            for span, entity in zip(*linear_sum_assignment(cost), strict=True):
                first, last, number = repeated[entity]
                wanted_kind[span] = number + 1
                for logits, hit in ((left[span], first), (right[span], last)):
                    target = torch.zeros_like(logits)
                    target[hit] = 1
                    term = binary_cross_entropy_with_logits(logits, target, reduction="sum")
                    boundary = boundary + (term / noisy if reduction == "mean" else term)
        weight = torch.tensor([WEIGHTS.nil, 1.0, 1.0])
        types = cross_entropy(kind, wanted_kind, weight, reduction="none")
        types = types.mean() if reduction == "mean" else types.sum()
        wanted = WEIGHTS.boundary * boundary + WEIGHTS.kind * types
        torch.testing.assert_close(loss[post], wanted, rtol=1e-4, atol=1e-4)


def test_more_entities_than_spans_leave_some_unmatched():
    spans, scores = random_case(0, 2, [6])
    gold = [[(word, word, 0) for word in range(5)]]
    targets = find_targets(scores, spans, gold, WEIGHTS)
    assert float(targets.kind[..., 1:].sum()) == 2
    assert float(targets.kind.sum()) == 2
    assert float(targets.left.sum()) == float(targets.right.sum()) == 2


def test_a_post_without_entities_wants_nothing_but_nil():
    spans, scores = random_case(1, 8, [4])
    targets = find_targets(scores, spans, [[]], WEIGHTS)
    assert torch.equal(targets.kind[..., 0], spans.count)
    assert not targets.kind[..., 1:].any()
    assert not targets.left.any()
    assert not targets.right.any()
