"""Diverse multi-modal fusion of DPE-MNER (2.2.2, 2.3.1): eqs. 3 to 10, and the loss on eq. 4."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mnerfeat.heads.base import Images, Words
from mnerfeat.heads.dpe.layers import Attention, ElementGate, FeedForward, LayerSizes
from mnerfeat.heads.dpe.packing import Packed, counted_mean

Text = Literal["token", "sentence", "span"]
Grain = Literal["coarse", "fine"]
Gap = Literal["image", "text"]
View = tuple[Grain, Gap]
Schedule = Literal["paper", "intent"]
TEXTS: tuple[Text, ...] = get_args(Text)
GRAINS: tuple[Grain, ...] = get_args(Grain)
GAPS: tuple[Gap, ...] = get_args(Gap)

COLUMNS: Mapping[View, tuple[str, ...]] = {
    ("coarse", "image"): ("grid",),
    ("coarse", "text"): ("caption_states", "caption_length"),
    ("fine", "image"): ("regions_grid", "regions_count"),
    ("fine", "text"): ("tags_states", "tags_length"),
}
"""The four representations of an image: columns of their vectors, and of how many are real."""


@dataclass(frozen=True, kw_only=True)
class Timestep:
    """The timestep of each post.

    Attributes:
        time: t.
        signal: s = √ᾱ_t, 0 to 1.
    """

    time: Int[Tensor, " batch"]
    signal: Float[Tensor, " batch"]


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """Tokens of each image, of one or several representations side by side.

    Attributes:
        states: Vectors; anything on padding.
        mask: True on real tokens.
        source: For each token, the number of its representation.
        means: The mean of each representation over an image's real tokens, concatenated; zero if
            it has none.
    """

    states: Float[Tensor, "batch images tokens d_model"]
    mask: Bool[Tensor, "batch images tokens"]
    source: Int[Tensor, " tokens"]
    means: Float[Tensor, "batch images all_means"]

    @classmethod
    def of(cls, states: Tensor, mask: Tensor) -> "ImageTokens":
        """Take the tokens of one representation."""
        source = torch.zeros(mask.shape[2], dtype=torch.long, device=mask.device)
        means = counted_mean(states, mask.float())
        return cls(states=states, mask=mask, source=source, means=means)

    @classmethod
    def concatenated(cls, parts: "Sequence[ImageTokens]") -> "ImageTokens":
        """Put representations side by side."""
        return cls(
            states=torch.cat([part.states for part in parts], dim=2),
            mask=torch.cat([part.mask for part in parts], dim=2),
            source=torch.cat([part.source + number for number, part in enumerate(parts)]),
            means=torch.cat([part.means for part in parts], dim=2),
        )


class Projection(nn.Module):
    """The vectors of a column, projected to the size of the text's.

    Args:
        columns: The column of the vectors, and that of how many are real if this varies.
        d_image: Size of a vector.
        d_model: Size of the text's.
    """

    def __init__(self, columns: tuple[str, ...], *, d_image: int, d_model: int) -> None:
        super().__init__()
        self.columns = columns
        self.projection = nn.Linear(d_image, d_model)

    def forward(self, images: Images) -> ImageTokens:
        """Return all vectors of each image as tokens."""
        column = images[self.columns[0]]
        # (batch, images, parts, d_image): a part is a row of tokens, or the cells of a region.
        mask = images.mask.unsqueeze(2)
        if len(self.columns) == 2:
            parts = column.shape[2] if column.ndim > 3 else 1
            part = torch.arange(parts, device=column.device)
            mask = mask & (part < images[self.columns[1]].unsqueeze(2))
        vectors = column.reshape(*images.mask.shape, -1, column.shape[-1])
        mask = mask.repeat_interleave(vectors.shape[2] // mask.shape[2], dim=2)
        return ImageTokens.of(self.projection(vectors), mask)


class Representations(nn.ModuleDict):
    """The four image representations, each a module from `Images` to `ImageTokens`."""

    def tokens(self, images: Images, *views: View) -> ImageTokens:
        """Return the tokens of some of them, side by side."""
        parts = [self["_".join(view)](images) for view in views]
        return ImageTokens.concatenated(parts)


@dataclass(frozen=True, kw_only=True)
class Priority:
    """The weights of eqs. 3 and 6, with s = √ᾱ_t, which rises from about 0 to 1 while reasoning.

    `paper` is the equations as printed: weights λs and 1 − λs. As reasoning goes on, the image's
    vectors ("hard") lose weight to those of the text about it ("easy"), and the fine to the
    coarse: from hard to easy and from fine to coarse. The prose says the opposite, "easy-to-hard"
    and "coarse-to-fine". `intent` follows the prose, with λ as the least share of each:
    w_easy = λ + (1 − 2λ) √(1 − ᾱ_t), w_hard = 1 − w_easy, and likewise with coarse for easy.

    Attributes:
        schedule: `paper` or `intent`.
        gap_share: λ_x.
        grain_share: λ_y.
        reverse_gap: Exchange the weights of eq. 3 (Table 4).
        reverse_grain: Exchange the weights of eq. 6 (Table 4).
        equal: Set both weights of eq. 3 to 1 (Table 2, w/o PMI).
    """

    schedule: Schedule
    gap_share: float
    grain_share: float
    reverse_gap: bool = False
    reverse_grain: bool = False
    equal: bool = False

    def gap(self, signal: Float[Tensor, " batch"]) -> Float[Tensor, "batch gaps"]:
        """Return the weights of eq. 3, of the image's vectors and of the text's about it."""
        if self.equal:
            return torch.ones_like(signal).unsqueeze(1).expand(-1, 2)
        easy = self._first(signal, self.gap_share)
        hard = 1 - easy
        return torch.stack([easy, hard] if self.reverse_gap else [hard, easy], dim=1)

    def grain(self, signal: Float[Tensor, " batch"]) -> Float[Tensor, "batch grains"]:
        """Return the weights of eq. 6, of the coarse and of the fine."""
        coarse = self._first(signal, self.grain_share)
        fine = 1 - coarse
        return torch.stack([fine, coarse] if self.reverse_grain else [coarse, fine], dim=1)

    def _first(self, signal: Float[Tensor, " batch"], least: float) -> Float[Tensor, " batch"]:
        """Return the weight of what the prose wants first."""
        if self.schedule == "paper":
            return least * signal
        noise = (1 - signal**2).clamp(min=0).sqrt()  # √(1 − ᾱ_t)
        return least + (1 - 2 * least) * noise


class RelevanceGate(nn.Module):
    """Eq. 4: rel = σ(FC[x; y; y_text]), of mean-pooled inputs and with one hidden layer.

    With a single linear layer the text would add the same to the scores of all images, and the
    losses could never learn which image belongs to a text. The hidden layer's part of the image is
    computed once for all steps.

    The paper's posts have one image. Here each image has a relevance of its own; that of a post's
    images together is their mean.

    Args:
        d_model: Size of the vectors.
        means: Number of vectors that are read together of an image.
    """

    def __init__(self, d_model: int, *, means: int) -> None:
        super().__init__()
        self.text = nn.Linear(d_model, d_model)
        self.image = nn.Linear(means * d_model, d_model, bias=False)
        self.score = nn.Linear(d_model, 1)

    def forward(
        self,
        text: Float[Tensor, "#batch #posts d_model"],
        image: Float[Tensor, "#batch #posts images d_model"],
    ) -> Float[Tensor, "batch posts images"]:
        """Return rel of texts with images, 0 to 1.

        Args:
            text: The mean of each text.
            image: `self.image` of the means of each image.
        """
        hidden = torch.relu(self.text(text).unsqueeze(2) + image)
        relevance: Tensor = self.score(hidden).squeeze(3).float().sigmoid()
        return relevance


def alignment_loss(
    pairs: Float[Tensor, "batch batch"],
    with_images: Bool[Tensor, " batch"],
    *,
    temperature: float,
    text_share: float,
) -> Float[Tensor, ""]:
    """Eqs. 17 to 19: find the images of each text in the batch, and the text of each post's images.

    Args:
        pairs: rel(a, b).
        with_images: True for posts that have images; the others take no part.
        temperature: τ.
        text_share: λ_rel, the share of the first direction.

    Returns:
        The mean over the posts that take part, 0 if there are none.
    """
    outside = ~(with_images.unsqueeze(1) & with_images.unsqueeze(0))
    scores = (pairs / temperature).masked_fill(outside, float("-inf"))
    # A row of nothing but −inf has no softmax; such posts are left out below.
    scores = torch.where(with_images.unsqueeze(1) | with_images.unsqueeze(0), scores, 0.0)
    own = pairs.diagonal() / temperature
    text_to_image = scores.logsumexp(dim=1) - own  # eq. 17
    image_to_text = scores.logsumexp(dim=0) - own  # eq. 18
    both = text_share * text_to_image + (1 - text_share) * image_to_text  # eq. 19
    chosen = torch.where(with_images, both, 0.0)
    return chosen.sum() / with_images.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class UnitContext:
    """What a fusion unit computes of the images once for all steps.

    Attributes:
        tokens: The image tokens.
        images: True if a post has an image there.
        key: Keys of the tokens in the bottleneck transformer.
        value: Likewise.
        gates: By text granularity, the gate's part of each image.
    """

    tokens: ImageTokens
    images: Bool[Tensor, "batch images"]
    key: Float[Tensor, "batch_images heads tokens size"]
    value: Float[Tensor, "batch_images heads tokens size"]
    gates: Mapping[Text, Float[Tensor, "batch images d_model"]]


class BottleneckTransformer(nn.Module):
    """MBT of eq. 5: text and image tokens exchange information through a few bottleneck tokens.

    Nagrani et al. 2021, "Attention Bottlenecks for Multimodal Fusion", with one layer, in which the
    image stream comes first: the bottleneck tokens attend to the image tokens and themselves, then
    the text attends to itself and to them. In the symmetric form the text of the only layer would
    see bottleneck tokens that have not seen the image. The layer's output for the image tokens is
    not used afterwards, and so not computed.

    The paper's posts have one image. Here each image has the image stream and the bottleneck
    tokens for itself, with the same weights, and the text attends to all of these tokens, so that
    the text chooses among the images. A post without images has bottleneck tokens that have seen
    nothing.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.tokens = nn.Parameter(0.02 * torch.randn(sizes.bottlenecks, sizes.d_model))
        self.image, self.text = Attention(sizes), Attention(sizes)
        self.image_norm, self.text_norm = (nn.LayerNorm(sizes.d_model) for _ in range(2))
        self.image_feed, self.text_feed = FeedForward(sizes), FeedForward(sizes)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(
        self, text: Packed, context: UnitContext, weight: Float[Tensor, "batch images tokens"]
    ) -> Packed:
        """Return MBT(text, weight · image tokens)."""
        present = context.images.clone()
        present[:, 0] |= ~present.any(dim=1)
        count = present.float().repeat_interleave(len(self.tokens), dim=1)
        bottleneck = self._image_stream(context, weight.flatten(0, 1)).view(*count.shape, -1)
        attended = self.text(text, text, Packed.of(bottleneck, count))
        hidden = self.text_norm(text.states + self.dropout(attended))
        return text.with_states(self.text_feed(hidden))

    def _image_stream(
        self, context: UnitContext, weight: Float[Tensor, "batch_images tokens"]
    ) -> Float[Tensor, "batch_images bottlenecks d_model"]:
        """Let the bottleneck tokens attend to the weighted image tokens and to themselves."""
        own = self.tokens.unsqueeze(0)
        query, key, value = (
            self.image.split(layer(own))
            for layer in (self.image.query, self.image.key, self.image.value)
        )
        query = query / query.shape[-1] ** 0.5
        scale = weight[:, None, None, :].to(query.dtype)
        mask = context.tokens.mask.flatten(0, 1)[:, None, None, :]
        # Weights on scores and on shares, not on keys and values, which are far larger.
        to_image = (query @ context.key.transpose(2, 3)) * scale
        to_self = (query @ key.transpose(2, 3)).expand(len(weight), -1, -1, -1)
        scores = torch.cat([to_image.masked_fill(~mask, float("-inf")), to_self], dim=3)
        share = scores.float().softmax(dim=3).to(query.dtype)
        n_image = weight.shape[1]
        found = (share[..., :n_image] * scale) @ context.value + share[..., n_image:] @ value
        attended = self.image.output(found.transpose(1, 2).flatten(2))
        hidden: Tensor = self.image_feed(self.image_norm(own + self.dropout(attended)))
        return hidden


