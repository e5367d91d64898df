"""DPE-MNER without decomposition (Table 2, w/o DMF): everything meets in one layer."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mnerfeat.heads.base import Images, Words
from mnerfeat.heads.dpe.attention import Blocks, BottleneckTransformer, Seen
from mnerfeat.heads.dpe.fusion import TEXTS, Representations
from mnerfeat.heads.dpe.packed import Packed
from mnerfeat.heads.dpe.priority import Priority
from mnerfeat.heads.dpe.reasoning import Context, Moment, Reasoned, Reasoner, SpanReader
from mnerfeat.heads.dpe.relevance import Halves, RelevanceGate
from mnerfeat.heads.dpe.representations import GAPS, GRAINS, Beside
from mnerfeat.heads.dpe.spans import Spans


@dataclass(frozen=True, kw_only=True)
class FlatKnown(Context):
    """What no step changes.

    Attributes:
        image_mask: True where a post has an image.
        seen: All image tokens as keys and values.
        source: Of each token, which of the four representations it comes from.
        image_halves: What the relevance gates read of the images, by text granularity.
    """

    image_mask: Bool[Tensor, "batch images"]
    seen: Seen
    source: Int[Tensor, " tokens"]
    image_halves: dict[str, Float[Tensor, "batch images hidden"]]


class FlatReasoner(Reasoner[FlatKnown]):
    """One bottleneck transformer between all text and all image representations.

    The text stream is [x_g; x_t; x_s], the image stream [w_c w_i y_c ‖ w_c w_t y_ct ‖ w_f w_i y_f ‖
    w_f w_t y_ft] with the weights of eqs. 3 and 6, so the priorities remain. Each text granularity
    keeps its relevance (eq. 4, with all four image representations), and so its loss; the gate is
    their mean. The span vectors that come out are H_m.

    Args:
        blocks: Sizes of the layers.
        representations: Image tokens, one module for each granularity and gap.
        columns: The columns that these read.
        priority: The schedules of eqs. 3 and 6.
    """

    def __init__(
        self,
        blocks: Blocks,
        representations: Representations,
        columns: tuple[str, ...],
        *,
        priority: Priority,
    ) -> None:
        super().__init__()
        self.columns = columns
        self.priority = priority
        self.representations = nn.ModuleList(
            representations[grain, gap] for grain in GRAINS for gap in GAPS
        )
        self.gates = nn.ModuleDict(
            {
                text: RelevanceGate(
                    blocks.d_model, means=len(self.representations), hidden=blocks.d_model
                )
                for text in TEXTS
            }
        )
        self.meet = BottleneckTransformer(blocks)
        self.reader = SpanReader(blocks)

    def look(self, words: Words, images: Images) -> FlatKnown:
        """All tokens of an image side by side."""
        beside = Beside.of([module(images) for module in self.representations])
        return FlatKnown(
            words=words,
            image_mask=images.mask,
            seen=self.meet.look(beside.tokens.states, beside.tokens.mask, images.mask),
            source=beside.source,
            image_halves={text: self._gate(text).image(beside.means) for text in TEXTS},
        )

    def forward(
        self, known: FlatKnown, spans: Spans, moment: Moment, *, pairs: bool = False
    ) -> Reasoned:
        """One meeting of everything."""
        of_spans, _ = self.reader(known, spans, moment)
        streams = (known.tokens, known.sentence, of_spans)
        halves = {
            text: Halves(
                text=self._gate(text).text(stream.mean()),
                image=known.image_halves[text],
                mask=known.image_mask,
            )
            for text, stream in zip(TEXTS, streams, strict=True)
        }
        relevance = torch.stack([self._gate(text)(halves[text]) for text in TEXTS]).mean(dim=0)
        weights = torch.stack(
            [
                relevance * (grain * gap).unsqueeze(1)
                for grain in self.priority.grain(moment.share)
                for gap in self.priority.gap(moment.share)
            ],
            dim=2,
        )  # eqs. 3, 4, 6: (batch, images, representations)
        met, attention = self.meet(
            Packed.of(
                torch.cat([stream.padded() for stream in streams], dim=1),
                torch.cat([stream.count for stream in streams], dim=1),
            ),
            known.seen,
            weights[:, :, known.source],
        )
        mask = known.image_mask.float()
        return Reasoned(
            spans=of_spans.holding(of_spans.pack(met.padded()[:, -spans.count.shape[1] :])),
            pairs={text: self._gate(text).pairs(halves[text]) for text in TEXTS} if pairs else {},
            images={
                "relevance": relevance.detach() * mask,
                "attention": attention * mask,
            },
        )

    def _gate(self, text: str) -> RelevanceGate:
        gate = self.gates[text]
        assert isinstance(gate, RelevanceGate)
        return gate
