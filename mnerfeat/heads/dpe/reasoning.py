"""What a network of DPE-MNER does at every reasoning step, and what it keeps between steps."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mnerfeat.heads.base import Images, Words
from mnerfeat.heads.dpe.attention import Blocks, SpanAggregator
from mnerfeat.heads.dpe.diffusion import TimeEmbedding
from mnerfeat.heads.dpe.packed import Packed
from mnerfeat.heads.dpe.spans import Spans


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where the reasoning stands.

    Attributes:
        time: The timestep of each post.
        share: s = √ᾱ_t of each post, 0 to 1.
    """

    time: Int[Tensor, " batch"]
    share: Float[Tensor, " batch"]


@dataclass(frozen=True, kw_only=True)
class Reasoned:
    """What one step makes of the spans.

    Attributes:
        spans: H_m, from which entities are decoded.
        pairs: By text granularity, rel(a, b) of the text of post a with the images of post b,
            (batch, batch); empty where not asked for.
        images: By name, what it made of each image, (batch, images), for people to read.
    """

    spans: Packed
    pairs: Mapping[str, Float[Tensor, "batch batch"]] = field(default_factory=dict)
    images: Mapping[str, Float[Tensor, "batch images"]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What no reasoning step changes.

    Attributes:
        words: x_t and x_g: the words' states and the sentence's.
    """

    words: Words

    @cached_property
    def tokens(self) -> Packed:
        """x_t."""
        return Packed.of(self.words.states, self.words.mask.float())

    @cached_property
    def sentence(self) -> Packed:
        """x_g as a sequence of one."""
        return Packed.whole(self.words.sentence.unsqueeze(1))


Known = TypeVar("Known", bound=Context)


class Reasoner(nn.Module, ABC, Generic[Known]):
    """The adaptive multi-modal reasoning network: noisy spans in, span representations out.

    Attributes:
        columns: The image columns it reads.
    """

    columns: tuple[str, ...]

    @abstractmethod
    def look(self, words: Words, images: Images) -> Known:
        """Everything that does not depend on spans or time."""

    @abstractmethod
    def forward(
        self, known: Known, spans: Spans, moment: Moment, *, pairs: bool = False
    ) -> Reasoned:
        """One reasoning step.

        Args:
            known: From `look`.
            spans: The entities of the step before, noisy.
            moment: The timestep.
            pairs: Whether the relevance of all pairs in the batch is wanted.
        """


class ElementGate(nn.Module):
    """g = σ([a; b] W + b), g ⊙ a + (1 − g) ⊙ b: eqs. 7 and 8, 9 and 10, 13 and 14, 15 and 16."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * d_model, d_model)

    def forward(
        self, a: Float[Tensor, "rows d_model"], b: Float[Tensor, "rows d_model"]
    ) -> Float[Tensor, "rows d_model"]:
        """The mixture."""
        gate: Tensor = self.layer(torch.cat([a, b], dim=1)).sigmoid()
        # Not by torch.lerp, which takes one dtype only: under autocast there are two.
        return b + gate * (a - b)


class SpanReader(nn.Module):
    """Span representations (2.2.1): x_s = SpanAggr(mean of x_t over the span, x_t) + E_t.

    E_t is an embedding of the timestep: the paper calls it a position embedding, but takes it from
    Shen et al. (2023).
    """

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.aggregator = SpanAggregator(blocks)
        self.time = TimeEmbedding(blocks.d_model)

    def forward(
        self, known: Context, spans: Spans, moment: Moment
    ) -> tuple[Packed, Float[Tensor, "rows d_model"]]:
        """x_s, and E_t for each of them."""
        words = known.words.states
        means = Packed.of(spans.mean(words), spans.count)
        embedded = means.each(self.time(moment.time).to(words.dtype))
        gathered = self.aggregator.gather(self.aggregator.among(means), known.tokens)
        return gathered.holding(gathered.states + embedded), embedded


class TopLayer(nn.Module):
    """Eqs. 11 to 16: the three text granularities become one representation a span.

    x_t2s = SpanAggr(x_s^m, x_t^m) + E_t                     (11)
    x_g2s = SpanAggr(x_s^m, x_g^m) + E_t                     (12)
    H_x2s = g ⊙ x_t2s + (1 − g) ⊙ x_g2s                      (13, 14)
    H_m   = g ⊙ H_x2s + (1 − g) ⊙ x_s^m                      (15, 16)

    (The paper writes H_x2s and H_m^x2s for the same thing.)
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.from_text, self.from_all = (ElementGate(d_model) for _ in range(2))

    def forward(
        self,
        aggregator: SpanAggregator,
        spans: Packed,
        words: Packed,
        sentence: Packed,
        embedded: Float[Tensor, "rows d_model"],
    ) -> Packed:
        """H_m.

        Args:
            aggregator: SpanAggr.
            spans: x_s^m.
            words: x_t^m.
            sentence: x_g^m.
            embedded: E_t, for each span.
        """
        hidden = aggregator.among(spans)
        by_words = aggregator.gather(hidden, words).states + embedded  # eq. 11
        by_sentence = aggregator.gather(hidden, sentence).states + embedded  # eq. 12
        from_text = self.from_text(by_words, by_sentence)  # eqs. 13, 14: (rows, d_model)
        return spans.holding(self.from_all(from_text, spans.states))  # eqs. 15, 16


class TextReasoner(Reasoner[Context]):
    """BERT-Iterative: the network without images, x_i^m = x_i."""

    columns = ()

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.reader = SpanReader(blocks)
        self.top = TopLayer(blocks.d_model)

    def look(self, words: Words, images: Images) -> Context:  # noqa: ARG002
        """The words alone."""
        return Context(words=words)

    def forward(
        self,
        known: Context,
        spans: Spans,
        moment: Moment,
        *,
        pairs: bool = False,  # noqa: ARG002
    ) -> Reasoned:
        """One step on text alone."""
        of_spans, embedded = self.reader(known, spans, moment)
        aggregator = self.reader.aggregator
        fused = self.top(aggregator, of_spans, known.tokens, known.sentence, embedded)
        return Reasoned(spans=fused)
