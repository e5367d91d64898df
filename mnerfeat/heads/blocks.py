"""The transformer block that several heads are made of."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["post", "pre", "bare"]
"""Form of a transformer block; see `TransformerBlock`."""


def feed_forward(d_model: int, *, dropout: float) -> nn.Sequential:
    """Return the feed-forward layer of a transformer block, with 4 · d_model hidden units."""
    return nn.Sequential(
        nn.Linear(d_model, 4 * d_model),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(4 * d_model, d_model),
    )


class TransformerBlock(nn.Module):
    """Multi-head attention and a feed-forward layer, each with a residual connection.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.1. Self-attention if
    `memory` is `x` itself, else cross-attention. The form is one of

        post:  x ← LayerNorm(x + Attention(x, memory));  x ← LayerNorm(x + FFN(x))
        pre:   x ← x + Attention(LayerNorm(x), memory);  x ← x + FFN(LayerNorm(x))
        bare:  x ← x + Attention(x, memory)

    `post` is the form of that paper. `pre` follows Xiong et al., "On Layer Normalization in the
    Transformer Architecture", ICML 2020: in self-attention, keys and values are normalised like
    the queries; in cross-attention, `memory` is taken as it is.

    If the mask leaves a row nothing to attend to, zero takes the place of the attention's output.

    Args:
        d_model: Size of the vectors of `x` and `memory`.
        attention_heads: Number of attention heads; divides `d_model`.
        dropout: Dropout of the attention weights, inside the feed-forward layer and before each
            sum.
        norm: Form of the block.
    """

    def __init__(
        self, d_model: int, *, attention_heads: int, dropout: float, norm: Norm = "post"
    ) -> None:
        super().__init__()
        self.norm = norm
        # Holds the parameters; `_attend` computes the attention, of real rows only.
        self.attention = nn.MultiheadAttention(
            d_model, attention_heads, dropout=dropout, batch_first=True
        )
        self.dropout = nn.Dropout(dropout)
        if norm != "bare":
            self.feed_forward = feed_forward(d_model, dropout=dropout)
            self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2))

    def forward(
        self,
        x: Float[Tensor, "batch queries d_model"],
        memory: Float[Tensor, "batch keys d_model"],
        mask: Bool[Tensor, "batch keys"],
        rows: Int[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, "batch queries d_model"]:
        """Attend from `x` to the part of `memory` where `mask` is True.

        Args:
            x: The queries.
            memory: The vectors that they attend to.
            mask: True for vectors of `memory` that exist.
            rows: Indices into `x` as (batch · queries, d_model) of the rows to compute
                (`real_rows`); the others are returned as zero. None computes all.
        """
        batch, queries, d_model = x.shape
        some = mask.any(dim=1, keepdim=True)
        # A softmax over nothing is NaN: rows without memory attend to all, and get zero below.
        seen = mask | ~some
        flat = x.flatten(0, 1)
        if rows is not None:
            flat = flat[rows]  # (rows, d_model), from here on
            some = some.expand(batch, queries).flatten()[rows]
        else:
            some = some.expand(batch, queries).flatten()
        query = self.norms[0](flat) if self.norm == "pre" else flat
        attended = self._attend(query, None if memory is x else memory, seen, rows, queries)
        flat = flat + self.dropout(torch.where(some[:, None], attended, 0.0))
        if self.norm == "post":
            flat = self.norms[0](flat)
            flat = self.norms[1](flat + self.dropout(self.feed_forward(flat)))
        elif self.norm == "pre":
            flat = flat + self.dropout(self.feed_forward(self.norms[1](flat)))
        return spread(flat, rows, batch * queries).view(batch, queries, d_model)

    def _attend(
        self,
        flat: Float[Tensor, "rows d_model"],
        memory: Float[Tensor, "batch keys d_model"] | None,
        seen: Bool[Tensor, "batch keys"],
        rows: Int[Tensor, " rows"] | None,
        queries: int,
    ) -> Float[Tensor, "rows d_model"]:
        attention = self.attention
        batch, heads = len(seen), attention.num_heads
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        if memory is None:
            projected = spread(functional.linear(flat, weight, bias), rows, batch * queries)
            query, key, value = projected.chunk(3, dim=1)
        else:
            d_model = flat.shape[1]
            query = functional.linear(flat, weight[:d_model], bias[:d_model])
            query = spread(query, rows, batch * queries)
            both = functional.linear(memory, weight[d_model:], bias[d_model:])
            key, value = both.flatten(0, 1).chunk(2, dim=1)

        def split(states: Tensor) -> Tensor:
            return states.reshape(batch, -1, heads, states.shape[1] // heads).transpose(1, 2)

        attended = functional.scaled_dot_product_attention(
            split(query),
            split(key),
            split(value),
            attn_mask=seen[:, None, None, :],
            dropout_p=attention.dropout if self.training else 0.0,
        )  # (batch, heads, queries, d_model / heads)
        merged = attended.transpose(1, 2).reshape(batch * queries, -1)
        out: Tensor = attention.out_proj(merged if rows is None else merged[rows])
        return out


def real_rows(mask: Bool[Tensor, "batch words"]) -> Int[Tensor, " rows"] | None:
    """Return the indices of the real words in (batch · words), or None on a GPU.

    On a CPU, computing a batch's padding would cost as much as computing its words. On a GPU,
    counting the words would cost a synchronisation, and padding is cheap.
    """
    return mask.flatten().nonzero().squeeze(1) if mask.device.type == "cpu" else None


def spread(
    flat: Float[Tensor, "rows size"], rows: Int[Tensor, " rows"] | None, length: int
) -> Float[Tensor, "length size"]:
    """Return the rows in their places among zeros."""
    if rows is None:
        return flat
    return flat.new_zeros(length, flat.shape[1]).index_copy(0, rows, flat)
