"""Eqs. 4 and 17 to 19 against plain loops over posts and pairs of posts."""

import math

import pytest
import torch

from mnerfeat.heads.dpe.fusion import FusionUnit, ImageTokens, RelevanceGate, alignment_loss
from mnerfeat.heads.dpe.layers import LayerSizes
from mnerfeat.heads.dpe.packing import Packed


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_gate_is_two_layers_on_text_and_images_side_by_side():
    torch.manual_seed(0)
    sizes = LayerSizes(
        d_model=4, attention_size=2, attention_heads=1, feed_forward=2, bottlenecks=1, dropout=0.0
    )
    unit = FusionUnit(sizes, "span", views=2).requires_grad_(False)
    gate = unit.gates["span"]
    text, images = torch.randn(5, 4), torch.randn(5, 3, 8)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]]).bool()
    views = [ImageTokens.of(view.unsqueeze(2), mask.unsqueeze(2)) for view in images.split(4, 2)]
    context = unit.context(ImageTokens.concatenated(views), mask)
    _, own = unit(Packed.full(text.unsqueeze(1)), {"span": text}, context, torch.ones(5, 2))
    pairs = unit.pairs("span", text, context)
    # [x; y; y_text] through one matrix, which is the two that the gate holds, side by side.
    first = torch.cat([gate.text.weight, gate.image.weight], dim=1)
    for a in range(5):
        for b in range(5):
            each = []
            for image in images[b]:
                together = torch.cat([text[a], image])
                hidden = [
                    max(0.0, float(first[unit] @ together + gate.text.bias[unit]))
                    for unit in range(4)
                ]
                score = sum(
                    float(w) * h for w, h in zip(gate.score.weight[0], hidden, strict=True)
                ) + float(gate.score.bias)
                each.append(sigmoid(score))
            there = [score for score, real in zip(each, mask[b].tolist(), strict=True) if real]
            assert float(pairs[a, b]) == pytest.approx(sum(there) / max(1, len(there)), abs=1e-5)
            if a == b:
                masked = [score * real for score, real in zip(each, mask[b].tolist(), strict=True)]
                assert own[a].tolist() == pytest.approx(masked, abs=1e-5)


def test_a_text_can_rank_images_otherwise_than_another_text():
    """With one linear layer it could not: the text would add the same to every image's score."""
    torch.manual_seed(0)
    gate = RelevanceGate(8, means=1)
    images = gate.image(2 * torch.randn(1, 9, 8))
    relevance = gate(torch.randn(9, 1, 8), images.unsqueeze(0)).squeeze(1)
    assert len({tuple(row) for row in relevance.argsort(dim=1).tolist()}) > 1


def looped(pairs, with_images, temperature, share):
    chosen = [a for a, there in enumerate(with_images) if there]
    total = 0.0
    for a in chosen:
        own = math.exp(pairs[a][a] / temperature)
        texts = sum(math.exp(pairs[a][b] / temperature) for b in chosen)
        images = sum(math.exp(pairs[b][a] / temperature) for b in chosen)
        total += share * -math.log(own / texts) + (1 - share) * -math.log(own / images)
    return total / max(1, len(chosen))


@pytest.mark.parametrize("with_images", [[True] * 4, [True, False, True, False], [False] * 4])
@pytest.mark.parametrize(("temperature", "share"), [(0.1, 0.5), (1.0, 0.2)])
def test_the_loss_is_its_equations_over_the_posts_with_images(with_images, temperature, share):
    torch.manual_seed(0)
    pairs = torch.rand(4, 4, requires_grad=True)
    loss = alignment_loss(
        pairs, torch.tensor(with_images), temperature=temperature, text_share=share
    )
    wanted = looped(pairs.detach().tolist(), with_images, temperature, share)
    assert loss.item() == pytest.approx(wanted, abs=1e-5)
    loss.backward()
    assert pairs.grad.isfinite().all()
    outside = ~torch.tensor(with_images)
    assert not pairs.grad[outside].any()
    assert not pairs.grad[:, outside].any()
