"""Scores of all pairs of spans and words, without ever holding a vector for each pair."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Numbers held at once, by device: what fits a core's cache, and half a gigabyte."""


class _PairScores(torch.autograd.Function):
    """w · ReLU(a_i + b_j); the backward pass computes the hidden units anew, piece by piece."""

    @staticmethod
    def forward(ctx: Any, spans: Tensor, words: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(spans, words, weight)
        scores = spans.new_empty(*spans.shape[:2], words.shape[1])
        for posts, some in _pieces(spans, words):
            hidden = _hidden(spans, words, posts, some)
            scores[posts, some] = hidden @ weight
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spans, words, weight = ctx.saved_tensors
        (gradient,) = gradients
        to_spans, to_words = torch.empty_like(spans), torch.zeros_like(words)
        to_weight = torch.zeros_like(weight)
        for posts, some in _pieces(spans, words):
            hidden = _hidden(spans, words, posts, some)
            piece = gradient[posts, some]  # (posts, spans, words)
            to_weight += piece.reshape(-1) @ hidden.flatten(0, 2)
            to_hidden = hidden.gt_(0).mul_(piece.unsqueeze(3))  # but for the weight
            to_spans[posts, some] = to_hidden.sum(dim=2) * weight
            to_words[posts] += to_hidden.sum(dim=1) * weight
        return to_spans, to_words, to_weight


def pair_scores(
    spans: Float[Tensor, "batch spans d"],
    words: Float[Tensor, "batch words d"],
    weight: Float[Tensor, " d"],
) -> Float[Tensor, "batch spans words"]:
    """Scores w · ReLU(span_i + word_j) for each span and word of a post.

    A vector for each pair would be the largest tensor of the head by far; made a piece at a time it
    stays in the cache, and training does not have to keep it.
    """
    if spans.dtype != words.dtype or spans.dtype != weight.dtype:  # under autocast
        words, weight = words.to(spans.dtype), weight.to(spans.dtype)
    scores: Tensor = _PairScores.apply(spans, words, weight)
    return scores


def _pieces(spans: Tensor, words: Tensor) -> Iterator[tuple[slice, slice]]:
    """Posts and spans to look at together."""
    batch, n_spans, size = spans.shape
    room = AT_ONCE.get(spans.device.type, AT_ONCE["cuda"]) // (words.shape[1] * size)
    some, posts = max(1, min(room, n_spans)), max(1, min(room // n_spans, batch))
    for post in range(0, batch, posts):
        for span in range(0, n_spans, some):
            yield slice(post, post + posts), slice(span, span + some)


def _hidden(spans: Tensor, words: Tensor, posts: slice, some: slice) -> Tensor:
    """(posts, spans, words, d)."""
    return (spans[posts, some].unsqueeze(2) + words[posts].unsqueeze(1)).relu_()
