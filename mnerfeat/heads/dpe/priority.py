"""Prioritized multi-modal information integration: what counts how much at which timestep."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Schedule = Literal["paper", "intent"]

Pair = tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]


@dataclass(frozen=True, kw_only=True)
class Priority:
    """The weights of eqs. 3 and 6, with s = √ᾱ_t, which rises from about 0 to 1 while reasoning.

    `paper` is the equations as they stand: weights λs and 1 − λs. With them the vectors of the
    image ("hard") lose weight to those of the text about it ("easy") while the reasoning goes on,
    and the fine ones to the coarse ones: from hard to easy and from fine to coarse. The prose says
    the opposite, "easy-to-hard" and "coarse-to-fine". `intent` follows the prose, with λ as the
    least share of each: w_easy = λ + (1 − 2λ) √(1 − ᾱ_t), w_hard = 1 − w_easy, and the same with
    coarse for easy.

    Attributes:
        schedule: Which of the two.
        gap_share: λ_x.
        grain_share: λ_y.
        reverse_gap: Exchange the weights of eq. 3 (Table 4).
        reverse_grain: Exchange the weights of eq. 6 (Table 4).
        equal: Leave the priorities out of eq. 3: both weights are 1 (Table 2, w/o PMI).
    """

    schedule: Schedule
    gap_share: float
    grain_share: float
    reverse_gap: bool = False
    reverse_grain: bool = False
    equal: bool = False

    def gap(self, share: Float[Tensor, " batch"]) -> Pair:
        """Weights of eq. 3.

        Args:
            share: s of each post.

        Returns:
            Of the image's vectors, and of the text's about it.
        """
        if self.equal:
            return torch.ones_like(share), torch.ones_like(share)
        easy = self._first(share, self.gap_share)
        return (easy, 1 - easy) if self.reverse_gap else (1 - easy, easy)

    def grain(self, share: Float[Tensor, " batch"]) -> Pair:
        """Weights of eq. 6, of the coarse and of the fine."""
        coarse = self._first(share, self.grain_share)
        return (1 - coarse, coarse) if self.reverse_grain else (coarse, 1 - coarse)

    def _first(self, share: Float[Tensor, " batch"], least: float) -> Float[Tensor, " batch"]:
        """The weight of what the prose wants first."""
        if self.schedule == "paper":
            return least * share
        noise = (1 - share**2).clamp(min=0).sqrt()  # √(1 − ᾱ_t)
        return least + (1 - 2 * least) * noise
