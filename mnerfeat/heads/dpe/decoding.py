"""From span representations to entities (DPE-MNER, 2.3.2), and from those to tags."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mnerfeat.heads.base import IGNORED
from mnerfeat.heads.dpe.packed import Packed
from mnerfeat.heads.dpe.pairing import pair_scores
from mnerfeat.heads.dpe.spans import Entities, Spans

NOTHING = -1e4
"""Score of words that are not there: its sigmoid is 0, and so is its loss."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is predicted of each span, as logits in float32.

    Attributes:
        left: Of each word to be the entity's first, for a sigmoid; `NOTHING` on padding.
        right: Of each word to be its last.
        kind: Of NIL (0) and of each type (its number + 1), for a softmax.
    """

    left: Float[Tensor, "batch spans words"]
    right: Float[Tensor, "batch spans words"]
    kind: Float[Tensor, "batch spans kinds"]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The entity that each span predicts.

    Attributes:
        left: Its first word.
        right: Its last word; it may stand before the first, which is no entity.
        kind: 0 for none, else the number of its type + 1.
        score: Probabilities of first word, last word and type added up, 0 to 3.
    """

    left: Int[Tensor, "batch spans"]
    right: Int[Tensor, "batch spans"]
    kind: Int[Tensor, "batch spans"]
    score: Float[Tensor, "batch spans"]

    @classmethod
    def of(cls, scores: Scores) -> "Candidates":
        """The most likely first word, last word and type, each for itself."""
        best_left, left = scores.left.max(dim=2)
        best_right, right = scores.right.max(dim=2)
        best_kind, kind = scores.kind.softmax(dim=2).max(dim=2)
        score = best_left.sigmoid() + best_right.sigmoid() + best_kind
        return cls(left=left, right=right, kind=kind, score=score)


class BoundaryPointer(nn.Module):
    """P^δ = σ(FC(ReLU(H_bound W_m + H_t W_t))), each span with each word.

    The ReLU is not in the paper's equation, but in Shen et al. (2023): without it the score is a
    sum of one part of the span and one of the word, so one word is the best for every span.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.span = nn.Linear(d_model, d_model)
        self.word = nn.Linear(d_model, d_model, bias=False)
        self.score = nn.Linear(d_model, 1)

    def forward(
        self,
        spans: Packed,
        words: Float[Tensor, "batch words d_model"],
        mask: Bool[Tensor, "batch words"],
    ) -> Float[Tensor, "batch spans words"]:
        """Logits; anything on padding spans.

        Args:
            spans: H_bound.
            words: H_t W_t, as `word` gives it; it is the same at every step.
            mask: True on real words.
        """
        asking = spans.padded(self.span(spans.states))
        scores = pair_scores(asking, words, self.score.weight[0], spans.count > 0, mask)
        logits = scores.float() + self.score.bias.float()
        return logits.masked_fill(~mask.unsqueeze(1), NOTHING)


class EntityDecoder(nn.Module):
    """Multi-modal-guided Entity Reasoning: what entity does each span stand for?

    Args:
        d_model: Size of the vectors.
        types: Entity types.
        dropout: On the span representations.
    """

    def __init__(self, d_model: int, *, types: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.boundary, self.kind = (
            nn.Sequential(nn.Linear(d_model, d_model), nn.GELU()) for _ in range(2)
        )
        self.left, self.right = BoundaryPointer(d_model), BoundaryPointer(d_model)
        self.kinds = nn.Linear(d_model, types + 1)

    def look(
        self, words: Float[Tensor, "batch words d_model"]
    ) -> tuple[Float[Tensor, "batch words d_model"], Float[Tensor, "batch words d_model"]]:
        """What the pointers read of the words, which no step of the reasoning changes."""
        return self.left.word(words), self.right.word(words)

    def forward(
        self,
        spans: Packed,
        words: tuple[Float[Tensor, "batch words d_model"], Float[Tensor, "batch words d_model"]],
        mask: Bool[Tensor, "batch words"],
    ) -> Scores:
        """Scores of boundaries and types.

        Args:
            spans: H_m.
            words: From `look`.
            mask: True on real words.
        """
        states = self.dropout(spans.states)
        boundary = spans.holding(self.boundary(states))
        return Scores(
            left=self.left(boundary, words[0], mask),
            right=self.right(boundary, words[1], mask),
            kind=spans.padded(self.kinds(self.kind(states))).float(),
        )


def decode(candidates: Candidates, spans: Spans, *, threshold: float) -> list[Entities]:
    """Entities that do not overlap, the surest first chosen.

    Args:
        candidates: What each span predicts.
        spans: Tells which of them are padding.
        threshold: A candidate's score has to be above it.
    """
    fit = (
        (spans.count > 0)
        & (candidates.kind > 0)
        & (candidates.left <= candidates.right)
        & (candidates.score > threshold)
    )
    entities: list[Entities] = [[] for _ in fit]
    post = fit.nonzero()[:, 0]
    columns = (-candidates.score, candidates.left, candidates.right, candidates.kind)
    rows = zip(post.tolist(), *(column[fit].tolist() for column in columns), strict=True)
    for number, _, left, right, kind in sorted(rows):
        taken = entities[number]
        if all(right < first or last < left for first, last, _ in taken):
            taken.append((left, right, kind - 1))
    return [sorted(found) for found in entities]


def as_tags(
    entities: list[Entities], mask: Bool[Tensor, "batch words"]
) -> Int[Tensor, "batch words"]:
    """Entities as tag ids, B- and then I-; `IGNORED` on padding."""
    tags = torch.zeros(mask.shape, dtype=torch.long)
    for row, found in zip(tags, entities, strict=True):
        for left, right, kind in found:
            row[left] = 2 * kind + 1
            row[left + 1 : right + 1] = 2 * kind + 2
    return tags.to(mask.device).masked_fill(~mask, IGNORED)
