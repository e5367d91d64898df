"""Scores of pairs, piece by piece, against all pairs at once."""

import pytest
import torch

from mnerfeat.heads.dpe import pairing
from mnerfeat.heads.dpe.pairing import pair_scores


def plain(spans, words, weight):
    return (spans.unsqueeze(2) + words.unsqueeze(1)).relu() @ weight


def counted(count, most):
    return torch.arange(most) < torch.tensor(count).unsqueeze(1)


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("room", [1, 7 * 5, 3 * 7 * 5, 2 * 4 * 7 * 5, 1 << 20])
@pytest.mark.parametrize("shape", [(3, 4, 7), (1, 1, 1), (2, 5, 3)])
def test_scores_and_gradients_are_those_of_all_pairs(monkeypatch, room, shape, on_gpu):
    monkeypatch.setattr(pairing, "AT_ONCE", {"cpu": room, "cuda": room})
    if on_gpu:  # the pieces that a GPU would be given
        monkeypatch.setattr(
            pairing, "_of_post", lambda post, *_: pairing._of_all(*inputs[:2]) if not post else ()
        )
    batch, n_spans, n_words = shape
    torch.manual_seed(0)
    inputs = [
        torch.randn(*size, dtype=torch.float64, requires_grad=True)
        for size in ((batch, n_spans, 5), (batch, n_words, 5), (5,))
    ]
    weights = torch.randn(*shape, dtype=torch.float64)
    span_mask = counted([max(1, n_spans - post) for post in range(batch)], n_spans)
    word_mask = counted([max(1, n_words - 2 * post) for post in range(batch)], n_words)
    real = span_mask.unsqueeze(2) & word_mask.unsqueeze(1)
    found = []
    for scores in (pair_scores(*inputs, span_mask, word_mask), plain(*inputs)):
        gradients = torch.autograd.grad((scores * weights)[real].sum(), inputs)
        found.append((scores[real], *gradients))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted)