class FusionUnit(nn.Module):
    """Eqs. 3 to 5: a text with some image representations.

    H_v = [w_image y_j ‖ w_text y_jt]                        (3)
    rel = σ(FC[x_i; y_j; y_jt])                              (4)
    x_i^j = MBT(x_i, rel · H_v)                              (5)

    Args:
        sizes: Sizes of the layers.
        texts: The granularities of the text, each with a gate; rel is the mean of the gates.
        views: Number of image representations.
    """

    def __init__(self, sizes: LayerSizes, *texts: Text, views: int) -> None:
        super().__init__()
        self.gates = nn.ModuleDict(
            {text: RelevanceGate(sizes.d_model, means=views) for text in texts}
        )
        self.mbt = BottleneckTransformer(sizes)

    def context(self, tokens: ImageTokens, images: Bool[Tensor, "batch images"]) -> UnitContext:
        """Compute what the steps share of the images."""
        flat, attention = tokens.states.flatten(0, 1), self.mbt.image
        return UnitContext(
            tokens=tokens,
            images=images,
            key=attention.split(attention.key(flat)),
            value=attention.split(attention.value(flat)),
            gates={text: self._gate(text).image(tokens.means) for text in self._texts},
        )

    def forward(
        self,
        text: Packed,
        means: Mapping[Text, Float[Tensor, "batch d_model"]],
        context: UnitContext,
        shares: Float[Tensor, "batch views"],
    ) -> tuple[Packed, Float[Tensor, "batch images"]]:
        """Return x_i^j, and rel of each image, 0 if there is none.

        Args:
            text: x_i.
            means: The mean of each text granularity.
            context: From `context`.
            shares: The weight of each representation (eq. 3).
        """
        gates = [
            self._gate(name)(means[name].unsqueeze(1), context.gates[name].unsqueeze(1)).squeeze(1)
            for name in self._texts
        ]
        rel = torch.stack(gates).mean(dim=0)  # eq. 4: (batch, images)
        weight = rel.unsqueeze(2) * shares[:, context.tokens.source].unsqueeze(1)  # eq. 3
        met: Packed = self.mbt(text, context, weight)  # eq. 5: (rows, d_model)
        return met, rel * context.images

    def pairs(
        self, text: Text, mean: Float[Tensor, "batch d_model"], context: UnitContext
    ) -> Float[Tensor, "batch batch"]:
        """Return rel(a, b) of the text of post a with the images of post b, 0 if it has none."""
        rel = self._gate(text)(mean.unsqueeze(1), context.gates[text].unsqueeze(0))
        real = context.images.float()
        mean_rel: Tensor = (rel * real).sum(dim=2) / real.sum(dim=1).clamp(min=1)
        return mean_rel

    @property
    def _texts(self) -> list[Text]:
        return [text for text in TEXTS if text in self.gates]

    def _gate(self, text: Text) -> RelevanceGate:
        gate = self.gates[text]
        assert isinstance(gate, RelevanceGate)
        return gate


