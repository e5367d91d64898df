"""Attention of DPE-MNER: to multisets, for aggregating spans, and through bottleneck tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mnerfeat.heads.dpe.packed import Packed


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The sizes of what is built of attention.

    Attributes:
        d_model: Of the vectors that go in and come out.
        attention_size: Of queries, keys and values, over all attention heads together.
        attention_heads: Divides `attention_size`.
        feed_forward: Hidden units of the bottleneck transformer's feed-forward layers.
        bottlenecks: Bottleneck tokens.
        dropout: On what attention and feed-forward layers add.
    """

    d_model: int
    attention_size: int
    attention_heads: int
    feed_forward: int
    bottlenecks: int
    dropout: float


class Attention(nn.Module):
    """Multi-head attention; a key counts as often as it is said to occur.

    Keys and values have no bias: of keys it would change no result, and of values `output` has
    one. So keys and values of a scaled vector are the scaled keys and values.
    """

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.attention_heads = blocks.attention_heads
        self.query = nn.Linear(blocks.d_model, blocks.attention_size)
        self.key = nn.Linear(blocks.d_model, blocks.attention_size, bias=False)
        self.value = nn.Linear(blocks.d_model, blocks.attention_size, bias=False)
        self.output = nn.Linear(blocks.attention_size, blocks.d_model)

    def forward(
        self,
        x: Packed,
        *memory: Packed,
    ) -> Float[Tensor, "rows d_model"]:
        """Attend from each vector of `x` to all of `memory` that its post has; there must be some.

        Args:
            x: The queries.
            memory: Keys and values; where there are several, side by side.
        """
        count = torch.cat([part.count for part in memory], dim=1)
        query = self.split(x.padded(self.query(x.states)))
        key, value = (
            torch.cat([self.split(part.padded(layer(part.states))) for part in memory], dim=2)
            for layer in (self.key, self.value)
        )
        # exp(score + log n) = n exp(score): as if the key stood there n times.
        bias = count.log()[:, None, None, :].to(query.dtype).expand(-1, -1, query.shape[2], -1)
        found = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        attended: Tensor = self.output(x.pack(found.transpose(1, 2).flatten(2)))
        return attended

    def split(
        self, vectors: Float[Tensor, "batch positions attention_size"]
    ) -> Float[Tensor, "batch heads positions size"]:
        """One part a head."""
        batch, positions, _ = vectors.shape
        return vectors.view(batch, positions, self.attention_heads, -1).transpose(1, 2)


class SpanAggregator(nn.Module):
    """SpanAggr: self-attention over the spans, then cross-attention to what they are made of.

    h = LayerNorm(x + SelfAttention(x)); LayerNorm(h + CrossAttention(h, memory)). It is one
    module: DPE-MNER uses the same name for the span representations and for eqs. 11 and 12.
    """

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.own, self.across = Attention(blocks), Attention(blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(blocks.d_model) for _ in range(2))
        self.dropout = nn.Dropout(blocks.dropout)

    def among(self, spans: Packed) -> Packed:
        """The first half."""
        attended = self.own(spans, spans)
        return spans.holding(self.norms[0](spans.states + self.dropout(attended)))

    def gather(self, hidden: Packed, memory: Packed) -> Packed:
        """The second half."""
        attended = self.across(hidden, memory)
        return hidden.holding(self.norms[1](hidden.states + self.dropout(attended)))


