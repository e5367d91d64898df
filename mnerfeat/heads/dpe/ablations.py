"""The ablations that need other layers: flat fusion, static fusion, and a view taken away."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mnerfeat.heads.base import Images, Words
from mnerfeat.heads.blocks import TransformerBlock
from mnerfeat.heads.dpe.fusion import (
    GAPS,
    GRAINS,
    TEXTS,
    Context,
    Fused,
    Fusion,
    FusionUnit,
    ImageTokens,
    Priority,
    Representations,
    Text,
    Timestep,
    View,
)
from mnerfeat.heads.dpe.layers import LayerSizes
from mnerfeat.heads.dpe.packing import Packed, counted_mean

Static = Literal["max-pool", "mean-pool", "mlp", "moe"]

WordStates = Float[Tensor, "batch words d_model"]

VIEWS: tuple[View, ...] = tuple((grain, gap) for grain in GRAINS for gap in GAPS)


class RandomVector(nn.Module):
    """One random vector, trained, in place of a representation that is taken away (Table 4)."""

    def __init__(self, *, d_model: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(d_model))

    def forward(self, images: Images) -> ImageTokens:
        """Return the vector as the only token of every image."""
        mask = torch.ones_like(images.mask).unsqueeze(2)
        return ImageTokens.of(self.vector.expand(*mask.shape, -1), mask)


class FlatFusion(Fusion):
    """No decomposition (Table 2, w/o DMF): one unit between all text and all image representations.

    The text is [x_t; x_g; x_s], and the image [w_c w_i y_c ‖ w_c w_t y_ct ‖ w_f w_i y_f ‖
    w_f w_t y_ft] with the weights of eqs. 3 and 6, so the priorities remain. Each text granularity
    keeps its relevance (eq. 4, with all four representations), and so its loss; what weighs the
    images is the mean of the three. The span vectors that come out are H_m.

    Args:
        sizes: Sizes of the layers.
        representations: The image representations.
        columns: The columns that these read.
        priority: The weights of eqs. 3 and 6.
    """

    def __init__(
        self,
        sizes: LayerSizes,
        representations: Representations,
        columns: tuple[str, ...],
        *,
        priority: Priority,
    ) -> None:
        super().__init__()
        self.columns = columns
        self.priority = priority
        self.representations = representations
        self.unit = FusionUnit(sizes, *TEXTS, views=len(VIEWS))

    def context(self, words: Words, images: Images) -> Context:
        """Compute each image's tokens, and what the unit needs of them."""
        tokens = self.representations.tokens(images, *VIEWS)
        return Context(words=words, units={"all": self.unit.context(tokens, images.mask)})

    def forward(
        self, context: Context, texts: Mapping[Text, Packed], step: Timestep, *, pairs: bool
    ) -> Fused:
        """Fuse everything at once; only the spans are needed afterwards."""
        image = context.units["all"]
        gaps, grains = self.priority.gap(step.signal), self.priority.grain(step.signal)
        shares = (grains.unsqueeze(2) * gaps.unsqueeze(1)).flatten(1)  # (batch, views)
        means = {name: text.mean() for name, text in texts.items()}
        together = Packed.of(
            torch.cat([text.padded() for text in texts.values()], dim=1),
            torch.cat([text.count for text in texts.values()], dim=1),
        )
        found, relevance = self.unit(together, means, image, shares)
        span = texts["span"]
        states = span.pack(found.padded()[:, -span.count.shape[1] :])
        all_pairs = {text: self.unit.pairs(text, mean, image) for text, mean in means.items()}
        return Fused(
            texts={"span": span.with_states(states)},
            relevance=relevance,
            pairs=all_pairs if pairs else {},
        )


