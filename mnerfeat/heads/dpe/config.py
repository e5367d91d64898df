"""The options of DPE-MNER and BERT-Iterative, and how they build a head."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

from mnerfeat.errors import ConfigError
from mnerfeat.heads.base import HeadConfig, HeadSizes
from mnerfeat.heads.dpe.ablations import FlatFusion, RandomVector, Static, StaticFusion
from mnerfeat.heads.dpe.diffusion import Diffusion, Noise
from mnerfeat.heads.dpe.entities import EntityDecoder, LossOptions, Pointer, Reduction
from mnerfeat.heads.dpe.fusion import (
    COLUMNS,
    TEXTS,
    DecomposedFusion,
    Fusion,
    Priority,
    Projection,
    Representations,
    Schedule,
    View,
)
from mnerfeat.heads.dpe.head import Alignment, DiffusionHead
from mnerfeat.heads.dpe.layers import LayerSizes
from mnerfeat.heads.dpe.network import ReasoningNetwork

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
    "no-grid",
    "no-caption",
    "no-regions",
    "no-tags",
    "reverse-grain",
    "reverse-gap",
    "reverse-both",
]
WITHOUT_VIEWS: Mapping[str, tuple[View, ...]] = {
    "no-coarse": (("coarse", "image"), ("coarse", "text")),
    "no-fine": (("fine", "image"), ("fine", "text")),
    "no-grid": (("coarse", "image"),),
    "no-caption": (("coarse", "text"),),
    "no-regions": (("fine", "image"),),
    "no-tags": (("fine", "text"),),
}
"""The image representations that an ablation takes away."""


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(HeadConfig):
    """Options of a head that reasons in steps."""

    name: ClassVar[str]
    """Name of the head, for messages."""

    spans: int = 150
    """Noisy spans of each post (N_s), in training and inference."""

    steps: int = 5
    """Reasoning steps in inference."""

    timesteps: int = 1000
    """Timesteps of the diffusion in training."""

    noise: Noise = "linear"
    """Noise schedule: `linear` (β from 1e-4 to 0.02) or `cosine`."""

    scale: float = 1.0
    """Half the range of the boundaries in the diffusion: the smaller, the sooner noise drowns
    them."""

    threshold: float | None = None
    """Least sum of the probabilities of an entity's first word, last word and type, 0 to 3; null
    chooses it on dev after each epoch."""

    pointer: Pointer = "square"
    """Activation of the boundary pointers: `square`, or `relu` as in DiffusionNER."""

    loss: Reduction = "mean"
    """NER loss over the spans of a post: their `mean`, or their `sum` as printed in the paper (with
    both weights 1)."""

    boundary_weight: float = 5.0
    """Weight of the boundaries in matching and loss."""

    type_weight: float = 5.0
    """Weight of the types in matching and loss."""

    nil_weight: float = 1.0
    """Weight of spans that are no entity, among the types."""

    attention_size: int = 128
    """Attention dimension of the head, over all attention heads."""

    attention_heads: int = 4
    """Attention heads of each attention layer of the head."""

    feed_forward: int = 256
    """Hidden units of the bottleneck transformers' feed-forward layers."""

    dropout: float = 0.1
    """Dropout in the head, 0 to 1."""

    def __post_init__(self) -> None:
        faults = [*self._shared_faults(), *self._own_faults()]
        if faults:
            raise ConfigError(f"the {self.name} head has invalid options:", faults=faults)

    def _shared_faults(self) -> Iterator[str]:
        for name in ("spans", "steps", "timesteps", "attention_size", "attention_heads"):
            yield from self._check(name, getattr(self, name) >= 1, "at least 1 is needed")
        for name in ("feed_forward", "boundary_weight", "type_weight", "nil_weight"):
            yield from self._check(name, getattr(self, name) >= 0, "at least 0 is needed")
        yield from self._choice("noise", get_args(Noise))
        yield from self._choice("pointer", get_args(Pointer))
        yield from self._choice("loss", get_args(Reduction))
        most = f"at most timesteps ({self.timesteps}) are possible"
        yield from self._check("steps", self.steps <= self.timesteps, most)
        yield from self._check("scale", self.scale > 0, "it must be above 0")
        fits = self.threshold is None or 0 <= self.threshold <= 3
        yield from self._check("threshold", fits, "it must be in [0, 3]")
        yield from self._check("dropout", 0 <= self.dropout < 1, "it must be in [0, 1)")
        divides = self.attention_heads < 1 or self.attention_size % self.attention_heads == 0
        yield from self._check("attention_heads", divides, f"it must divide {self.attention_size}")

    def _check(self, option: str, fits: bool, wanted: str) -> Iterator[str]:
        if not fits:
            yield f"head.{self.name}.{option} is {getattr(self, option)!r}; {wanted}"

    def _choice(self, option: str, choices: tuple[str, ...]) -> Iterator[str]:
        wanted = f"choose from: {', '.join(choices)}"
        yield from self._check(option, getattr(self, option) in choices, wanted)

    @abstractmethod
    def _own_faults(self) -> Iterator[str]:
        """Check the options that are not shared."""

    @property
    def no_entities_hint(self) -> str:
        """Advice if a trained head finds nothing."""
        longer = "train for more epochs (train.epochs), or at higher rates (train.fusion_lr)"
        if self.threshold is None:
            return longer
        return (
            f"no entity scores above head.{self.name}.threshold ({self.threshold}): leave it out "
            f"to have it chosen on dev, or {longer}"
        )

    def layers(self, sizes: HeadSizes, bottlenecks: int) -> LayerSizes:
        """Return the sizes of the network's layers."""
        return LayerSizes(
            d_model=sizes.d_text,
            attention_size=self.attention_size,
            attention_heads=self.attention_heads,
            feed_forward=self.feed_forward,
            bottlenecks=bottlenecks,
            dropout=self.dropout,
        )

    def head(
        self, sizes: HeadSizes, network: ReasoningNetwork, alignment: Alignment | None
    ) -> DiffusionHead:
        """Build the head around a network."""
        return DiffusionHead(
            network,
            EntityDecoder(
                sizes.d_text,
                types=(sizes.n_tags - 1) // 2,
                dropout=self.dropout,
                pointer=self.pointer,
            ),
            Diffusion(self.noise, timesteps=self.timesteps, steps=self.steps),
            spans=self.spans,
            scale=self.scale,
            loss=LossOptions(
                boundary=self.boundary_weight,
                kind=self.type_weight,
                nil=self.nil_weight,
                reduction=self.loss,
            ),
            threshold=self.threshold,
            alignment=alignment,
        )


