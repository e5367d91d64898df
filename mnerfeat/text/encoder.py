"""A transformer over the pieces of posts that gives one state a word."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, DynamicCache
from transformers.utils import logging as hf_logging

from mnerfeat.errors import ConfigError, ModelError
from mnerfeat.text.pieces import PieceBatch, Tokenizer

Pooling = Literal["first", "mean", "max"]

FALLBACK_POSITIONS = 512
"""Assumed where neither the encoder nor its tokenizer tells how many pieces it can read."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Which text encoder, and how its pieces become words."""

    encoder: str = "roberta-base"
    """Text encoder: a Hugging Face id, or a folder that holds one."""

    revision: str | None = None
    """Branch, tag or commit of the text encoder on the hub; None for its newest."""

    pooling: Pooling = "first"
    """State of a word: that of its first piece, or the mean or the maximum over its pieces."""

    max_pieces: int | None = None
    """Longest window in pieces, special tokens included; None for all that the encoder reads."""

    def __post_init__(self) -> None:
        if not self.encoder:
            raise ConfigError("text.encoder is empty; give a Hugging Face id or a folder")
        if self.pooling not in get_args(Pooling):
            choices = ", ".join(get_args(Pooling))
            raise ConfigError(f"text.pooling is {self.pooling!r}; choose from: {choices}")
        if self.max_pieces is not None and self.max_pieces < 8:
            raise ConfigError(f"text.max_pieces is {self.max_pieces}; at least 8 are needed")


