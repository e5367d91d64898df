"""Entities: from span representations to tags (2.3.2), and from gold entities to the loss (2.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from mnerfeat.heads.base import IGNORED, Candidates
from mnerfeat.heads.dpe.packing import Packed, Spans

Entities = list[tuple[int, int, int]]
"""(first word, last word, number of the type) of each entity of a post, in order."""

Pointer = Literal["square", "relu"]
Reduction = Literal["mean", "sum"]

NEVER = -1e4
"""Logit of padding words: its sigmoid is 0, and so is its loss."""


def gold_entities(tags: Sequence[int]) -> Entities:
    """Read the entities of tag ids; an I- that continues nothing begins one."""
    found: Entities = []
    inside = False
    for word, tag in enumerate(tags):
        if tag in (0, IGNORED):
            inside = False
            continue
        kind, continues = divmod(tag - 1, 2)
        if continues and inside and found[-1][2] == kind:
            found[-1] = (found[-1][0], word, kind)
        else:
            found.append((word, word, kind))
        inside = True
    return found


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Predictions for each span, as logits in float32.

    Attributes:
        left: For each word, that it is the entity's first (sigmoid); `NEVER` on padding.
        right: Likewise, its last.
        kind: For NIL (0) and each type (its number + 1) (softmax).
    """

    left: Float[Tensor, "batch spans words"]
    right: Float[Tensor, "batch spans words"]
    kind: Float[Tensor, "batch spans kinds"]


class BoundaryPointer(nn.Module):
    """P^δ = σ(FC(φ(H_bound W_m + H_t W_t))), each span with each word.

    The paper's equation has no φ. But then a score is the sum of a part of the span and one of the
    word, and one word is the best of every span. `square` is φ(x) = x²: twice the product of span
    and word is part of it, so a span finds the word that resembles it. `relu`, as in Shen et al.
    (2023), has to learn that from scratch.
    """

    def __init__(self, d_model: int, activation: Pointer) -> None:
        super().__init__()
        self.activation = activation
        self.span = nn.Linear(d_model, d_model)
        self.word = nn.Linear(d_model, d_model, bias=False)
        self.score = nn.Linear(d_model, 1)

    def forward(
        self,
        spans: Packed,
        words: Float[Tensor, "batch words d_model"],
        mask: Bool[Tensor, "batch words"],
    ) -> Float[Tensor, "batch spans words"]:
        """Return logits; anything on padding spans.

        Args:
            spans: H_bound.
            words: H_t W_t, from `word`; the same at every step.
            mask: True on real words.
        """
        x, weight = spans.padded(self.span(spans.states)), self.score.weight[0]
        if self.activation == "square":  # (x + y)² without a vector for each pair
            scores = (x**2 @ weight).unsqueeze(2) + (words**2 @ weight).unsqueeze(1)
            scores = scores + 2 * (x * weight) @ words.transpose(1, 2)
        else:
            scores = (x.unsqueeze(2) + words.unsqueeze(1)).relu() @ weight
        logits = scores.float() + self.score.bias.float()
        return logits.masked_fill(~mask.unsqueeze(1), NEVER)