@dataclass(frozen=True, kw_only=True)
class IterativeConfig(DiffusionConfig):
    """Options of BERT-Iterative."""

    name: ClassVar[str] = "iterative"

    def _own_faults(self) -> Iterator[str]:
        yield from ()

    @property
    def columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    def build(self, sizes: HeadSizes) -> DiffusionHead:
        """Build a BERT-Iterative head with fresh weights."""
        layers = self.layers(sizes, bottlenecks=0)
        return self.head(sizes, ReasoningNetwork(layers, None), None)


@dataclass(frozen=True, kw_only=True)
class DpeConfig(DiffusionConfig):
    """Options of DPE-MNER."""

    name: ClassVar[str] = "dpe"

    ablation: Ablation = "none"
    """Part left out. Table 2: `no-pmi` (priorities), `no-dmf` (decomposition), `no-crm` (relevance
    losses), `no-token`, `no-span`, `no-sentence` (one of these losses). Table 3, static fusion:
    `max-pool`, `mean-pool`, `mlp`, `moe`. Table 4: `no-coarse`, `no-fine` (image features),
    `reverse-grain`, `reverse-gap`, `reverse-both` (priorities). Not in the paper: `no-grid`,
    `no-caption`, `no-regions`, `no-tags` (one representation)."""

    schedule: Schedule = "paper"
    """Priorities: `paper`, eqs. 3 and 6 as printed, which prefer the hard and fine first; or
    `intent`, the easy and coarse first, as the paper's prose says."""

    gap_share: float = 0.3
    """λ_x of eq. 3, 0 to 1; at most 0.5 for `intent`."""

    grain_share: float = 0.3
    """λ_y of eq. 6, 0 to 1; at most 0.5 for `intent`."""

    bottlenecks: int = 4
    """Bottleneck tokens of each bottleneck transformer."""

    temperature: float = 0.1
    """τ of eqs. 17 and 18, above 0."""

    alignment_share: float = 0.5
    """λ_rel of eq. 19: share of the loss from text to image, 0 to 1; the rest is from image to
    text."""

    def _own_faults(self) -> Iterator[str]:
        yield from self._choice("ablation", get_args(Ablation))
        yield from self._choice("schedule", get_args(Schedule))
        yield from self._check("bottlenecks", self.bottlenecks >= 1, "at least 1 is needed")
        most = 0.5 if self.schedule == "intent" else 1
        for name, limit in (("gap_share", most), ("grain_share", most), ("alignment_share", 1)):
            fits = 0 <= getattr(self, name) <= limit
            yield from self._check(name, fits, f"it must be in [0, {limit}]")
        yield from self._check("temperature", self.temperature > 0, "it must be above 0")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the image representations that the ablation leaves."""
        absent = WITHOUT_VIEWS.get(self.ablation, ())
        return tuple(
            column for view, columns in COLUMNS.items() if view not in absent for column in columns
        )

    @property
    def priority(self) -> Priority:
        """The weights of eqs. 3 and 6."""
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
        if self.ablation in ("no-crm", *get_args(Static)):
            return None
        texts = tuple(text for text in TEXTS if self.ablation != f"no-{text}")
        return Alignment(texts=texts, temperature=self.temperature, text_share=self.alignment_share)

    def build(self, sizes: HeadSizes) -> DiffusionHead:
        """Build a DPE-MNER head with fresh weights."""
        layers = self.layers(sizes, self.bottlenecks)
        fusion = self._fusion(sizes, layers)
        network = ReasoningNetwork(layers, fusion, top=self.ablation != "no-dmf")
        return self.head(sizes, network, self.alignment)

    def _fusion(self, sizes: HeadSizes, layers: LayerSizes) -> Fusion:
        absent = WITHOUT_VIEWS.get(self.ablation, ())
        representations = Representations(
            {
                "_".join(view): RandomVector(d_model=sizes.d_text)
                if view in absent
                else Projection(columns, d_image=sizes.columns[columns[0]], d_model=sizes.d_text)
                for view, columns in COLUMNS.items()
            }
        )
        parts = layers, representations, self.columns
        if self.ablation in get_args(Static):
            return StaticFusion(*parts, kind=cast("Static", self.ablation))
        if self.ablation == "no-dmf":
            return FlatFusion(*parts, priority=self.priority)
        concatenate = self.ablation == "no-pmi"
        return DecomposedFusion(*parts, priority=self.priority, concatenate=concatenate)
