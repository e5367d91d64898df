"""The adaptive multi-modal reasoning network (2.2.1, 2.3): spans, and eqs. 11 to 16."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mnerfeat.heads.base import Images, Words
from mnerfeat.heads.dpe.fusion import Context, Fused, Fusion, Text, Timestep
from mnerfeat.heads.dpe.layers import Attention, ElementGate, LayerSizes
from mnerfeat.heads.dpe.packing import Packed, Spans


class SpanAggregator(nn.Module):
    """SpanAggr: self-attention among the spans, then cross-attention to a memory.

    h = LayerNorm(x + SelfAttention(x)); LayerNorm(h + CrossAttention(h, memory)). The paper uses
    one name for the span representations and for eqs. 11 and 12, so one module serves all three.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.own, self.across = Attention(sizes), Attention(sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.d_model) for _ in range(2))
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, spans: Packed, *memories: Packed) -> list[Float[Tensor, "rows d_model"]]:
        """Aggregate each memory by itself; the self-attention is the same for all."""
        attended = self.dropout(self.own(spans, spans))
        hidden = spans.with_states(self.norms[0](spans.states + attended))
        return [
            self.norms[1](hidden.states + self.dropout(self.across(hidden, memory)))
            for memory in memories
        ]


class TimeEmbedding(nn.Module):
    """E_t: sines and cosines of the timestep, through two linear layers (as in DDPM)."""

    rates: Tensor

    def __init__(self, d_model: int) -> None:
        super().__init__()
        half = (d_model + 1) // 2
        rates = torch.exp(-math.log(10_000) * torch.arange(half) / max(1, half - 1))
        self.register_buffer("rates", rates, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * half, d_model), nn.GELU(), nn.Linear(d_model, d_model)
        )

    def forward(self, time: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_model"]:
        """Embed the timestep of each post."""
        angles = time.unsqueeze(1) * self.rates
        embedded: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedded


class TopLayer(nn.Module):
    """Eqs. 13 to 16: mixes what a span found in the words, in the sentence, and itself.

    H_x2s = g ⊙ x_t2s + (1 − g) ⊙ x_g2s                      (13, 14)
    H_m   = g ⊙ H_x2s + (1 − g) ⊙ x_s^m                      (15, 16)

    (The paper writes H_x2s and H_m^x2s for the same thing.)
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.from_text, self.from_all = (ElementGate(d_model) for _ in range(2))

    def forward(
        self,
        words: Float[Tensor, "rows d_model"],
        sentence: Float[Tensor, "rows d_model"],
        spans: Float[Tensor, "rows d_model"],
    ) -> Float[Tensor, "rows d_model"]:
        """Return H_m of x_t2s, x_g2s and x_s^m."""
        from_text = self.from_text(words, sentence)  # eqs. 13, 14
        mixed: Tensor = self.from_all(from_text, spans)  # eqs. 15, 16
        return mixed


class ReasoningNetwork(nn.Module):
    """Noisy spans in, fused span representations out.

    x_s   = SpanAggr(mean of x_t in the span, x_t) + E_t     (2.2.1)
    x_i^m = fusion of x_i with the images                    (3 to 10)
    x_t2s = SpanAggr(x_s^m, x_t^m) + E_t                     (11)
    x_g2s = SpanAggr(x_s^m, x_g^m) + E_t                     (12)
    H_m   = gates of x_t2s, x_g2s and x_s^m                  (13 to 16)

    E_t embeds the timestep: the paper calls it a position embedding, but takes it from Shen et al.
    (2023), where it is that.

    Args:
        sizes: Sizes of the layers.
        fusion: How the text representations meet the images; None for text alone (x_i^m = x_i).
        top: Whether there is a top layer (eqs. 11 to 16); without it, H_m is x_s^m.
    """

    def __init__(self, sizes: LayerSizes, fusion: Fusion | None, *, top: bool = True) -> None:
        super().__init__()
        self.fusion = fusion
        self.aggregator = SpanAggregator(sizes)
        self.time = TimeEmbedding(sizes.d_model)
        self.top = TopLayer(sizes.d_model) if top else None

    def context(self, words: Words, images: Images) -> Context:
        """Compute what does not depend on spans or timestep, once for all steps."""
        if self.fusion is None:
            return Context(words=words)
        return self.fusion.context(words, images)

    def forward(
        self, context: Context, spans: Spans, step: Timestep, *, pairs: bool = False
    ) -> tuple[Packed, Fused]:
        """Take one reasoning step.

        Args:
            context: From `context`.
            spans: The noisy entities of the step before.
            step: The timestep.
            pairs: Also compute the relevance of all pairs of posts in the batch.

        Returns:
            H_m, from which entities are decoded; and what the fusion found.
        """
        words = context.words.states
        means = Packed.of(spans.mean(words), spans.count)
        embedded = means.repeat(self.time(step.time).to(words.dtype))
        (aggregated,) = self.aggregator(means, context.tokens)
        texts: dict[Text, Packed] = {
            "token": context.tokens,
            "sentence": context.sentence,
            "span": means.with_states(aggregated + embedded),  # x_s: (rows, d_model)
        }
        fused = Fused(texts=texts)
        if self.fusion is not None:
            fused = self.fusion(context, texts, step, pairs=pairs)  # eqs. 3 to 10
        span = fused.texts["span"]
        if self.top is not None:
            found = self.aggregator(span, fused.texts["token"], fused.texts["sentence"])
            by_words, by_sentence = (states + embedded for states in found)  # eqs. 11, 12
            span = span.with_states(self.top(by_words, by_sentence, span.states))  # eqs. 13 to 16
        return span, fused