class FeedForward(nn.Module):
    """x ← LayerNorm(x + FFN(x)), with one hidden layer of GELU units."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(blocks.d_model, blocks.feed_forward),
            nn.GELU(),
            nn.Linear(blocks.feed_forward, blocks.d_model),
            nn.Dropout(blocks.dropout),
        )
        self.norm = nn.LayerNorm(blocks.d_model)

    def forward(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The same shape."""
        out: Tensor = self.norm(x + self.layers(x))
        return out


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Image tokens as keys and values of one bottleneck transformer; they stay over all steps.

    Attributes:
        key: Of the tokens of each image.
        value: Likewise.
        mask: True on real tokens.
        count: How often each bottleneck token of each image occurs: once, or not at all.
    """

    key: Float[Tensor, "batch_images heads tokens size"]
    value: Float[Tensor, "batch_images heads tokens size"]
    mask: Bool[Tensor, "batch images tokens"]
    count: Float[Tensor, "batch images_bottlenecks"]


class BottleneckTransformer(nn.Module):
    """MBT of eq. 5: text and image tokens that meet in a few bottleneck tokens only.

    Nagrani et al. 2021, "Attention Bottlenecks for Multimodal Fusion", with one layer, in which the
    image stream comes first: the bottleneck tokens attend to the image tokens and themselves, then
    the text attends to itself and to them. In the symmetric form the text of the only layer would
    see bottleneck tokens that have not seen the image. What the layer makes of the image tokens
    themselves is not used afterwards, and so not computed.

    The paper's posts have one image. Of several, each has the image stream and the bottleneck
    tokens for itself, with the same weights, and the text attends to all of these tokens, so that
    it is the text that chooses among the images. A post without images has bottleneck tokens that
    have seen nothing.
    """

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.tokens = nn.Parameter(0.02 * torch.randn(blocks.bottlenecks, blocks.d_model))
        self.image, self.text = Attention(blocks), Attention(blocks)
        self.image_norm, self.text_norm = (nn.LayerNorm(blocks.d_model) for _ in range(2))
        self.image_feed, self.text_feed = FeedForward(blocks), FeedForward(blocks)
        self.dropout = nn.Dropout(blocks.dropout)

    def look(
        self,
        tokens: Float[Tensor, "batch images tokens d_model"],
        mask: Bool[Tensor, "batch images tokens"],
        images: Bool[Tensor, "batch images"],
    ) -> Seen:
        """Keys and values of image tokens, which no step of the reasoning changes.

        Args:
            tokens: Of each image.
            mask: True on real tokens.
            images: True where there is an image.
        """
        flat = tokens.flatten(0, 1)
        key, value = (self.image.split(layer(flat)) for layer in (self.image.key, self.image.value))
        there = images.clone()
        there[:, 0] |= ~images.any(dim=1)
        count = there.float().repeat_interleave(len(self.tokens), dim=1)
        return Seen(key=key, value=value, mask=mask, count=count)

    def forward(
        self,
        text: Packed,
        seen: Seen,
        weight: Float[Tensor, "batch images tokens"],
    ) -> tuple[Packed, Float[Tensor, "batch images"]]:
        """MBT(text, weight · image).

        Args:
            text: The text stream.
            seen: The image tokens.
            weight: What each image token is multiplied by.

        Returns:
            The text stream; and how much of its bottleneck tokens' attention each image got, from
            0 to 1: the rest went to the bottleneck tokens.
        """
        bottleneck, attention = self._see(seen, weight.flatten(0, 1))
        both = bottleneck.view(*seen.count.shape, -1)
        attended = self.text(text, text, Packed.of(both, seen.count))
        met = self.text_norm(text.states + self.dropout(attended))
        return text.holding(self.text_feed(met)), attention.view(weight.shape[:2])

    def _see(
        self, seen: Seen, weight: Float[Tensor, "batch_images tokens"]
    ) -> tuple[Tensor, Float[Tensor, " batch_images"]]:
        """The bottleneck tokens after the image stream, and how much they looked at the image."""
        own = self.tokens.unsqueeze(0)
        query, key, value = (
            self.image.split(layer(own))
            for layer in (self.image.query, self.image.key, self.image.value)
        )
        query = query / query.shape[-1] ** 0.5
        scale = weight[:, None, :, None].to(query.dtype)
        mask = seen.mask.flatten(0, 1)[:, None, None, :]
        # One row a bottleneck token; so few that the weights can be had beside the result.
        to_image = (query @ seen.key.transpose(2, 3)) * scale.transpose(2, 3)
        to_self = (query @ key.transpose(2, 3)).expand(len(weight), -1, -1, -1)
        scores = torch.cat([to_image.masked_fill(~mask, float("-inf")), to_self], dim=3)
        share = scores.float().softmax(dim=3).to(query.dtype)
        n_image = weight.shape[1]
        at_image, at_self = share[..., :n_image], share[..., n_image:]
        found = (at_image * scale.transpose(2, 3)) @ seen.value + at_self @ value
        attended = self.image.output(found.transpose(1, 2).flatten(2))
        bottleneck = self.image_norm(own + self.dropout(attended))
        return self.image_feed(bottleneck), at_image.detach().float().sum(dim=3).mean(dim=(1, 2))
