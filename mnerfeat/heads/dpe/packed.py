"""Sequences of different lengths without their padding.

Of a batch's noisy spans and words a third is padding. On a processor, layers that look at each
vector for itself would spend as much on that as on the rest.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mnerfeat.heads.blocks import real_rows, spread


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The vectors of a batch of sequences, one sequence after the other.

    Attributes:
        states: The vectors.
        count: How often each place of each sequence occurs; 0 on padding.
        rows: Where the vectors stand in (batch · n); None where padding is among them, as on a
            GPU, for which it is cheaper than finding out where it is.
    """

    states: Float[Tensor, "rows d_model"]
    count: Float[Tensor, "batch n"]
    rows: Int[Tensor, " rows"] | None

    @classmethod
    def of(
        cls, padded: Float[Tensor, "batch n d_model"], count: Float[Tensor, "batch n"]
    ) -> "Packed":
        """Take away the padding of some sequences."""
        rows = real_rows(count > 0)
        flat = padded.flatten(0, 1)
        return cls(states=flat if rows is None else flat[rows], count=count, rows=rows)

    @classmethod
    def whole(cls, states: Float[Tensor, "batch n d_model"]) -> "Packed":
        """Sequences without padding, each vector once."""
        count = torch.ones(states.shape[:2], device=states.device)
        return cls(states=states.flatten(0, 1), count=count, rows=None)

    def holding(self, states: Float[Tensor, "rows d_model"]) -> "Packed":
        """Other vectors in the same places."""
        return replace(self, states=states)

    def padded(
        self, vectors: Float[Tensor, "rows size"] | None = None
    ) -> Float[Tensor, "batch n size"]:
        """The vectors, or others in their places, as sequences of one length; zero on padding."""
        flat = self.states if vectors is None else vectors
        batch, length = self.count.shape
        return spread(flat, self.rows, batch * length).view(batch, length, -1)

    def pack(self, padded: Float[Tensor, "batch n size"]) -> Float[Tensor, "rows size"]:
        """What stands in the places of the vectors."""
        flat = padded.flatten(0, 1)
        return flat if self.rows is None else flat[self.rows]

    def each(self, of_post: Float[Tensor, "batch size"]) -> Float[Tensor, "rows size"]:
        """For every vector, what its post has."""
        length = self.count.shape[1]
        if self.rows is None:
            return of_post.repeat_interleave(length, dim=0)
        return of_post[self.rows // length]

    def mean(self) -> Float[Tensor, "batch d_model"]:
        """The mean of each sequence, by how often its vectors occur; zero where nothing does."""
        return counted_mean(self.padded(), self.count)


def counted_mean(
    vectors: Float[Tensor, "*batch n d_model"], count: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch d_model"]:
    """The mean of each sequence, by how often its vectors occur; zero where nothing does."""
    weight = count.to(vectors.dtype)
    share = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1)
    return (share.unsqueeze(-2) @ vectors).squeeze(-2)
