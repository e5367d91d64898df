"""DPE-MNER: decompose, prioritize, eliminate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

from torch import nn

from mnerfeat.heads.base import HeadSizes
from mnerfeat.heads.dpe.config import DiffusionConfig
from mnerfeat.heads.dpe.flat import FlatReasoner
from mnerfeat.heads.dpe.fusion import TEXTS, HierarchicalReasoner
from mnerfeat.heads.dpe.head import DiffusionHead
from mnerfeat.heads.dpe.priority import Priority, Schedule
from mnerfeat.heads.dpe.reasoning import Reasoner
from mnerfeat.heads.dpe.relevance import Alignment
from mnerfeat.heads.dpe.representations import (
    COLUMNS,
    GAPS,
    GRAINS,
    Gap,
    Grain,
    Projected,
    Stranger,
)
from mnerfeat.heads.dpe.static import StaticFusion, StaticReasoner

Ablation = Literal[
    "none",
    "no-pmi",
    "no-dmf",
    "no-crm",
    "no-token",
    "no-span",
    "no-sentence",
    "max-pool",
    "mean-pool",
    "mlp",
    "moe",
    "no-coarse",
    "no-fine",
    "reverse-grain",
    "reverse-gap",
    "reverse-both",
]

WITHOUT_GRAIN: Mapping[str, Grain] = {"no-coarse": "coarse", "no-fine": "fine"}
"""The image granularity that an ablation of Table 4 takes away."""

WITHOUT_TEXT: Mapping[str, str] = {f"no-{text}": text for text in TEXTS}
"""The text granularity whose alignment loss an ablation of Table 2 takes away."""


@dataclass(frozen=True, kw_only=True)
class DpeConfig(DiffusionConfig):
    """Options of DPE-MNER."""

    name: ClassVar[str] = "dpe"

    ablation: Ablation = "none"
    """Part left out. Table 2: `no-pmi` (priorities), `no-dmf` (decomposition), `no-crm` (relevance
    losses), `no-token`, `no-span`, `no-sentence` (one of these losses). Table 3, static fusion:
    `max-pool`, `mean-pool`, `mlp`, `moe`. Table 4: `no-coarse`, `no-fine` (image features),
    `reverse-grain`, `reverse-gap`, `reverse-both` (priorities)."""

    schedule: Schedule = "paper"
    """Priorities: `paper`, eqs. 3 and 6 as they stand, which prefer the hard and fine first; or
    `intent`, the easy and coarse first, as the paper's prose says."""

    gap_share: float = 0.3
    """λ_x of eq. 3, 0 to 1; for `intent` at most 0.5."""

    grain_share: float = 0.3
    """λ_y of eq. 6, 0 to 1; for `intent` at most 0.5."""

    bottlenecks: int = 4
    """Bottleneck tokens of each bottleneck transformer."""

    temperature: float = 0.1
    """τ of eqs. 17 and 18, above 0."""

    alignment_share: float = 0.5
    """λ_rel of eq. 19: the share of texts that have to find their images, 0 to 1; the rest is of
    images that have to find their texts."""

    def own_faults(self) -> Iterator[str]:
        """What is wrong with these options."""
        yield from self.one_of("ablation", get_args(Ablation))
        yield from self.one_of("schedule", get_args(Schedule))
        yield from self.at_least("bottlenecks", 1)
        most = 0.5 if self.schedule == "intent" else 1
        for name, limit in (("gap_share", most), ("grain_share", most), ("alignment_share", 1)):
            if not 0 <= getattr(self, name) <= limit:
                yield self.fault(name, f"it must be in [0, {limit}]")
        if not self.temperature > 0:
            yield self.fault("temperature", "it must be above 0")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the image granularities that the ablation leaves."""
        return tuple(
            column
            for (grain, _), columns in COLUMNS.items()
            if grain != WITHOUT_GRAIN.get(self.ablation)
            for column in columns
        )

    @property
    def bottleneck_tokens(self) -> int:
        """Of each bottleneck transformer."""
        return self.bottlenecks

    @property
    def priority(self) -> Priority:
        """The schedules of eqs. 3 and 6."""
        return Priority(
            schedule=self.schedule,
            gap_share=self.gap_share,
            grain_share=self.grain_share,
            reverse_gap=self.ablation in ("reverse-gap", "reverse-both"),
            reverse_grain=self.ablation in ("reverse-grain", "reverse-both"),
            equal=self.ablation == "no-pmi",
        )

    @property
    def alignment(self) -> Alignment | None:
        """The relevance losses that the ablation leaves."""
        if self.ablation == "no-crm" or self.ablation in get_args(StaticFusion):
            return None
        texts = tuple(text for text in TEXTS if text != WITHOUT_TEXT.get(self.ablation))
        return Alignment(texts=texts, temperature=self.temperature, text_share=self.alignment_share)

    def build(self, sizes: HeadSizes) -> DiffusionHead:
        """A DPE-MNER head with fresh weights."""
        return DiffusionHead(
            self,
            self._reasoner(sizes),
            d_text=sizes.d_text,
            n_tags=sizes.n_tags,
            align=self.alignment,
        )

    def _reasoner(self, sizes: HeadSizes) -> Reasoner[Any]:
        representations: dict[tuple[Grain, Gap], nn.Module] = {}
        for grain in GRAINS:
            for gap in GAPS:
                columns = COLUMNS[grain, gap]
                representations[grain, gap] = (
                    Stranger(d_model=sizes.d_text)
                    if grain == WITHOUT_GRAIN.get(self.ablation)
                    else Projected(columns, d_image=sizes.columns[columns[0]], d_model=sizes.d_text)
                )
        blocks = self.blocks(sizes)
        parts = (blocks, representations, self.columns)
        if self.ablation in get_args(StaticFusion):
            return StaticReasoner(*parts, fusion=cast("StaticFusion", self.ablation))
        if self.ablation == "no-dmf":
            return FlatReasoner(*parts, priority=self.priority)
        return HierarchicalReasoner(
            *parts, priority=self.priority, concatenate=self.ablation == "no-pmi"
        )
