"""A linear-chain CRF over word states: the base of most heads."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchcrf import CRF

from mnerfeat.heads.base import (
    IGNORED,
    Head,
    HeadOutput,
    Images,
    ImageValues,
    KeyValues,
    ParameterGroup,
    Words,
)


@dataclass(frozen=True, kw_only=True)
class Fused:
    """The output of a fusion.

    Attributes:
        states: One vector a word, from which the emissions are computed.
        images: By name, one value an image (weights, gates, relevance), for people to read.
    """

    states: Float[Tensor, "batch words d_text"]
    images: Mapping[str, ImageValues] = field(default_factory=dict)


class Fusion(nn.Module, ABC):
    """The part of a CRF head that fuses text and images.

    Attributes:
        columns: The image columns it reads.
    """

    columns: tuple[str, ...]

    @abstractmethod
    def scalars(self) -> list[nn.Parameter]:
        """The trainable scalars, which have a learning rate of their own."""

    @abstractmethod
    def prefix(self, images: Images) -> KeyValues | None:
        """As in `Head.prefix`."""

    @abstractmethod
    def forward(self, words: Words, images: Images) -> Fused:
        """Fuse text and images; the states keep the size of `words.states`."""


class CrfHead(Head):
    """Word states → linear emissions → linear-chain CRF.

    The CRF is that of pytorch-crf. It runs in float32 whatever the precision around it, and on
    real words only: no special tokens, no padding.

    Args:
        fusion: Fuses text and images.
        d_text: Size of a word state.
        n_tags: Number of tag ids.
        dropout: On the word states, before the emissions.
    """

    def __init__(self, fusion: Fusion, *, d_text: int, n_tags: int, dropout: float) -> None:
        super().__init__()
        self.columns = fusion.columns
        self.fusion = fusion
        self.dropout = nn.Dropout(dropout)
        self.emissions = nn.Linear(d_text, n_tags)
        self.crf = CRF(n_tags, batch_first=True)

    def parameter_groups(self) -> dict[ParameterGroup, list[nn.Parameter]]:
        """The fusion's layers, its scalars, and the emissions with the CRF."""
        scalars = self.fusion.scalars()
        apart = {id(scalar) for scalar in scalars}
        return {
            "fusion": [x for x in self.fusion.parameters() if id(x) not in apart],
            "crf": [*self.emissions.parameters(), *self.crf.parameters()],
            "scalars": scalars,
        }

    def prefix(self, images: Images) -> KeyValues | None:
        """The fusion's keys and values for the text encoder's layers."""
        return self.fusion.prefix(images)

    def forward(
        self,
        words: Words,
        images: Images,
        gold: Int[Tensor, "batch words"] | None = None,
        *,
        decode: bool = True,
    ) -> HeadOutput:
        """Negative log-likelihood (mean over the posts) and the most likely tags."""
        fused = self.fusion(words, images)
        loss = tags = None
        with torch.autocast(fused.states.device.type, enabled=False):
            emissions = self.emissions(self.dropout(fused.states.float()))
            if gold is not None:
                loss = crf_loss(self.crf, emissions, gold, words.mask)
            if decode:
                tags = crf_tags(self.crf, emissions, words.mask)
        return HeadOutput(loss=loss, tags=tags, images=fused.images)


def crf_loss(
    crf: CRF,
    emissions: Float[Tensor, "batch words tags"],
    gold: Int[Tensor, "batch words"],
    mask: Bool[Tensor, "batch words"],
) -> Float[Tensor, ""]:
    """Negative log-likelihood of the gold tags, mean over the posts.

    Args:
        crf: The CRF, with `batch_first`.
        emissions: Scores of the tags.
        gold: Tag ids; anything on padding.
        mask: True on real words, which come first; at least one a post.
    """
    loss: Tensor = -crf(emissions, torch.where(mask, gold, 0), mask, reduction="mean")
    # If all posts have a single word, pytorch-crf leaves the transitions out of the graph, which
    # stops training on several devices.
    used: Tensor = 0 * crf.transitions.sum()
    return loss + used


@torch.no_grad()
def crf_tags(
    crf: CRF,
    emissions: Float[Tensor, "batch words tags"],
    mask: Bool[Tensor, "batch words"],
) -> Int[Tensor, "batch words"]:
    """The most likely tags by the Viterbi algorithm.

    Args:
        crf: The CRF, with `batch_first`.
        emissions: Scores of the tags.
        mask: True on real words, which come first; at least one a post.

    Returns:
        Tag ids, `IGNORED` on padding.
    """
    paths = crf.decode(emissions, mask)
    tags: Tensor = torch.full(mask.shape, IGNORED, device=mask.device)
    tags[mask] = torch.tensor([tag for path in paths for tag in path], device=mask.device)
    return tags
