"""Spans as boundaries, as signals, and as multisets."""

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.datasets.tags import TagSet, entities
from mnerfeat.heads.base import IGNORED
from mnerfeat.heads.dpe.diffusion import to_signal, to_words
from mnerfeat.heads.dpe.entities import gold_entities
from mnerfeat.heads.dpe.packing import Spans


def spans_of(words: int):
    bounds = st.tuples(st.integers(0, words - 1), st.integers(0, words - 1))
    return st.lists(bounds.map(sorted), min_size=1, max_size=20)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), spans_of(n))))
def test_every_span_survives_as_a_signal(case):
    words, spans = case
    left, right = (torch.tensor([[span[side] for span in spans]]) for side in (0, 1))
    length = torch.tensor([words - 1])
    for scale in (0.5, 1.0, 2.0):
        signal = to_signal(left, right, length, scale=scale)
        assert signal.abs().max() <= scale
        back = to_words(signal, length, scale=scale)
        assert torch.equal(back[0], left)
        assert torch.equal(back[1], right)


@given(st.integers(1, 60), st.integers(0, 2**31))
def test_any_noise_becomes_spans_inside_the_post(words, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = 3 * torch.randn(2, 30, 2, generator=generator)
    left, right = to_words(noise, torch.tensor([words - 1, 0]), scale=1.0)
    assert ((left >= 0) & (left <= right)).all()
    assert (right[0] < words).all()
    assert (right[1] == 0).all()


def test_a_signal_is_left_and_width_as_shares_of_the_last_word():
    signal = to_signal(
        torch.tensor([[0, 2, 3]]), torch.tensor([[4, 3, 1]]), torch.tensor([4]), scale=1.0
    )
    # The last pair is no span; its width counts as 0.
    assert signal.tolist() == [[[-1, 1], [0, -0.5], [0.5, -1]]]


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), spans_of(n), spans_of(n))))
def test_different_spans_are_counted_and_found_again(case):
    words, first, second = case
    many = max(len(first), len(second))
    posts = [(post * many)[:many] for post in (first, second)]
    left, right = (
        torch.tensor([[span[side] for span in post] for post in posts]) for side in (0, 1)
    )
    spans = Spans.distinct(left, right)
    inside = spans.covers(words)
    states = torch.randn(2, words, 3)
    means = spans.mean(states)
    for number, post in enumerate(posts):
        counts = Counter(map(tuple, post))
        there = spans.count[number] > 0
        found = zip(spans.left[number].tolist(), spans.right[number].tolist(), strict=True)
        assert {
            span: int(n)
            for span, n, real in zip(found, spans.count[number], there, strict=True)
            if real
        } == counts
        for noisy, (begin, end) in enumerate(post):
            place = spans.index[number, noisy]
            assert [int(spans.left[number, place]), int(spans.right[number, place])] == [begin, end]
            assert inside[number, place].tolist() == [begin <= w <= end for w in range(words)]
            wanted = torch.stack([states[number, w] for w in range(begin, end + 1)]).mean(0)
            torch.testing.assert_close(means[number, place], wanted, rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12), st.integers(0, 3))
def test_gold_entities_are_those_of_the_lenient_convention(ids, padding):
    tag_set = TagSet()
    wanted = entities(tag_set.decode(ids))
    found = gold_entities([*ids, *[IGNORED] * padding])
    assert [(one.start, one.end - 1, sorted(tag_set.types).index(one.type)) for one in wanted] == [
        (first, last, sorted(tag_set.types).index(tag_set.types[kind]))
        for first, last, kind in found
    ]
