"""Layers that fusion and network share: attention, feed-forward layer, element-wise gate."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mnerfeat.heads.dpe.packing import Packed


@dataclass(frozen=True, kw_only=True)
class LayerSizes:
    """Sizes of the network's layers.

    Attributes:
        d_model: Size of the vectors that layers take and return.
        attention_size: Size of queries, keys and values, all attention heads together.
        attention_heads: Attention heads; divides `attention_size`.
        feed_forward: Hidden units of feed-forward layers.
        bottlenecks: Bottleneck tokens of each bottleneck transformer.
        dropout: Dropout on the output of attention and feed-forward layers.
    """

    d_model: int
    attention_size: int
    attention_heads: int
    feed_forward: int
    bottlenecks: int
    dropout: float


class Attention(nn.Module):
    """Multi-head attention to multisets: a key counts as often as its `count` says.

    Keys and values have no bias: that of the keys would change no result, and `output` has one in
    place of that of the values. So keys and values of a scaled vector are the scaled keys and
    values.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.attention_heads = sizes.attention_heads
        self.query = nn.Linear(sizes.d_model, sizes.attention_size)
        self.key = nn.Linear(sizes.d_model, sizes.attention_size, bias=False)
        self.value = nn.Linear(sizes.d_model, sizes.attention_size, bias=False)
        self.output = nn.Linear(sizes.attention_size, sizes.d_model)

    def forward(self, x: Packed, *memory: Packed) -> Float[Tensor, "rows d_model"]:
        """Attend from each vector of `x` to the post's vectors in `memory`, of which it has some.

        Args:
            x: Queries.
            memory: Keys and values; several are concatenated.
        """
        count = torch.cat([part.count for part in memory], dim=1)
        query = self.split(x.padded(self.query(x.states)))
        key, value = (
            torch.cat([self.split(part.padded(layer(part.states))) for part in memory], dim=2)
            for layer in (self.key, self.value)
        )
        # exp(score + log n) = n exp(score): as if the key occurred n times.
        bias = count.log()[:, None, None, :].to(query.dtype).expand(-1, -1, query.shape[2], -1)
        found = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        attended: Tensor = self.output(x.pack(found.transpose(1, 2).flatten(2)))
        return attended

    def split(
        self, vectors: Float[Tensor, "batch positions attention_size"]
    ) -> Float[Tensor, "batch heads positions size"]:
        """Divide vectors among the attention heads."""
        batch, positions, _ = vectors.shape
        return vectors.view(batch, positions, self.attention_heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """x ← LayerNorm(x + FFN(x)), with one hidden layer of GELU units."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(sizes.d_model, sizes.feed_forward),
            nn.GELU(),
            nn.Linear(sizes.feed_forward, sizes.d_model),
            nn.Dropout(sizes.dropout),
        )
        self.norm = nn.LayerNorm(sizes.d_model)

    def forward(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Apply the layer to each vector."""
        out: Tensor = self.norm(x + self.layers(x))
        return out


class ElementGate(nn.Module):
    """g = σ([a; b] W + b), g ⊙ a + (1 − g) ⊙ b: eqs. 7 and 8, 9 and 10, 13 and 14, 15 and 16."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * d_model, d_model)

    def forward(
        self, a: Float[Tensor, "rows d_model"], b: Float[Tensor, "rows d_model"]
    ) -> Float[Tensor, "rows d_model"]:
        """Mix two vectors, element by element."""
        gate: Tensor = self.layer(torch.cat([a, b], dim=1)).sigmoid()
        # Not torch.lerp, which takes one dtype only: under autocast there are two.
        return b + gate * (a - b)
