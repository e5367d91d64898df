"""Static fusion (Table 3): the words meet the images once, before the reasoning."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mnerfeat.heads.base import Images, Words
from mnerfeat.heads.dpe.attention import Attention, Blocks, FeedForward
from mnerfeat.heads.dpe.fusion import Representations
from mnerfeat.heads.dpe.packed import Packed
from mnerfeat.heads.dpe.reasoning import Context, Moment, Reasoned, Reasoner, TextReasoner
from mnerfeat.heads.dpe.representations import GAPS, GRAINS, Tokens
from mnerfeat.heads.dpe.spans import Spans

StaticFusion = Literal["max-pool", "mean-pool", "mlp", "moe"]


class Meeting(nn.Module):
    """Words attend to image tokens: cross-attention and a feed-forward layer.

    Words of a post without any token go through with zero added.
    """

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.attention = Attention(blocks)
        self.norm = nn.LayerNorm(blocks.d_model)
        self.dropout = nn.Dropout(blocks.dropout)
        self.feed = FeedForward(blocks)

    def forward(
        self,
        words: Float[Tensor, "batch words d_model"],
        tokens: Float[Tensor, "batch tokens d_model"],
        mask: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch words d_model"]:
        """Words that have seen the tokens."""
        some = mask.any(dim=1)
        # A softmax over nothing is NaN, so such posts attend to all and the result is dropped.
        count = (mask | ~some.unsqueeze(1)).float()
        queries = Packed.whole(words)
        found = queries.padded(self.attention(queries, Packed.of(tokens, count)))
        found = torch.where(some[:, None, None], found, 0.0)
        met: Tensor = self.feed(self.norm(words + self.dropout(found)))
        return met


class Mixer(nn.Module, ABC):
    """A way to fuse words with all image representations at once."""

    @abstractmethod
    def forward(self, words: Words, each: list[Tokens]) -> Float[Tensor, "batch words d_model"]:
        """Word states that have seen the images.

        Args:
            words: Of the posts.
            each: The tokens of each representation.
        """


class PooledMixer(Mixer):
    """Max-pool, Mean-pool: one vector for each image and representation, and attention to these."""

    def __init__(self, blocks: Blocks, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.meeting = Meeting(blocks)

    def forward(self, words: Words, each: list[Tokens]) -> Float[Tensor, "batch words d_model"]:
        """Pool, then attend."""
        vectors, masks = [], []
        for tokens in each:
            states, mask = tokens.states, tokens.mask
            real = mask.unsqueeze(3)
            some = mask.any(dim=2)
            if self.maximum:
                pooled = states.masked_fill(~real, float("-inf")).amax(dim=2)
                pooled = torch.where(some.unsqueeze(2), pooled, 0.0)
            else:
                pooled = (states * real).sum(dim=2) / real.sum(dim=2).clamp(min=1)
            vectors.append(pooled)
            masks.append(some)
        met: Tensor = self.meeting(words.states, torch.cat(vectors, 1), torch.cat(masks, 1))
        return met


class MlpMixer(Mixer):
    """MLP: the mean of each representation beside the word's state, through two linear layers."""

    def __init__(self, blocks: Blocks, *, representations: int) -> None:
        super().__init__()
        size = blocks.d_model
        self.layers = nn.Sequential(
            nn.Linear((1 + representations) * size, size),
            nn.GELU(),
            nn.Linear(size, size),
            nn.Dropout(blocks.dropout),
        )
        self.norm = nn.LayerNorm(size)

    def forward(self, words: Words, each: list[Tokens]) -> Float[Tensor, "batch words d_model"]:
        """Concatenate, then mix."""
        states = words.states
        means = torch.cat([tokens.together().mean() for tokens in each], dim=2)
        beside = means.expand(-1, states.shape[1], -1)
        met: Tensor = self.norm(states + self.layers(torch.cat([states, beside], dim=2)))
        return met


class ExpertMixer(Mixer):
    """MoE: one expert attends to each representation; a gate weights them by text and images.

    After Xu et al., "VisualPT-MoE", as far as DPE-MNER describes its use.
    """

    def __init__(self, blocks: Blocks, *, representations: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Meeting(blocks) for _ in range(representations))
        self.gate = nn.Linear((1 + representations) * blocks.d_model, representations)

    def forward(self, words: Words, each: list[Tokens]) -> Float[Tensor, "batch words d_model"]:
        """Ask every expert, then weight."""
        each = [tokens.together() for tokens in each]
        means = [tokens.mean()[:, 0] for tokens in each]
        weight = self.gate(torch.cat([words.sentence, *means], dim=1)).softmax(dim=1)
        answers = [
            expert(words.states, tokens.states[:, 0], tokens.mask[:, 0])
            for expert, tokens in zip(self.experts, each, strict=True)
        ]
        met: Tensor = (torch.stack(answers, dim=1) * weight[:, :, None, None]).sum(dim=1)
        return met


class StaticReasoner(Reasoner[Context]):
    """BERT-Iterative over words that have seen the images beforehand.

    There are no relevance gates, so there is no alignment loss: both sit in the fusion layers that
    these ablations remove.

    Args:
        blocks: Sizes of the layers.
        representations: Image tokens, one module for each granularity and gap.
        columns: The columns that these read.
        fusion: How the words meet the images.
    """

    def __init__(
        self,
        blocks: Blocks,
        representations: Representations,
        columns: tuple[str, ...],
        *,
        fusion: StaticFusion,
    ) -> None:
        super().__init__()
        self.columns = columns
        self.representations = nn.ModuleList(
            representations[grain, gap] for grain in GRAINS for gap in GAPS
        )
        self.mixer: Mixer
        if fusion == "mlp":
            self.mixer = MlpMixer(blocks, representations=len(self.representations))
        elif fusion == "moe":
            self.mixer = ExpertMixer(blocks, representations=len(self.representations))
        else:
            self.mixer = PooledMixer(blocks, maximum=fusion == "max-pool")
        self.iterate = TextReasoner(blocks)

    def look(self, words: Words, images: Images) -> Context:
        """The words after the fusion, which then holds for all steps."""
        each = [module(images) for module in self.representations]
        met = self.mixer(words, each)
        states = met * words.mask.unsqueeze(2)
        return self.iterate.look(replace(words, states=states), images)

    def forward(
        self, known: Context, spans: Spans, moment: Moment, *, pairs: bool = False
    ) -> Reasoned:
        """One step."""
        reasoned: Reasoned = self.iterate(known, spans, moment, pairs=pairs)
        return reasoned
