"""Scores of pairs, piece by piece, against all pairs at once."""

import pytest
import torch

from mnerfeat.heads.dpe import pairing
from mnerfeat.heads.dpe.pairing import pair_scores


def plain(spans, words, weight):
    return (spans.unsqueeze(2) + words.unsqueeze(1)).relu() @ weight


@pytest.mark.parametrize("room", [1, 7 * 5, 3 * 7 * 5, 2 * 4 * 7 * 5, 1 << 20])
@pytest.mark.parametrize("shape", [(3, 4, 7), (1, 1, 1), (2, 5, 3)])
def test_scores_and_gradients_are_those_of_all_pairs(monkeypatch, room, shape):
    monkeypatch.setattr(pairing, "AT_ONCE", {"cpu": room, "cuda": room})
    batch, n_spans, n_words = shape
    torch.manual_seed(0)
    inputs = [
        torch.randn(*size, dtype=torch.float64, requires_grad=True)
        for size in ((batch, n_spans, 5), (batch, n_words, 5), (5,))
    ]
    weights = torch.randn(*shape, dtype=torch.float64)
    found = []
    for score in (pair_scores, plain):
        scores = score(*inputs)
        found.append((scores, *torch.autograd.grad((scores * weights).sum(), inputs)))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted)
