"""Which span has to become which entity, and what it costs that it is not (DPE-MNER, 2.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import logsigmoid

from mnerfeat.heads.dpe.decoding import Scores
from mnerfeat.heads.dpe.spans import Entities, Spans

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each part counts in matching and in the loss.

    Attributes:
        boundary: Of the boundaries.
        kind: Of the types.
        nil: Of a span that has to become no entity, among the types.
    """

    boundary: float
    kind: float
    nil: float


def repetitions(entities: int, spans: int) -> list[int]:
    """How often each of a post's entities is repeated to fill its noisy spans, the first ones more.

    At least once: where there are more entities than spans, not all of them find one.
    """
    if not entities:
        return []
    each, more = divmod(spans, entities)
    return [max(1, each + (place < more)) for place in range(entities)]


def match(cost: NDArray[np.floating], supply: Counts, demand: Counts) -> Counts:
    """The cheapest matching of spans with entities, both standing for several equal ones.

    Args:
        cost: (spans, entities).
        supply: How often each span occurs.
        demand: How often each entity is repeated.

    Returns:
        (spans, entities): how many of each span become which entity. As many spans as there are,
        or all repeated entities, find a partner.
    """
    plan = np.zeros(cost.shape, np.int64)
    spans = np.repeat(np.arange(len(supply)), supply)
    entities = np.repeat(np.arange(len(demand)), demand)
    rows, columns = linear_sum_assignment(cost[spans][:, entities])
    np.add.at(plan, (spans[rows], entities[columns]), 1)
    return plan


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the different spans of each post have to become, counted over the equal ones.

    Attributes:
        left: How many of a span's have the entity's first word there.
        right: Likewise the last word.
        matched: How many of a span's have an entity to become.
        kind: How many have to become NIL (0) and each type (its number + 1).
    """

    left: Float[Tensor, "batch spans words"]
    right: Float[Tensor, "batch spans words"]
    matched: Float[Tensor, "batch spans"]
    kind: Float[Tensor, "batch spans kinds"]


@torch.no_grad()
def find_targets(
    scores: Scores, spans: Spans, gold: Sequence[Entities], weights: LossWeights
) -> Targets:
    """Match the spans of each post with its entities, these repeated to fill the noisy spans.

    The Hungarian algorithm, with the cost −(p_left + p_right) − p_type, weighted (Shen et al.).
    """
    batch, n_spans, n_words = scores.left.shape
    supply = spans.count.long().cpu().numpy()
    noisy = spans.place.shape[1]
    left, right = (np.zeros((batch, n_spans, n_words), np.float32) for _ in range(2))
    kind = np.zeros((batch, n_spans, scores.kind.shape[2]), np.float32)
    costs = _costs(scores, gold, weights)
    for post, entities in enumerate(gold):
        if not entities:
            continue
        demand = np.array(repetitions(len(entities), noisy))
        plan = match(costs[post, :, : len(entities)], supply[post], demand)
        for place, (first, last, number) in enumerate(entities):
            left[post, :, first] += plan[:, place]
            right[post, :, last] += plan[:, place]
            kind[post, :, number + 1] += plan[:, place]
    matched = kind.sum(axis=2)
    kind[:, :, 0] = supply - matched
    device = scores.left.device
    return Targets(
        left=torch.from_numpy(left).to(device),
        right=torch.from_numpy(right).to(device),
        matched=torch.from_numpy(matched).to(device),
        kind=torch.from_numpy(kind).to(device),
    )


def _costs(scores: Scores, gold: Sequence[Entities], weights: LossWeights) -> NDArray[np.floating]:
    """(batch, spans, entities of the richest post); anything where a post has fewer."""
    most = max(1, *(len(entities) for entities in gold))
    padded = [[*entities, *[(0, 0, 0)] * (most - len(entities))] for entities in gold]
    first, last, number = torch.tensor(padded, device=scores.left.device).unbind(dim=2)

    def at(probability: Tensor, index: Tensor) -> Tensor:
        return probability.gather(2, index.unsqueeze(1).expand(-1, probability.shape[1], -1))

    boundary = at(scores.left.sigmoid(), first) + at(scores.right.sigmoid(), last)
    kind = at(scores.kind.softmax(dim=2), number + 1)
    cost: NDArray[np.floating] = -(weights.boundary * boundary + weights.kind * kind).cpu().numpy()
    return cost


def matched_loss(scores: Scores, targets: Targets, weights: LossWeights) -> Float[Tensor, " batch"]:
    """L_NER of each post.

    Boundaries: binary cross-entropy over all words, averaged over the spans with an entity. Types:
    cross-entropy, averaged over all spans. Equal spans have equal scores, so each is computed once.
    """
    boundary = torch.zeros(len(scores.left), device=scores.left.device)
    matched = targets.matched.unsqueeze(2)
    for logits, hits in ((scores.left, targets.left), (scores.right, targets.right)):
        # Of n equal spans, h have to point to a word and n − h must not.
        hit, miss = logsigmoid(logits), logsigmoid(-logits)
        boundary = boundary - (hits * hit + (matched - hits) * miss).sum(dim=(1, 2))
    boundary = boundary / targets.matched.sum(dim=1).clamp(min=1)

    weight = torch.ones(scores.kind.shape[2], device=scores.kind.device)
    weight[0] = weights.nil
    kind = -(targets.kind * weight * scores.kind.log_softmax(dim=2)).sum(dim=(1, 2))
    kind = kind / targets.kind.sum(dim=(1, 2)).clamp(min=1)
    return weights.boundary * boundary + weights.kind * kind