@dataclass(frozen=True, kw_only=True)
class Context:
    """What does not depend on spans or timestep.

    Attributes:
        words: Word states (x_t) and the sentence's state (x_g).
        units: What the fusion units share, by the names that the fusion gives them.
    """

    words: Words
    units: Mapping[str, UnitContext] = field(default_factory=dict)

    @cached_property
    def tokens(self) -> Packed:
        """x_t."""
        return Packed.of(self.words.states, self.words.mask.float())

    @cached_property
    def sentence(self) -> Packed:
        """x_g, as a sequence of one."""
        return Packed.full(self.words.sentence.unsqueeze(1))


@dataclass(frozen=True, kw_only=True)
class Fused:
    """Text representations after the fusion.

    Attributes:
        texts: x_i^m of each text granularity.
        relevance: rel of each post with each of its images, the mean over the gates, 0 to 1 and 0
            without an image; None if there are no gates.
        pairs: By text granularity, rel(a, b) of the text of post a with the images of post b;
            empty unless asked for.
    """

    texts: Mapping[Text, Packed]
    relevance: Float[Tensor, "batch images"] | None = None
    pairs: Mapping[Text, Float[Tensor, "batch batch"]] = field(default_factory=dict)


class Fusion(nn.Module, ABC):
    """How the text representations meet the images.

    Attributes:
        columns: The image columns it reads.
    """

    columns: tuple[str, ...]

    @abstractmethod
    def context(self, words: Words, images: Images) -> Context:
        """Compute what does not depend on spans or timestep, once for all steps."""

    @abstractmethod
    def forward(
        self, context: Context, texts: Mapping[Text, Packed], step: Timestep, *, pairs: bool
    ) -> Fused:
        """Fuse each x_i with the images; if `pairs`, also compute the relevance of all pairs."""