class TextEncoder(nn.Module):
    """A transformer over the pieces of posts that gives one state a word.

    Args:
        model: An encoder of the `transformers` library, without a pooler.
        backend: Its fast tokenizer.
        config: How to pool pieces, and the longest window.

    Attributes:
        config: As given.
        tokenizer: Words to pieces.
        d_text: Size of a state.
        layers: Transformer layers.
        attention_heads: Attention heads of each layer.
    """

    def __init__(self, model: nn.Module, backend: Any, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.model = model
        settings: Any = model.config
        positions = _positions(model, backend)
        self.tokenizer = Tokenizer(backend, min(config.max_pieces or positions, positions))
        self.d_text: int = settings.hidden_size
        self.layers: int = settings.num_hidden_layers
        self.attention_heads: int = settings.num_attention_heads

    @classmethod
    def from_pretrained(cls, config: TextConfig) -> "TextEncoder":
        """Load the encoder that a configuration names, with its trained weights, in float32.

        Raises:
            ModelError: It cannot be found or read, or lacks weights.
        """
        with _model_errors(config.encoder):
            settings = AutoConfig.from_pretrained(config.encoder, **_hub(config))
            backend = load_tokenizer(config)
            with _quiet():
                model, loading = AutoModel.from_pretrained(
                    config.encoder,
                    config=settings,
                    dtype=torch.float32,
                    output_loading_info=True,
                    **_hub(config),
                    **_without_pooler(settings),
                )
        absent = sorted(key for key in loading["missing_keys"] if "pooler" not in key)
        if absent:
            raise ModelError(
                f"the weights of text encoder {config.encoder!r} lack {len(absent)} tensors that "
                f"a {type(model).__name__} needs; it would train from random values",
                faults=absent,
                hint="save the encoder again with `save_pretrained`, or choose another",
            )
        return cls(model, backend, config)

    @classmethod
    def from_folder(cls, folder: Path, config: TextConfig) -> "TextEncoder":
        """Rebuild an encoder that `save` described, with random weights, without the hub.

        Raises:
            ModelError: The folder does not describe an encoder.
        """
        with _model_errors(str(folder)):
            settings = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            backend = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            model = AutoModel.from_config(
                settings, trust_remote_code=False, dtype=torch.float32, **_without_pooler(settings)
            )
        return cls(model, backend, config)

    def save(self, folder: Path) -> None:
        """Write the encoder's configuration and tokenizer, not its weights, into a folder."""
        settings: Any = self.model.config
        settings.save_pretrained(folder)
        self.tokenizer.backend.save_pretrained(folder)

    def forward(
        self,
        pieces: PieceBatch,
        prefix: list[tuple[Tensor, Tensor]] | None = None,
        prefix_mask: Bool[Tensor, "batch prefix"] | None = None,
    ) -> tuple[Float[Tensor, "batch words d_text"], Float[Tensor, "batch d_text"]]:
        """Encode a batch.

        Args:
            pieces: The batch.
            prefix: Per layer, keys and values that every piece may attend to besides the text,
                each (batch, attention heads, prefix, d_text / attention heads).
            prefix_mask: True where the prefix may be attended to; needed with a prefix.

        Returns:
            States of the words, zero on padding; and the state of each post's first piece,
            which is a special token in encoders that have one.

        Raises:
            ConfigError: The encoder cannot take a prefix.
        """
        arguments: dict[str, Any] = {"input_ids": pieces.ids, "attention_mask": pieces.mask.long()}
        if prefix is not None:
            if prefix_mask is None:
                raise TypeError("a prefix needs its mask")
            arguments |= self._prefixed(pieces, prefix, prefix_mask)
        states = self.model(**arguments).last_hidden_state
        starts = torch.searchsorted(
            pieces.post, torch.arange(len(pieces.spans), device=pieces.post.device)
        )
        return self._pool(states, pieces), states[starts, 0]

    def _prefixed(
        self,
        pieces: PieceBatch,
        prefix: list[tuple[Tensor, Tensor]],
        prefix_mask: Bool[Tensor, "batch prefix"],
    ) -> dict[str, Any]:
        """Arguments that make the model attend to a prefix, its text still at position 0."""
        if "past_key_values" not in inspect.signature(self.model.forward).parameters:
            raise ConfigError(
                f"{type(self.model).__name__} takes no keys and values from outside; choose a "
                "text encoder of the BERT, RoBERTa, XLM-RoBERTa or ELECTRA family"
            )
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(prefix):
            cache.update(keys[pieces.post], values[pieces.post], layer)
        mask = torch.cat([prefix_mask[pieces.post], pieces.mask], dim=1)
        reserved = _reserved_positions(self.model)
        positions = torch.arange(reserved, reserved + pieces.ids.shape[1], device=pieces.ids.device)
        if reserved:
            # The RoBERTa family gives its padding a position of its own.
            positions = torch.where(pieces.mask, positions, reserved - 1)
        return {
            "past_key_values": cache,
            "attention_mask": mask.long(),
            "position_ids": positions.expand(pieces.ids.shape),
        }

    def _pool(
        self, states: Float[Tensor, "rows pieces d_text"], pieces: PieceBatch
    ) -> Float[Tensor, "batch words d_text"]:
        row, start, end = pieces.spans.unbind(dim=-1)
        real = pieces.word_mask.unsqueeze(-1)
        if self.config.pooling == "first":
            return states[row, start] * real
        length = int((end - start).max())
        offsets = torch.arange(length, device=start.device)
        inside = offsets < (end - start).unsqueeze(-1)  # (batch, words, length)
        index = torch.where(inside, start.unsqueeze(-1) + offsets, start.unsqueeze(-1))
        each = states[row.unsqueeze(-1), index]  # (batch, words, length, d_text)
        if self.config.pooling == "max":
            # Slots beyond a word's last piece repeat its first, which changes no maximum.
            return each.amax(dim=2) * real
        count = (end - start).clamp(min=1).unsqueeze(-1)
        return (each * inside.unsqueeze(-1)).sum(dim=2) / count * real


def _positions(model: nn.Module, backend: Any) -> int:
    """How many pieces a model can read at once."""
    settings: Any = model.config
    positions = getattr(settings, "max_position_embeddings", None) or FALLBACK_POSITIONS
    limit: int = backend.model_max_length
    return int(min(positions - _reserved_positions(model), limit))


def _reserved_positions(model: nn.Module) -> int:
    """Positions before the first piece's: the RoBERTa family counts from its padding id + 1."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def _without_pooler(settings: Any) -> dict[str, bool]:
    """The pooler is never read; untrained and unused weights would only be in the way."""
    kind = AutoModel._model_mapping[type(settings)]
    if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        return {"add_pooling_layer": False}
    return {}


def _hub(config: TextConfig) -> dict[str, Any]:
    return {"revision": config.revision or "main", "trust_remote_code": False}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's report of unused weights and its progress bar off the screen."""
    verbosity, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bar:
            hf_logging.enable_progress_bar()


def load_tokenizer(config: TextConfig) -> Any:
    """The tokenizer of a text encoder, as the `transformers` library has it.

    Raises:
        ModelError: It cannot be found or read.
    """
    with _model_errors(config.encoder):
        return AutoTokenizer.from_pretrained(config.encoder, add_prefix_space=True, **_hub(config))


@contextmanager
def _model_errors(name: str) -> Iterator[None]:
    """Turn what the hub client and the loaders raise into one ModelError."""
    try:
        yield
    except (
        *(OSError, ValueError, ImportError, RuntimeError, KeyError),
        *(SafetensorError, UnpicklingError),
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = (
            f"check what the folder {name} holds"
            if Path(name).exists()
            else f"`hf download {name}` where there is a network, or name a folder that holds "
            "the encoder with its config.json and tokenizer.json"
        )
        raise ModelError(f"text encoder {name!r} cannot be loaded: {reason}", hint=hint) from error
