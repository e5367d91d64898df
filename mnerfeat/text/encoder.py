"""A transformer over the pieces of posts that gives one state a word."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, DynamicCache
from transformers.utils import logging as hf_logging

from mnerfeat.errors import ConfigError, ModelError
from mnerfeat.hub import OLDER_WEIGHTS, SAFE_WEIGHTS, TOKENIZER_FILES, download
from mnerfeat.text.pieces import PieceBatch, Tokenizer

Pooling = Literal["first", "mean", "max"]

_LOCAL: Final = {"local_files_only": True, "trust_remote_code": False}
"""Loads from a folder only, and never runs code from it."""

FALLBACK_POSITIONS = 512
"""Positions of an encoder if neither it nor its tokenizer says how many pieces it can read."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text encoder, and how its pieces become words."""

    encoder: str = "roberta-base"
    """Text encoder: a Hugging Face id, or a folder that holds one."""

    revision: str | None = None
    """Branch, tag or commit of the text encoder on the hub; None for the newest."""

    pooling: Pooling = "first"
    """State of a word: of its first piece, or the mean or maximum over its pieces."""

    max_pieces: int | None = None
    """Maximum length of a window in pieces, special tokens included; None for the encoder's own."""

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
        config: How to pool pieces, and the maximum length of a window.

    Attributes:
        config: The configuration.
        tokenizer: Splits words into pieces.
        d_text: Size of a state.
        layers: Number of transformer layers.
        attention_heads: Number of attention heads per layer.
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
        """Load a pretrained encoder in float32.

        Raises:
            ModelError: It cannot be found or read, or lacks weights.
        """
        folder = _folder(config, (SAFE_WEIGHTS, OLDER_WEIGHTS))
        with _model_errors(config.encoder):
            settings = AutoConfig.from_pretrained(folder, **_LOCAL)
            backend = _load_tokenizer(folder)
            with _quiet():
                model, loading = AutoModel.from_pretrained(
                    folder,
                    config=settings,
                    dtype=torch.float32,
                    output_loading_info=True,
                    **_LOCAL,
                    **_without_pooler(settings),
                )
        absent = sorted(key for key in loading["missing_keys"] if "pooler" not in key)
        if absent:
            raise ModelError(
                f"the weights of text encoder {config.encoder!r} lack {len(absent)} tensors that "
                f"a {type(model).__name__} needs; it would train from random values",
                faults=absent,
                hint="save the encoder again with `save_pretrained`, or choose another one",
            )
        return cls(model, backend, config)

    @classmethod
    def from_folder(cls, folder: Path, config: TextConfig) -> "TextEncoder":
        """Build an encoder that `save` described, with random weights.

        Raises:
            ModelError: The folder does not describe an encoder.
        """
        with _model_errors(str(folder)):
            settings = AutoConfig.from_pretrained(folder, **_LOCAL)
            backend = AutoTokenizer.from_pretrained(folder, **_LOCAL)
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
            prefix: Keys and values for each layer that every piece attends to besides the text,
                each (batch, attention heads, prefix, d_text / attention heads).
            prefix_mask: True for the parts of the prefix to attend to; required with a prefix.

        Returns:
            States of the words, zero on padding; and the state of each post's first piece,
            which is a special token if the encoder has one.

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
        """Return arguments that make the model attend to a prefix; its text still begins at 0."""
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
            # In the RoBERTa family padding has a position of its own.
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
            # Slots after a word's last piece repeat its first, which changes no maximum.
            return each.amax(dim=2) * real
        count = (end - start).clamp(min=1).unsqueeze(-1)
        return (each * inside.unsqueeze(-1)).sum(dim=2) / count * real


def _positions(model: nn.Module, backend: Any) -> int:
    """Return the maximum number of pieces that a model reads at once."""
    settings: Any = model.config
    positions = getattr(settings, "max_position_embeddings", None) or FALLBACK_POSITIONS
    limit: int = backend.model_max_length
    return int(min(positions - _reserved_positions(model), limit))


def _reserved_positions(model: nn.Module) -> int:
    """Return the first piece's position: the RoBERTa family counts from its padding id + 1."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def _without_pooler(settings: Any) -> dict[str, bool]:
    """Return arguments that leave out the pooler, which is never used."""
    kind = AutoModel._model_mapping[type(settings)]
    if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        return {"add_pooling_layer": False}
    return {}


def _folder(config: TextConfig, weights: Sequence[Sequence[str]]) -> Path:
    """Return the folder of an encoder's files, downloading them if they are not on this machine."""
    if Path(config.encoder).is_dir():
        return Path(config.encoder)
    if config.encoder.count("/") > 1 or config.encoder.startswith((".", "/", "~")):
        raise ModelError(
            f"the folder {config.encoder} of the text encoder does not exist",
            hint="name a Hugging Face id or a folder with config.json and tokenizer.json",
        )
    reference = f"{config.encoder}@{config.revision}" if config.revision else config.encoder
    return download(reference, weights, ("*.json", "*.txt", "*.model"), option="encoder")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's report of unused weights and its progress bar."""
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
    """Return the tokenizer of a text encoder, as the `transformers` library has it.

    Raises:
        ModelError: It cannot be found or read.
    """
    folder = _folder(config, (TOKENIZER_FILES, ("*.model",)))
    with _model_errors(config.encoder):
        return _load_tokenizer(folder)


def _load_tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, add_prefix_space=True, **_LOCAL)


@contextmanager
def _model_errors(name: str) -> Iterator[None]:
    """Turn the loaders' exceptions into one ModelError."""
    try:
        yield
    except (
        *(OSError, ValueError, ImportError, RuntimeError, KeyError),
        *(SafetensorError, UnpicklingError),
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"text encoder {name!r} cannot be loaded: {reason}",
            hint="name a folder that holds an encoder with its config.json and tokenizer.json",
        ) from error