class PooledMixer(nn.Module):
    """Max-pool and Mean-pool: words attend to one vector for each image and representation."""

    def __init__(self, sizes: LayerSizes, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.block = _cross_attention(sizes)

    def forward(self, words: Words, views: list[ImageTokens]) -> WordStates:
        """Pool, then attend."""
        pooled, real = [], []
        for view in views:
            some = view.mask.any(dim=2)
            states = view.means
            if self.maximum:
                states = view.states.masked_fill(~view.mask.unsqueeze(3), float("-inf")).amax(dim=2)
                states = torch.where(some.unsqueeze(2), states, 0.0)
            pooled.append(states)
            real.append(some)
        found: Tensor = self.block(words.states, torch.cat(pooled, 1), torch.cat(real, 1))
        return found


class MlpMixer(nn.Module):
    """MLP: the mean of each representation beside the word's state, through two linear layers."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        size = sizes.d_model
        self.layers = nn.Sequential(
            nn.Linear((1 + len(VIEWS)) * size, size),
            nn.GELU(),
            nn.Linear(size, size),
            nn.Dropout(sizes.dropout),
        )
        self.norm = nn.LayerNorm(size)

    def forward(self, words: Words, views: list[ImageTokens]) -> WordStates:
        """Concatenate, then mix."""
        means = _means(views).unsqueeze(1).expand(-1, words.states.shape[1], -1)
        added = self.layers(torch.cat([words.states, means], dim=2))
        found: Tensor = self.norm(words.states + added)
        return found


class ExpertMixer(nn.Module):
    """MoE: an expert for each representation, which words attend to, and a gate to weigh them.

    After Xu et al., "VisualPT-MoE", as far as DPE-MNER describes its use.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.experts = nn.ModuleList(_cross_attention(sizes) for _ in VIEWS)
        self.gate = nn.Linear((1 + len(VIEWS)) * sizes.d_model, len(VIEWS))

    def forward(self, words: Words, views: list[ImageTokens]) -> WordStates:
        """Ask every expert, then weigh the answers by text and images."""
        weight = self.gate(torch.cat([words.sentence, _means(views)], dim=1)).softmax(dim=1)
        answers = [
            expert(words.states, view.states.flatten(1, 2), view.mask.flatten(1, 2))
            for expert, view in zip(self.experts, views, strict=True)
        ]
        found: Tensor = (torch.stack(answers, dim=1) * weight[:, :, None, None]).sum(dim=1)
        return found


class StaticFusion(Fusion):
    """Static fusion (Table 3): the words meet the images once, before BERT-Iterative.

    There are no relevance gates, so there is no alignment loss: both are part of the fusion layers
    that these ablations remove.

    Args:
        sizes: Sizes of the layers.
        representations: The image representations.
        columns: The columns that these read.
        kind: How the words meet the images.
    """

    def __init__(
        self,
        sizes: LayerSizes,
        representations: Representations,
        columns: tuple[str, ...],
        *,
        kind: Static,
    ) -> None:
        super().__init__()
        self.columns = columns
        self.representations = representations
        self.mixer: nn.Module
        if kind == "mlp":
            self.mixer = MlpMixer(sizes)
        elif kind == "moe":
            self.mixer = ExpertMixer(sizes)
        else:
            self.mixer = PooledMixer(sizes, maximum=kind == "max-pool")

    def context(self, words: Words, images: Images) -> Context:
        """Fuse; the words that come out hold for all steps."""
        views = [self.representations.tokens(images, view) for view in VIEWS]
        states = self.mixer(words, views) * words.mask.unsqueeze(2)
        return Context(words=replace(words, states=states))

    def forward(
        self,
        context: Context,  # noqa: ARG002
        texts: Mapping[Text, Packed],
        step: Timestep,  # noqa: ARG002
        *,
        pairs: bool,  # noqa: ARG002
    ) -> Fused:
        """Return the texts as they are."""
        return Fused(texts=texts)


def _cross_attention(sizes: LayerSizes) -> TransformerBlock:
    heads = sizes.attention_heads
    return TransformerBlock(sizes.d_model, attention_heads=heads, dropout=sizes.dropout)


def _means(views: list[ImageTokens]) -> Float[Tensor, "batch all_means"]:
    """Return the mean of each representation over all images of a post, concatenated."""
    return torch.cat(
        [
            counted_mean(view.states.flatten(1, 2), view.mask.flatten(1, 2).float())
            for view in views
        ],
        dim=1,
    )
