"""The options that both diffusion heads share."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from mnerfeat.errors import ConfigError
from mnerfeat.heads.base import HeadConfig, HeadSizes
from mnerfeat.heads.dpe.attention import Blocks
from mnerfeat.heads.dpe.diffusion import Noise
from mnerfeat.heads.dpe.matching import LossWeights

Lengths = Literal["alike", "compat"]


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(HeadConfig):
    """Options of a head that reasons in steps."""

    name: ClassVar[str]
    """Of the head, for messages."""

    spans: int = 150
    """Noisy spans of each post (N_s), in training and in use."""

    steps: int = 5
    """Reasoning steps in use."""

    timesteps: int = 1000
    """Timesteps of the diffusion that is learned."""

    noise: Noise = "linear"
    """How noise grows over the timesteps: `linear` (β from 1e-4 to 0.02) or `cosine`."""

    scale: float = 1.0
    """Half the range of the boundaries as the diffusion sees them: smaller drowns them sooner."""

    lengths: Lengths = "alike"
    """Boundaries are divided by the words less 1, in training and in use alike; `compat` divides by
    the words in training, as the published DiffusionNER does."""

    threshold: float = 2.5
    """Least sum of the probabilities of first word, last word and type of an entity, 0 to 3."""

    boundary_weight: float = 5.0
    """Weight of the boundaries, in matching and in the loss."""

    type_weight: float = 5.0
    """Weight of the types, in matching and in the loss."""

    nil_weight: float = 1.0
    """Weight of spans that have to become no entity, among the types."""

    attention_size: int = 128
    """Numbers in a query, a key and a value of the head's attention, over its attention heads."""

    attention_heads: int = 4
    """Attention heads of each attention layer of the head."""

    feed_forward: int = 256
    """Hidden units of the bottleneck transformers' feed-forward layers."""

    dropout: float = 0.1
    """Dropout in the head, 0 to 1."""

    def __post_init__(self) -> None:
        faults = [*self._shared_faults(), *self.own_faults()]
        if faults:
            raise ConfigError(
                f"options of the {self.name} head that cannot be used:", faults=faults
            )

    @abstractmethod
    def own_faults(self) -> Iterator[str]:
        """What is wrong with the options that are not shared."""

    def _shared_faults(self) -> Iterator[str]:
        for name in ("spans", "steps", "timesteps", "attention_size", "attention_heads"):
            yield from self.at_least(name, 1)
        for name in ("feed_forward", "boundary_weight", "type_weight", "nil_weight"):
            yield from self.at_least(name, 0)
        yield from self.one_of("noise", get_args(Noise))
        yield from self.one_of("lengths", get_args(Lengths))
        if self.steps > self.timesteps:
            yield self.fault("steps", f"at most timesteps ({self.timesteps}) are possible")
        if not self.scale > 0:
            yield self.fault("scale", "it must be above 0")
        if not 0 <= self.threshold <= 3:
            yield self.fault("threshold", "it must be in [0, 3]")
        if not 0 <= self.dropout < 1:
            yield self.fault("dropout", "it must be in [0, 1)")
        if self.attention_heads >= 1 and self.attention_size % self.attention_heads:
            yield self.fault("attention_heads", f"it must divide {self.attention_size}")

    def fault(self, option: str, wanted: str) -> str:
        """One option that cannot be used."""
        return f"head.{self.name}.{option} is {getattr(self, option)!r}; {wanted}"

    def at_least(self, option: str, least: int) -> Iterator[str]:
        """Whether a number is large enough."""
        if not getattr(self, option) >= least:
            yield self.fault(option, f"at least {least} is needed")

    def one_of(self, option: str, choices: tuple[str, ...]) -> Iterator[str]:
        """Whether a word is a known one."""
        if getattr(self, option) not in choices:
            yield self.fault(option, f"choose from: {', '.join(choices)}")

    @property
    @abstractmethod
    def bottleneck_tokens(self) -> int:
        """Of the bottleneck transformers, where there are any."""

    @property
    def encouragement(self) -> str:
        """A high threshold is what keeps a diffusion head silent on little data."""
        return (
            f"it leaves out what is less sure than head.{self.name}.threshold ({self.threshold}); "
            f"on little data try --set head.{self.name}.threshold=1.5, or more epochs"
        )

    @property
    def loss_weights(self) -> LossWeights:
        """Of matching and loss."""
        return LossWeights(
            boundary=self.boundary_weight, kind=self.type_weight, nil=self.nil_weight
        )

    def blocks(self, sizes: HeadSizes) -> Blocks:
        """The sizes of the head's layers."""
        return Blocks(
            d_model=sizes.d_text,
            attention_size=self.attention_size,
            attention_heads=self.attention_heads,
            feed_forward=self.feed_forward,
            bottlenecks=self.bottleneck_tokens,
            dropout=self.dropout,
        )
