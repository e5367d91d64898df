"""Batches without padding and distinct spans: what makes the head fast on a CPU.

None of this changes a result. Each function here has a plain form, which its tests compare it with.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mnerfeat.heads.blocks import real_rows, spread


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A batch of sequences of vectors, stored one after the other without padding.

    A third of a batch's words and spans is padding; on a CPU, linear layers would spend as much
    time on it as on the rest.

    Attributes:
        states: The vectors.
        count: How often each vector of each sequence occurs; 0 on padding.
        rows: Positions of the vectors in (batch · n); None if padding is kept, as on a GPU, where
            finding it costs more than it saves.
    """

    states: Float[Tensor, "rows d_model"]
    count: Float[Tensor, "batch n"]
    rows: Int[Tensor, " rows"] | None

    @classmethod
    def of(
        cls, padded: Float[Tensor, "batch n d_model"], count: Float[Tensor, "batch n"]
    ) -> "Packed":
        """Remove the padding of sequences."""
        rows = real_rows(count > 0)
        flat = padded.flatten(0, 1)
        return cls(states=flat if rows is None else flat[rows], count=count, rows=rows)

    @classmethod
    def full(cls, states: Float[Tensor, "batch n d_model"]) -> "Packed":
        """Take sequences without padding, each vector once."""
        count = torch.ones(states.shape[:2], device=states.device)
        return cls(states=states.flatten(0, 1), count=count, rows=None)

    def with_states(self, states: Float[Tensor, "rows d_model"]) -> "Packed":
        """Put other vectors in the same positions."""
        return replace(self, states=states)

    def padded(
        self, vectors: Float[Tensor, "rows size"] | None = None
    ) -> Float[Tensor, "batch n size"]:
        """Return the vectors, or others in their positions, with padding; zero on padding."""
        flat = self.states if vectors is None else vectors
        batch, length = self.count.shape
        return spread(flat, self.rows, batch * length).view(batch, length, -1)

    def pack(self, padded: Float[Tensor, "batch n size"]) -> Float[Tensor, "rows size"]:
        """Select the rows of a padded tensor that belong to the vectors."""
        flat = padded.flatten(0, 1)
        return flat if self.rows is None else flat[self.rows]

    def repeat(self, per_post: Float[Tensor, "batch size"]) -> Float[Tensor, "rows size"]:
        """Repeat one vector a post for each vector of the post."""
        length = self.count.shape[1]
        if self.rows is None:
            return per_post.repeat_interleave(length, dim=0)
        return per_post[self.rows // length]

    def mean(self) -> Float[Tensor, "batch d_model"]:
        """Return the mean of each sequence, weighted by count; zero if the sequence is empty."""
        return counted_mean(self.padded(), self.count)


def counted_mean(
    vectors: Float[Tensor, "*batch n d_model"], count: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch d_model"]:
    """Return the mean of each sequence, weighted by count; zero if the sequence is empty."""
    weight = count.to(vectors.dtype)
    share = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1)
    return (share.unsqueeze(-2) @ vectors).squeeze(-2)


@dataclass(frozen=True, kw_only=True)
class Spans:
    """The distinct noisy spans of each post.

    Rounded to words, many of a post's noisy spans coincide. What is computed of a span depends on
    its words and on the multiset of the post's spans, so each distinct span is processed once and
    counted: the same result, apart from dropout, for less than half of the work on a tweet.

    Attributes:
        left: First words; 0 on padding.
        right: Last words, at or after `left`; 0 on padding.
        count: How often each occurs; 0 on padding. The counts of a post add up to N_s.
        index: For each noisy span, its position among the distinct spans.
    """

    left: Int[Tensor, "batch spans"]
    right: Int[Tensor, "batch spans"]
    count: Float[Tensor, "batch spans"]
    index: Int[Tensor, "batch noisy"]

    @classmethod
    def distinct(
        cls, left: Int[Tensor, "batch noisy"], right: Int[Tensor, "batch noisy"]
    ) -> "Spans":
        """Merge equal spans; those of a post are then sorted by first and last word."""
        span = (int(right.max()) + 1) * left + right
        ordered, order = span.sort(dim=1)
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        rank = new.long().cumsum(dim=1) - 1
        index = torch.empty_like(rank).scatter_(1, order, rank)
        shape = (len(left), int(rank[:, -1].max()) + 1)
        count = torch.zeros(shape, device=left.device)
        return cls(
            left=left.new_zeros(shape).scatter_(1, index, left),
            right=right.new_zeros(shape).scatter_(1, index, right),
            count=count.scatter_add_(1, index, torch.ones_like(index, dtype=count.dtype)),
            index=index,
        )

    def covers(self, words: int) -> Bool[Tensor, "batch spans words"]:
        """Tell for each span and each of the first `words` words whether it is in the span."""
        word = torch.arange(words, device=self.left.device)
        return (self.left.unsqueeze(2) <= word) & (word <= self.right.unsqueeze(2))

    def mean(self, states: Float[Tensor, "batch words d"]) -> Float[Tensor, "batch spans d"]:
        """Return the mean of the states in each span."""
        share = self.covers(states.shape[1]).to(states.dtype)
        means: Tensor = (share / share.sum(dim=2, keepdim=True)) @ states
        return means
