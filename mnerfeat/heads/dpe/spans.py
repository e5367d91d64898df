"""Spans of words: as boundaries, as points of the diffusion's space, and as a multiset.

Rounded to words, many of a post's noisy spans coincide. What is computed of a span depends on its
words and on the multiset of all of them, so each different one is looked at once and counts as
often as it occurs: the same result, dropout aside, for less than half of the work on a tweet.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mnerfeat.heads.base import IGNORED


@dataclass(frozen=True, kw_only=True)
class Spans:
    """The different spans of each post of a batch.

    Attributes:
        left: First words; 0 on padding.
        right: Last words, at or after `left`; 0 on padding.
        count: How often each occurs; 0 on padding. A post's add up to its noisy spans.
        place: Per noisy span, where it stands among the different ones.
    """

    left: Int[Tensor, "batch spans"]
    right: Int[Tensor, "batch spans"]
    count: Float[Tensor, "batch spans"]
    place: Int[Tensor, "batch noisy"]

    @classmethod
    def of(cls, left: Int[Tensor, "batch noisy"], right: Int[Tensor, "batch noisy"]) -> "Spans":
        """Tell spans apart; those of a post are then sorted by their words."""
        span = (int(right.max()) + 1) * left + right
        ordered, order = span.sort(dim=1)
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        rank = new.long().cumsum(dim=1) - 1
        place = torch.empty_like(rank).scatter_(1, order, rank)
        shape = (len(left), int(rank[:, -1].max()) + 1)
        count = torch.zeros(shape, device=left.device)
        return cls(
            left=left.new_zeros(shape).scatter_(1, place, left),
            right=right.new_zeros(shape).scatter_(1, place, right),
            count=count.scatter_add_(1, place, torch.ones_like(place, dtype=count.dtype)),
            place=place,
        )

    def inside(self, words: int) -> Bool[Tensor, "batch spans words"]:
        """Which words each span covers, of so many."""
        word = torch.arange(words, device=self.left.device)
        return (self.left.unsqueeze(2) <= word) & (word <= self.right.unsqueeze(2))

    def mean(self, states: Float[Tensor, "batch words d"]) -> Float[Tensor, "batch spans d"]:
        """The mean of the states that each span covers."""
        share = self.inside(states.shape[1]).to(states.dtype)
        means: Tensor = (share / share.sum(dim=2, keepdim=True)) @ states
        return means


Signal = Float[Tensor, "batch noisy 2"]
"""(left, width) of each span in [−scale, scale]: what the diffusion adds noise to."""


def to_signal(
    left: Int[Tensor, "batch noisy"],
    right: Int[Tensor, "batch noisy"],
    length: Int[Tensor, " batch"],
    *,
    scale: float,
) -> Signal:
    """Boundaries as (left, width), both a share of `length` and then stretched to ± `scale`.

    Args:
        left: First words.
        right: Last words; one before `left`, as a network may predict, counts as width 0.
        length: What 1 stands for, by post: the number of words less 1. A post of one word has 0
            there, and its one span is (0, 0).
        scale: Half the range of the signal.
    """
    span = torch.stack([left, right - left], dim=2) / length.clamp(min=1)[:, None, None]
    return ((2 * span - 1) * scale).clamp(-scale, scale)


def to_words(
    signal: Signal, length: Int[Tensor, " batch"], *, scale: float
) -> tuple[Int[Tensor, "batch noisy"], Int[Tensor, "batch noisy"]]:
    """The words nearest to noisy boundaries, first and last: the way back from `to_signal`."""
    left, width = ((signal.clamp(-scale, scale) / scale + 1) / 2).unbind(dim=2)
    last = length.unsqueeze(1)
    right = (left + width).clamp(max=1)
    return (left * last).round().long(), (right * last).round().long()


Entities = list[tuple[int, int, int]]
"""(first word, last word, number of the type) of each entity of a post, in order."""


def gold_entities(tags: list[int]) -> Entities:
    """The entities that tag ids spell out; an I- that continues nothing begins one."""
    found: Entities = []
    going_on = False
    for word, tag in enumerate(tags):
        if tag in (0, IGNORED):
            going_on = False
            continue
        kind, inside = divmod(tag - 1, 2)
        if inside and going_on and found[-1][2] == kind:
            found[-1] = (found[-1][0], word, kind)
        else:
            found.append((word, word, kind))
        going_on = True
    return found