class EntityDecoder(nn.Module):
    """Multi-modal-guided Entity Reasoning: boundaries and type of the entity of each span.

    Args:
        d_model: Size of the vectors.
        types: Number of entity types.
        dropout: Dropout on the span representations.
        pointer: See `BoundaryPointer`.
    """

    def __init__(self, d_model: int, *, types: int, dropout: float, pointer: Pointer) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.boundary, self.kind = (
            nn.Sequential(nn.Linear(d_model, d_model), nn.GELU()) for _ in range(2)
        )
        self.left, self.right = (BoundaryPointer(d_model, pointer) for _ in range(2))
        self.kinds = nn.Linear(d_model, types + 1)

    def context(
        self, words: Float[Tensor, "batch words d_model"]
    ) -> tuple[Float[Tensor, "batch words d_model"], Float[Tensor, "batch words d_model"]]:
        """Return H_t W_t of both pointers, which is the same at every step."""
        return self.left.word(words), self.right.word(words)

    def forward(
        self,
        spans: Packed,
        words: tuple[Float[Tensor, "batch words d_model"], Float[Tensor, "batch words d_model"]],
        mask: Bool[Tensor, "batch words"],
    ) -> Scores:
        """Score boundaries and types.

        Args:
            spans: H_m.
            words: From `context`.
            mask: True on real words.
        """
        states = self.dropout(spans.states)
        boundary = spans.with_states(self.boundary(states))
        return Scores(
            left=self.left(boundary, words[0], mask),
            right=self.right(boundary, words[1], mask),
            kind=spans.padded(self.kinds(self.kind(states))).float(),
        )


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The most likely entity of each span.

    Attributes:
        left: Its first word.
        right: Its last word; if it is before the first, there is no entity.
        kind: 0 for none, else the number of its type + 1.
        score: The sum of the probabilities of first word, last word and type, 0 to 3.
    """

    left: Int[Tensor, "batch spans"]
    right: Int[Tensor, "batch spans"]
    kind: Int[Tensor, "batch spans"]
    score: Float[Tensor, "batch spans"]

    @classmethod
    def of(cls, scores: Scores) -> "Decoded":
        """Take the most likely first word, last word and type, each by itself."""
        best_left, left = scores.left.max(dim=2)
        best_right, right = scores.right.max(dim=2)
        best_kind, kind = scores.kind.softmax(dim=2).max(dim=2)
        score = best_left.sigmoid() + best_right.sigmoid() + best_kind
        return cls(left=left, right=right, kind=kind, score=score)

    def candidates(self, spans: Spans, mask: Bool[Tensor, "batch words"]) -> Candidates:
        """Choose entities that do not overlap, the highest score first, as tags.

        Those with a score above a threshold are what the same choice among the spans above it
        would give.

        Args:
            spans: Tells which spans are padding.
            mask: True on real words.
        """
        valid = (spans.count > 0) & (self.kind > 0) & (self.left <= self.right)
        post = valid.nonzero()[:, 0].tolist()
        columns = (-self.score, self.left, self.right, self.kind)
        rows = zip(post, *(column[valid].tolist() for column in columns), strict=True)
        tags = np.zeros(mask.shape, np.int64)
        scores = np.zeros(mask.shape, np.float32)
        for number, negative, left, right, kind in sorted(rows):
            if not tags[number, left : right + 1].any():
                tags[number, left : right + 1] = 2 * kind
                tags[number, left] = 2 * kind - 1
                scores[number, left : right + 1] = -negative
        return Candidates(
            tags=torch.from_numpy(tags).to(mask.device).masked_fill(~mask, IGNORED),
            scores=torch.from_numpy(scores).to(mask.device),
        )


def above(candidates: Candidates, threshold: float) -> Int[Tensor, "batch words"]:
    """Return the tags of the candidates with a score above the threshold."""
    keep = (candidates.scores > threshold) | (candidates.tags == IGNORED)
    return candidates.tags.where(keep, 0)


def best_threshold(gold: Int[Tensor, "posts words"], candidates: Candidates) -> float | None:
    """Return the threshold with the highest lenient micro F1; None if no candidate is correct.

    It lies halfway between the lowest score that is kept and the highest that is not.
    """
    scores, correct, total = [], [], 0
    rows = (gold.tolist(), candidates.tags.tolist(), candidates.scores.tolist())
    for gold_row, row, score in zip(*rows, strict=True):
        wanted = set(gold_entities(gold_row))
        total += len(wanted)
        for entity in gold_entities(row):
            scores.append(score[entity[0]])
            correct.append(entity in wanted)
    if not any(correct):
        return None
    order = np.argsort([-score for score in scores], kind="stable")
    ranked, hits = np.array(scores)[order], np.array(correct)[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + total)
    lower = np.append(ranked[1:], 0.0)
    f1[lower == ranked] = 0.0  # equal scores stay together
    best = int(f1.argmax())
    return float(ranked[best] + lower[best]) / 2


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """How matching and loss weigh their parts.

    Attributes:
        boundary: Weight of the boundaries.
        kind: Weight of the types.
        nil: Weight of spans that are matched with no entity, among the types.
        reduction: `mean` over spans, or their `sum`, as eq. 20 is printed.
    """

    boundary: float
    kind: float
    nil: float
    reduction: Reduction = "mean"


def repetitions(entities: int, spans: int) -> list[int]:
    """Return how often each of a post's entities is repeated to fill its noisy spans.

    The first ones more, and each at least once: with more entities than spans, some stay unmatched.
    """
    if not entities:
        return []
    each, more = divmod(spans, entities)
    return [max(1, each + (place < more)) for place in range(entities)]


Counts = NDArray[np.int64]


def match(cost: NDArray[np.floating], supply: Counts, demand: Counts) -> Counts:
    """Find the cheapest matching of spans with entities, each standing for several equal ones.

    Args:
        cost: (spans, entities).
        supply: How often each span occurs.
        demand: How often each entity is repeated.

    Returns:
        (spans, entities): how many of each span are matched with which entity; all spans or all
        repeated entities are, whichever are fewer.
    """
    plan = np.zeros(cost.shape, np.int64)
    spans = np.repeat(np.arange(len(supply)), supply)
    entities = np.repeat(np.arange(len(demand)), demand)
    rows, columns = linear_sum_assignment(cost[spans][:, entities])
    np.add.at(plan, (spans[rows], entities[columns]), 1)
    return plan


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The targets of each distinct span, counted over the noisy spans that it stands for.

    Attributes:
        left: How many are matched with an entity whose first word is this.
        right: Likewise, last word.
        kind: How many are matched with no entity (0) and with each type (its number + 1).
    """

    left: Float[Tensor, "batch spans words"]
    right: Float[Tensor, "batch spans words"]
    kind: Float[Tensor, "batch spans kinds"]


