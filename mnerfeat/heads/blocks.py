"""The transformer block that several heads are made of."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class TransformerBlock(nn.Module):
    """Multi-head attention and a feed-forward layer, each with residual and norm after it.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.1, post-norm as there:
    x ← LayerNorm(x + Attention(x, memory)); x ← LayerNorm(x + FFN(x)). Self-attention where
    `memory` is `x` itself, cross-attention where it is something else.

    A row whose memory is masked out altogether attends to nothing: zero is added to it, and it
    goes on through norm and feed-forward layer.

    Args:
        d_model: Size of the vectors, of `x` and `memory` alike.
        attention_heads: Attention heads; divides `d_model`.
        dropout: On attention weights, inside the feed-forward layer and before each sum.
    """

    def __init__(self, d_model: int, *, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            d_model, attention_heads, dropout=dropout, batch_first=True
        )
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, 4 * d_model),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * d_model, d_model),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch queries d_model"],
        memory: Float[Tensor, "batch keys d_model"],
        mask: Bool[Tensor, "batch keys"],
    ) -> Float[Tensor, "batch queries d_model"]:
        """Attend from `x` to the part of `memory` where `mask` is True."""
        some = mask.any(dim=1)  # (batch,)
        # A softmax over nothing is NaN, so empty rows attend to all and the result is dropped.
        hidden = ~(mask | ~some.unsqueeze(1))
        attended, _ = self.attention(x, memory, memory, key_padding_mask=hidden, need_weights=False)
        attended = torch.where(some[:, None, None], attended, 0.0)
        x = self.norms[0](x + self.dropout(attended))
        out: Tensor = self.norms[1](x + self.dropout(self.feed_forward(x)))
        return out
