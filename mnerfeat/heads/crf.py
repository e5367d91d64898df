"""A linear-chain CRF over word states: the frame that most heads stand in."""

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
    """What a fusion makes of a batch.

    Attributes:
        states: One vector a word, from which the emissions are computed.
        images: By name, what the fusion made of each image, for people to read.
    """

    states: Float[Tensor, "batch words d_text"]
    images: Mapping[str, ImageValues] = field(default_factory=dict)


class Fusion(nn.Module, ABC):
    """The part of a CRF head that brings text and images together.

    Attributes:
        columns: The image columns it reads.
    """

    columns: tuple[str, ...]

    @abstractmethod
    def scalars(self) -> list[nn.Parameter]:
        """Its single trainable numbers, which get a learning rate of their own."""

    @abstractmethod
    def prefix(self, images: Images) -> KeyValues | None:
        """As in `Head.prefix`."""

    @abstractmethod
    def forward(self, words: Words, images: Images) -> Fused:
        """Fuse. The states keep the size of `words.states`."""


class CrfHead(Head):
    """Word states → linear emissions → linear-chain CRF.

    The parameters are those of `torchcrf.CRF` (pytorch-crf), and so are the results; loss and
    decoding are computed here with fewer and larger operations (see `log_likelihood` and
    `viterbi`). They run in float32 whatever the precision around them, on real words only:
    no special tokens, no padding.

    Args:
        fusion: Brings text and images together.
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
        """What the fusion puts before the text encoder's layers."""
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
                loss = -log_likelihood(self.crf, emissions, gold, words.mask).mean()
            if decode:
                tags = viterbi(self.crf, emissions.detach(), words.mask)
        return HeadOutput(loss=loss, tags=tags, images=fused.images)


def log_likelihood(
    crf: CRF,
    emissions: Float[Tensor, "batch words tags"],
    tags: Int[Tensor, "batch words"],
    mask: Bool[Tensor, "batch words"],
) -> Float[Tensor, " batch"]:
    """Log p(tags | emissions), what `crf(emissions, tags, mask, reduction="none")` gives.

    The score of the given tags takes no loop over words, and the normaliser two operations
    a word, both ways about half of pytorch-crf's time. Every parameter takes part even where
    all posts have a single word, as training on several devices needs.

    Args:
        crf: Holds the parameters.
        emissions: Scores of the tags.
        tags: Tag ids; anything on padding.
        mask: True on real words, which come first; at least one a post.
    """
    tags = torch.where(mask, tags, 0)
    real = mask.to(emissions.dtype)
    last = tags.gather(1, mask.sum(dim=1, keepdim=True) - 1).squeeze(1)
    path = (
        crf.start_transitions[tags[:, 0]]
        + (emissions.gather(2, tags.unsqueeze(2)).squeeze(2) * real).sum(dim=1)
        + (crf.transitions[tags[:, :-1], tags[:, 1:]] * real[:, 1:]).sum(dim=1)
        + crf.end_transitions[last]
    )  # (batch,)

    score = crf.start_transitions + emissions[:, 0]  # (batch, tags)
    for word in range(1, emissions.shape[1]):
        ahead = torch.logsumexp(score.unsqueeze(2) + crf.transitions, dim=1) + emissions[:, word]
        score = torch.where(mask[:, word : word + 1], ahead, score)
    normaliser = torch.logsumexp(score + crf.end_transitions, dim=1)
    likelihood: Tensor = path - normaliser
    return likelihood


@torch.no_grad()
def viterbi(
    crf: CRF,
    emissions: Float[Tensor, "batch words tags"],
    mask: Bool[Tensor, "batch words"],
) -> Int[Tensor, "batch words"]:
    """The most likely tags, what `crf.decode(emissions, mask)` gives, as one tensor.

    The way back runs over the whole batch on the device: nothing is fetched word by word.

    Args:
        crf: Holds the parameters.
        emissions: Scores of the tags.
        mask: True on real words, which come first; at least one a post.

    Returns:
        Tag ids, `IGNORED` on padding.
    """
    score = crf.start_transitions + emissions[:, 0]  # (batch, tags)
    stay = torch.arange(score.shape[1], device=score.device).expand_as(score)
    came_from = []
    for word in range(1, emissions.shape[1]):
        real = mask[:, word : word + 1]
        ahead = score.unsqueeze(2) + crf.transitions + emissions[:, word].unsqueeze(1)
        best, source = ahead.max(dim=1)
        score = torch.where(real, best, score)
        came_from.append(torch.where(real, source, stay))
    tag = (score + crf.end_transitions).argmax(dim=1, keepdim=True)
    path = [tag]
    for source in reversed(came_from):
        tag = source.gather(1, tag)
        path.append(tag)
    return torch.where(mask, torch.cat(path[::-1], dim=1), IGNORED)
