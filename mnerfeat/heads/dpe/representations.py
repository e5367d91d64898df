"""Cached image columns as tokens of the text's size (DPE-MNER, 2.2.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mnerfeat.heads.base import Images
from mnerfeat.heads.dpe.packed import counted_mean

Grain = Literal["coarse", "fine"]
Gap = Literal["image", "text"]
GRAINS: tuple[Grain, ...] = ("coarse", "fine")
GAPS: tuple[Gap, ...] = ("image", "text")

COLUMNS: Mapping[tuple[Grain, Gap], tuple[str, ...]] = {
    ("coarse", "image"): ("grid",),
    ("coarse", "text"): ("caption_states", "caption_length"),
    ("fine", "image"): ("regions_grid", "regions_count"),
    ("fine", "text"): ("tags_states", "tags_length"),
}
"""By granularity and by what is nearer, the image or the text: vectors, and how many are real."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of each of a post's images.

    Attributes:
        states: One vector a token; anything where there is none.
        mask: True on real tokens.
    """

    states: Float[Tensor, "batch images tokens d_model"]
    mask: Bool[Tensor, "batch images tokens"]

    def mean(self) -> Float[Tensor, "batch images d_model"]:
        """The mean over an image's real tokens, zero where there are none."""
        return counted_mean(self.states, self.mask.float())

    def together(self) -> "Tokens":
        """All images of a post as one."""
        return Tokens(
            states=self.states.flatten(1, 2).unsqueeze(1), mask=self.mask.flatten(1, 2).unsqueeze(1)
        )


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Several representations of a post's images, side by side.

    Attributes:
        tokens: Of all of them.
        source: Of each token, which of them it comes from.
        means: The means of each of them over an image's tokens.
    """

    tokens: Tokens
    source: Int[Tensor, " tokens"]
    means: Float[Tensor, "batch images all_means"]

    @classmethod
    def of(cls, each: Sequence[Tokens]) -> "Beside":
        """In the order given."""
        device = each[0].mask.device
        numbers = [
            torch.full(tokens.mask.shape[2:], number, device=device)
            for number, tokens in enumerate(each)
        ]
        return cls(
            tokens=Tokens(
                states=torch.cat([tokens.states for tokens in each], dim=2),
                mask=torch.cat([tokens.mask for tokens in each], dim=2),
            ),
            source=torch.cat(numbers),
            means=torch.cat([tokens.mean() for tokens in each], dim=2),
        )


class Projected(nn.Module):
    """A column's vectors, projected to the size of the text's.

    Args:
        columns: The column of the vectors, and that of how many are real, where that varies.
        d_image: Size of a vector.
        d_model: Size of the text's.
    """

    def __init__(self, columns: tuple[str, ...], *, d_image: int, d_model: int) -> None:
        super().__init__()
        self.columns = columns
        self.projection = nn.Linear(d_image, d_model)

    def forward(self, images: Images) -> Tokens:
        """All vectors of a post's images as tokens."""
        column = images[self.columns[0]]
        # (batch, images, parts, d_image): a part is a row of tokens, or the cells of a region.
        mask = images.mask.unsqueeze(2)
        if len(self.columns) == 2:
            parts = column.shape[2] if column.ndim > 3 else 1
            part = torch.arange(parts, device=column.device)
            mask = mask & (part < images[self.columns[1]].unsqueeze(2))
        vectors = column.reshape(*images.mask.shape, -1, column.shape[-1])
        mask = mask.repeat_interleave(vectors.shape[2] // mask.shape[2], dim=2)
        return Tokens(states=self.projection(vectors), mask=mask)


class Stranger(nn.Module):
    """A random vector in the place of a representation that an ablation takes away (Table 4)."""

    def __init__(self, *, d_model: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(d_model))

    def forward(self, images: Images) -> Tokens:
        """It alone, in every image slot."""
        mask = torch.ones_like(images.mask).unsqueeze(2)
        return Tokens(states=self.vector.expand(*mask.shape, -1), mask=mask)
