"""Diverse multi-modal fusion of DPE-MNER (2.3.1): decomposed into three layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mnerfeat.heads.base import Images, Words
from mnerfeat.heads.dpe.attention import Blocks, BottleneckTransformer, Seen
from mnerfeat.heads.dpe.packed import Packed
from mnerfeat.heads.dpe.priority import Priority
from mnerfeat.heads.dpe.reasoning import (
    Context,
    ElementGate,
    Moment,
    Reasoned,
    Reasoner,
    SpanReader,
    TopLayer,
)
from mnerfeat.heads.dpe.relevance import Halves, RelevanceGate
from mnerfeat.heads.dpe.representations import GAPS, GRAINS, Beside, Gap, Grain
from mnerfeat.heads.dpe.spans import Spans

Text = Literal["token", "sentence", "span"]
TEXTS: tuple[Text, ...] = get_args(Text)

Representations = Mapping[tuple[Grain, Gap], nn.Module]
"""Image tokens of each granularity and gap, from `Images`."""


@dataclass(frozen=True, kw_only=True)
class Known(Context):
    """What no step changes, of texts with images.

    Attributes:
        image_mask: True where a post has an image.
        source: By granularity: of each token, 0 where it comes from an image, 1 from its texts.
        seen: The tokens of a granularity as keys and values, by text and image granularity.
        image_halves: What the relevance gates read of the images, likewise.
    """

    image_mask: Bool[Tensor, "batch images"]
    source: Mapping[Grain, Int[Tensor, " tokens"]]
    seen: Mapping[tuple[Text, Grain], Seen]
    image_halves: Mapping[tuple[Text, Grain], Float[Tensor, "batch images hidden"]]


class BottomLayer(nn.Module):
    """Eqs. 3 to 5 for one granularity of the text and one of the images.

    H_v = [w_image y_j ‖ w_text y_jt]                       (3)
    rel = σ(FC[x_i; y_j; y_jt])                              (4)
    x_i^j = MBT(x_i, rel · H_v)                              (5)
    """

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.gate = RelevanceGate(blocks.d_model, means=len(GAPS), hidden=blocks.d_model)
        self.meet = BottleneckTransformer(blocks)


class HierarchicalReasoner(Reasoner[Known]):
    """DPE-MNER's network: fusion decomposed into a bottom, a middle and a top layer.

    Args:
        blocks: Sizes of the layers.
        representations: Image tokens, one module for each granularity and gap.
        columns: The columns that these read.
        priority: The schedules of eqs. 3 and 6.
        concatenate: Put a linear layer of the concatenation in the place of eq. 6 (w/o PMI).
    """

    def __init__(
        self,
        blocks: Blocks,
        representations: Representations,
        columns: tuple[str, ...],
        *,
        priority: Priority,
        concatenate: bool = False,
    ) -> None:
        super().__init__()
        self.columns = columns
        self.priority = priority
        self.representations = nn.ModuleDict(
            {_name(*key): module for key, module in representations.items()}
        )
        self.bottom = nn.ModuleDict(
            {_name(text, grain): BottomLayer(blocks) for text in TEXTS for grain in GRAINS}
        )
        self.mixed, self.middle = (ElementGate(blocks.d_model) for _ in range(2))
        self.concatenated = nn.Linear(2 * blocks.d_model, blocks.d_model) if concatenate else None
        self.reader = SpanReader(blocks)
        self.top = TopLayer(blocks.d_model)

    def look(self, words: Words, images: Images) -> Known:
        """Tokens of all images, and their keys and values for each bottleneck transformer."""
        source, seen, halves = {}, {}, {}
        for grain in GRAINS:
            beside = Beside.of([self.representations[_name(grain, gap)](images) for gap in GAPS])
            source[grain] = beside.source
            tokens = beside.tokens
            for level in TEXTS:
                layer = bottom_layer(self.bottom, level, grain)
                seen[level, grain] = layer.meet.look(tokens.states, tokens.mask, images.mask)
                halves[level, grain] = layer.gate.image(beside.means)
        return Known(
            words=words, image_mask=images.mask, source=source, seen=seen, image_halves=halves
        )

    def forward(
        self, known: Known, spans: Spans, moment: Moment, *, pairs: bool = False
    ) -> Reasoned:
        """Equations 3 to 16."""
        of_spans, embedded = self.reader(known, spans, moment)
        texts: dict[Text, Packed] = {
            "token": known.tokens,
            "sentence": known.sentence,
            "span": of_spans,
        }
        told = Told(known)
        fused: dict[Text, Packed] = {}
        for level, text in texts.items():
            mean = text.mean()
            coarse, fine = (
                self._meet(known, level, grain, text, mean, moment, told) for grain in GRAINS
            )
            fused[level] = self._mix(coarse, fine, moment)
        return Reasoned(
            spans=self.top(
                self.reader.aggregator, fused["span"], fused["token"], fused["sentence"], embedded
            ),
            pairs=told.pairs(self.bottom) if pairs else {},
            images=told.images(),
        )

    def _meet(
        self,
        known: Known,
        level: Text,
        grain: Grain,
        text: Packed,
        mean: Float[Tensor, "batch d_model"],
        moment: Moment,
        told: "Told",
    ) -> Packed:
        """The bottom layer: x_i^j."""
        layer = bottom_layer(self.bottom, level, grain)
        halves = Halves(
            text=layer.gate.text(mean),
            image=known.image_halves[level, grain],
            mask=known.image_mask,
        )
        relevance = layer.gate(halves)  # eq. 4: (batch, images)
        shares = self.priority.gap(moment.share)  # eq. 3: (batch,) each
        weights = torch.stack([relevance * share.unsqueeze(1) for share in shares], dim=2)
        weight = weights[:, :, known.source[grain]]  # (batch, images, tokens)
        met: Packed
        met, attention = layer.meet(text, known.seen[level, grain], weight)
        told.add(level, grain, halves, relevance, attention)
        return met  # eq. 5: (rows, d_model)

    def _mix(self, coarse: Packed, fine: Packed, moment: Moment) -> Packed:
        """The middle layer: x_i^m."""
        x, y = coarse.states, fine.states
        if self.concatenated is None:
            first, second = (
                coarse.each(share.unsqueeze(1).to(x.dtype))
                for share in self.priority.grain(moment.share)
            )
            scheduled = first * x + second * y  # eq. 6: (rows, d_model)
        else:
            scheduled = self.concatenated(torch.cat([x, y], dim=1))
        gated = self.mixed(x, y)  # eqs. 7, 8: (rows, d_model)
        return coarse.holding(self.middle(scheduled, gated))  # eqs. 9, 10


class Told:
    """What the gates and bottleneck tokens of one step tell, gathered for losses and people."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._halves: dict[tuple[Text, Grain], Halves] = {}
        self._relevance: list[Tensor] = []
        self._attention: list[Tensor] = []

    def add(
        self,
        level: Text,
        grain: Grain,
        halves: Halves,
        relevance: Float[Tensor, "batch images"],
        attention: Float[Tensor, "batch images"],
    ) -> None:
        """One meeting of texts and images."""
        self._halves[level, grain] = halves
        self._relevance.append(relevance.detach())
        self._attention.append(attention)

    def pairs(self, bottom: nn.ModuleDict) -> dict[str, Float[Tensor, "batch batch"]]:
        """By text granularity, rel(a, b), averaged over the granularities of the images."""
        found = {}
        for level in TEXTS:
            each = [
                bottom_layer(bottom, level, grain).gate.pairs(self._halves[level, grain])
                for grain in GRAINS
            ]
            found[str(level)] = torch.stack(each).mean(dim=0)
        return found

    def images(self) -> dict[str, Float[Tensor, "batch images"]]:
        """What people can read.

        `relevance`: mean over the gates. `attention`: what each image gets of the attention of its
        bottleneck tokens, mean over all of them.
        """
        mask = self._known.image_mask.float()
        relevance = torch.stack(self._relevance).mean(dim=0)
        attention = torch.stack(self._attention).mean(dim=0)
        return {"relevance": relevance * mask, "attention": attention * mask}


def bottom_layer(layers: nn.ModuleDict, text: Text, grain: Grain) -> BottomLayer:
    """The layer of a granularity of each."""
    layer = layers[_name(text, grain)]
    assert isinstance(layer, BottomLayer)
    return layer


def _name(*parts: str) -> str:
    return "_".join(parts)
