"""Inputs, outputs and contract of every head.

Axes, everywhere in the package: `batch` posts, `words` of the longest post in the batch,
`images` of the widest post in the batch, `d_text`, `d_image`, `tags`.

Tag ids: 0 is `O`; type number t (from 0) has `B-` = 2 t + 1 and `I-` = 2 t + 2.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

IGNORED = -100
"""Fills tag tensors on padding, as in `torch.nn.functional.cross_entropy`."""

KeyValues = list[tuple[Tensor, Tensor]]
"""Keys and values to prepend to those of each text layer,
each (batch, attention heads, images, d_text / attention heads)."""

ImageValues = Float[Tensor, "batch images"] | Bool[Tensor, "batch images"]
"""One number or truth value per image."""

ParameterGroup = Literal["fusion", "crf", "scalars"]
"""Groups with a learning rate of their own: the layers that fuse text and images; emissions and
CRF; trainable scalars, which a rate fit for matrices would hardly move."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """The text of a batch, encoded.

    Attributes:
        states: One vector a word; zero on padding.
        mask: True on real words. Every post has at least one, and they come first.
        sentence: The encoder's state at its first special token ([CLS], `<s>`).
        seed: A number of each post's own, from 0, for heads that sample in inference; None to
            use the same one for all.
    """

    states: Float[Tensor, "batch words d_text"]
    mask: Bool[Tensor, "batch words"]
    sentence: Float[Tensor, "batch d_text"]
    seed: Int[Tensor, " batch"] | None = None


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a batch, as cached tensors.

    Attributes:
        mask: True if the slot holds an image with every column known. A post may have no image;
            masked slots may stand anywhere.
        columns: By name, (batch, images, …); anything where the mask is False.
    """

    mask: Bool[Tensor, "batch images"]
    columns: Mapping[str, Tensor]

    def __getitem__(self, column: str) -> Tensor:
        """Return a column, zero where the mask is False.

        Masked slots are replaced, not multiplied by zero: a NaN there must not spread.
        """
        values = self.columns[column]
        mask = self.mask.view(*self.mask.shape, *[1] * (values.ndim - 2))
        return torch.where(mask, values, 0)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Predicted entities before a threshold removes those with a low score.

    Attributes:
        tags: Tag ids of all candidates, `IGNORED` on padding.
        scores: For each word, the score of the candidate that it belongs to; 0 outside entities.
    """

    tags: Int[Tensor, "batch words"]
    scores: Float[Tensor, "batch words"]


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """The output of a head for a batch.

    Attributes:
        loss: Mean over the posts, or None if no gold tags were given.
        tags: Predicted tag ids, `IGNORED` on padding, or None if not requested. A head that
            predicts spans writes them as `B- I- I-`, so they never overlap.
        images: By name, one value per image (weights, gates, relevance), for people to read;
            zero or False on masked slots.
        steps: For a head that reasons in steps, the tag ids after each step; the last equal
            `tags`.
        candidates: What `tags` were selected from, if the head has a threshold that is chosen on
            dev; see `Head.calibrate`.
    """

    loss: Float[Tensor, ""] | None
    tags: Int[Tensor, "batch words"] | None
    images: Mapping[str, ImageValues] = field(default_factory=dict)
    steps: tuple[Int[Tensor, "batch words"], ...] = ()
    candidates: Candidates | None = None


class Head(nn.Module, ABC):
    """A tagging system: encoded words and cached image tensors in, entities out.

    Attributes:
        columns: The image columns it reads; a run loads no others.
    """

    columns: tuple[str, ...]

    @abstractmethod
    def parameter_groups(self) -> dict[ParameterGroup, list[nn.Parameter]]:
        """Every parameter of the head, each in one group."""

    @abstractmethod
    def prefix(self, images: Images) -> KeyValues | None:
        """Keys and values for the text encoder's layers, or None; computed before it runs."""

    @abstractmethod
    def forward(
        self,
        words: Words,
        images: Images,
        gold: Int[Tensor, "batch words"] | None = None,
        *,
        decode: bool = True,
    ) -> HeadOutput:
        """Loss against `gold`, if given, and predicted tags, if `decode`.

        Two laws hold for every head: padding of words or images never changes a real word's
        result, and a post's prediction does not depend on the other posts of its batch. A loss
        may depend on them, as DPE-MNER's does, whose relevance losses compare posts.
        """

    def calibrate(
        self,
        gold: Int[Tensor, "posts words"],  # noqa: ARG002
        candidates: Candidates,
    ) -> tuple[Int[Tensor, "posts words"], dict[str, float]]:
        """Choose a threshold on dev; called after each epoch, with all of dev's candidates.

        A head stores its choice in a buffer, so that it belongs to the weights of that epoch.

        Args:
            gold: Gold tag ids of dev, `IGNORED` on padding.
            candidates: The candidates for these posts.

        Returns:
            The tags that are predicted with the choice, and values to log, by name.
        """
        return candidates.tags, {}


@dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """Sizes that a head has to match.

    Attributes:
        n_tags: Number of tag ids.
        d_text: Size of the text encoder's states.
        text_layers: Layers of the text encoder.
        text_heads: Attention heads of each of its layers.
        columns: Values per image in each column that the head reads: 768 for a ViT-B's
            `vit_cls`, 1 for a score.
    """

    n_tags: int
    d_text: int
    text_layers: int
    text_heads: int
    columns: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class HeadConfig(ABC):
    """The options of a head, and the way to build it."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The image columns that the head will read; known before anything is built."""

    @property
    def no_entities_hint(self) -> str:
        """Advice for a user whose trained head predicts no entities."""
        return "train for more epochs (train.epochs), or at higher rates (train.encoder_lr, …)"

    @abstractmethod
    def build(self, sizes: HeadSizes) -> Head:
        """Build the head with fresh weights from torch's random generator."""
