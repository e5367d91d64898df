"""Scores of all pairs of spans and words, without ever holding a vector for each pair.

Texts and images meet in the same way where relevance is learned.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Numbers held at once, by device: what fits a core's cache, and half a gigabyte."""

Piece = tuple[slice, slice, slice]
"""Posts, spans and words that are looked at together."""


class _PairScores(torch.autograd.Function):
    """w · ReLU(a_i + b_j); the backward pass computes the hidden units anew, piece by piece."""

    @staticmethod
    def forward(
        ctx: Any, spans: Tensor, words: Tensor, weight: Tensor, pieces: list[Piece]
    ) -> Tensor:
        ctx.save_for_backward(spans, words, weight)
        ctx.pieces = pieces
        scores = spans.new_zeros(*spans.shape[:2], words.shape[1])
        for posts, some, real in pieces:
            hidden = _hidden(spans, words, posts, some, real)
            scores[posts, some, real] = hidden @ weight
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        spans, words, weight = ctx.saved_tensors
        (gradient,) = gradients
        to_spans, to_words = torch.zeros_like(spans), torch.zeros_like(words)
        to_weight = torch.zeros_like(weight)
        for posts, some, real in ctx.pieces:
            hidden = _hidden(spans, words, posts, some, real)
            piece = gradient[posts, some, real]  # (posts, spans, words)
            to_weight += piece.reshape(-1) @ hidden.flatten(0, 2)
            to_hidden = hidden.gt_(0).mul_(piece.unsqueeze(3))  # but for the weight
            to_spans[posts, some] = to_hidden.sum(dim=2) * weight
            to_words[posts, real] += to_hidden.sum(dim=1) * weight
        return to_spans, to_words, to_weight, None


def pair_scores(
    spans: Float[Tensor, "batch spans d"],
    words: Float[Tensor, "batch words d"],
    weight: Float[Tensor, " d"],
    span_mask: Bool[Tensor, "batch spans"],
    word_mask: Bool[Tensor, "batch words"],
) -> Float[Tensor, "batch spans words"]:
    """Scores w · ReLU(span_i + word_j) for each span and word of a post.

    A vector for each pair would be the largest tensor of the head by far; made a piece at a time it
    stays in the cache, and training does not have to keep it.

    Args:
        spans: A vector each.
        words: Likewise.
        weight: w.
        span_mask: True on real spans; they come first.
        word_mask: Likewise of words. Where one of both is padding, the score may be anything.
    """
    if spans.dtype != words.dtype or spans.dtype != weight.dtype:  # under autocast
        words, weight = words.to(spans.dtype), weight.to(spans.dtype)
    if spans.device.type == "cpu":
        lengths = zip(span_mask.sum(dim=1).tolist(), word_mask.sum(dim=1).tolist(), strict=True)
        pieces = [
            piece
            for post, sizes in enumerate(lengths)
            for piece in _of_post(post, *sizes, spans.shape[2])
        ]
    else:
        pieces = list(_of_all(spans, words))
    scores: Tensor = _PairScores.apply(spans, words, weight, pieces)
    return scores


def _of_post(post: int, n_spans: int, n_words: int, size: int) -> Iterator[Piece]:
    """The real pairs of a post: on a processor padding would cost as much."""
    some = max(1, AT_ONCE["cpu"] // (n_words * size))
    for span in range(0, n_spans, some):
        last = min(span + some, n_spans)
        yield slice(post, post + 1), slice(span, last), slice(n_words)


def _of_all(spans: Tensor, words: Tensor) -> Iterator[Piece]:
    """All pairs, of as many posts as there is room for: a GPU need not say how many are real."""
    batch, n_spans, size = spans.shape
    room = AT_ONCE["cuda"] // (words.shape[1] * size)
    some, posts = max(1, min(room, n_spans)), max(1, min(room // n_spans, batch))
    for post in range(0, batch, posts):
        for span in range(0, n_spans, some):
            yield slice(post, post + posts), slice(span, span + some), slice(None)


def _hidden(spans: Tensor, words: Tensor, posts: slice, some: slice, real: slice) -> Tensor:
    """(posts, spans, words, d)."""
    return (spans[posts, some].unsqueeze(2) + words[posts, real].unsqueeze(1)).relu_()