@torch.no_grad()
def find_targets(
    scores: Scores, spans: Spans, gold: Sequence[Entities], options: LossOptions
) -> Targets:
    """Match the spans of each post with its entities, repeated to fill the noisy spans.

    The Hungarian algorithm, with the cost −(p_left + p_right) − p_type, weighted (Shen et al.).
    """
    probabilities = [
        probability.cpu().numpy()
        for probability in (scores.left.sigmoid(), scores.right.sigmoid(), scores.kind.softmax(2))
    ]
    targets = [np.zeros(probability.shape, np.float32) for probability in probabilities]
    supply = spans.count.long().cpu().numpy()
    for post, entities in enumerate(gold):
        targets[2][post, :, 0] = supply[post]
        if not entities:
            continue
        first, last, kind = np.array(entities).T
        at = first, last, kind + 1
        left, right, types = (p[post][:, i] for p, i in zip(probabilities, at, strict=True))
        cost = -(options.boundary * (left + right) + options.kind * types)
        demand = np.array(repetitions(len(entities), spans.index.shape[1]))
        plan = match(cost, supply[post], demand)
        targets[2][post, :, 0] -= plan.sum(axis=1)
        for target, index in zip(targets, at, strict=True):
            np.add.at(target[post].T, index, plan.T)
    left, right, kind = (torch.from_numpy(target).to(scores.left.device) for target in targets)
    return Targets(left=left, right=right, kind=kind)


def matching_loss(
    scores: Scores, targets: Targets, options: LossOptions
) -> Float[Tensor, " batch"]:
    """Return L_NER of each post.

    Boundaries: binary cross-entropy over all words, for the spans that are matched with an entity.
    Types: cross-entropy, for all spans. Equal spans have equal scores, so each is computed once.
    """
    matched = targets.kind[:, :, 1:].sum(dim=2)
    boundary = torch.zeros(len(scores.left), device=scores.left.device)
    for logits, hits in ((scores.left, targets.left), (scores.right, targets.right)):
        # Of n matched equal spans, h have this word as their boundary and n − h have not.
        hit, miss = logsigmoid(logits), logsigmoid(-logits)
        boundary = boundary - (hits * hit + (matched.unsqueeze(2) - hits) * miss).sum(dim=(1, 2))
    weight = torch.ones(scores.kind.shape[2], device=scores.kind.device)
    weight[0] = options.nil
    kind = -(targets.kind * weight * scores.kind.log_softmax(dim=2)).sum(dim=(1, 2))
    if options.reduction == "mean":
        boundary = boundary / matched.sum(dim=1).clamp(min=1)
        kind = kind / targets.kind.sum(dim=(1, 2)).clamp(min=1)
    return options.boundary * boundary + options.kind * kind