class DecomposedFusion(Fusion):
    """DPE-MNER's fusion: a unit for each text and image granularity, then the middle layer.

    x_i^ms = w_coarse x_i^c + w_fine x_i^f                   (6)
    x_i^mg = g ⊙ x_i^c + (1 − g) ⊙ x_i^f                     (7, 8)
    x_i^m  = g ⊙ x_i^ms + (1 − g) ⊙ x_i^mg                   (9, 10)

    Args:
        sizes: Sizes of the layers.
        representations: The image representations.
        columns: The columns that these read.
        priority: The weights of eqs. 3 and 6.
        concatenate: Replace eq. 6 by a linear layer on the concatenation (w/o PMI).
    """

    def __init__(
        self,
        sizes: LayerSizes,
        representations: Representations,
        columns: tuple[str, ...],
        *,
        priority: Priority,
        concatenate: bool = False,
    ) -> None:
        super().__init__()
        self.columns = columns
        self.priority = priority
        self.representations = representations
        self.bottom = nn.ModuleDict(
            {
                f"{text}_{grain}": FusionUnit(sizes, text, views=len(GAPS))
                for text in TEXTS
                for grain in GRAINS
            }
        )
        self.gated, self.mixed = (ElementGate(sizes.d_model) for _ in range(2))
        self.concatenated = nn.Linear(2 * sizes.d_model, sizes.d_model) if concatenate else None

    def context(self, words: Words, images: Images) -> Context:
        """Compute each image's tokens, and what the units need of them."""
        units = {}
        for grain in GRAINS:
            tokens = self.representations.tokens(images, *((grain, gap) for gap in GAPS))
            for text in TEXTS:
                units[f"{text}_{grain}"] = self._unit(text, grain).context(tokens, images.mask)
        return Context(words=words, units=units)

    def forward(
        self, context: Context, texts: Mapping[Text, Packed], step: Timestep, *, pairs: bool
    ) -> Fused:
        """Equations 3 to 10."""
        shares = self.priority.gap(step.signal)
        fused, relevance, all_pairs = {}, [], {}
        for name, text in texts.items():
            mean = text.mean()
            met: list[Packed] = []
            rel_pairs = []
            for grain in GRAINS:
                unit, image = self._unit(name, grain), context.units[f"{name}_{grain}"]
                found, own = unit(text, {name: mean}, image, shares)  # eqs. 3 to 5
                met.append(found)
                relevance.append(own)
                if pairs:
                    rel_pairs.append(unit.pairs(name, mean, image))
            fused[name] = self._middle(met[0], met[1], step)  # eqs. 6 to 10
            if pairs:
                all_pairs[name] = torch.stack(rel_pairs).mean(dim=0)
        return Fused(texts=fused, relevance=torch.stack(relevance).mean(dim=0), pairs=all_pairs)

    def _unit(self, text: Text, grain: Grain) -> FusionUnit:
        unit = self.bottom[f"{text}_{grain}"]
        assert isinstance(unit, FusionUnit)
        return unit

    def _middle(self, coarse: Packed, fine: Packed, step: Timestep) -> Packed:
        x, y = coarse.states, fine.states
        if self.concatenated is None:
            shares = coarse.repeat(self.priority.grain(step.signal).to(x.dtype))
            scheduled = shares[:, :1] * x + shares[:, 1:] * y  # eq. 6: (rows, d_model)
        else:
            scheduled = self.concatenated(torch.cat([x, y], dim=1))
        gated = self.gated(x, y)  # eqs. 7, 8: (rows, d_model)
        return coarse.with_states(self.mixed(scheduled, gated))  # eqs. 9, 10
