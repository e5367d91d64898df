"""Text encoders: words to sub-word pieces, pieces to one state a word.

Any encoder of the `transformers` library serves. Weights are loaded from safetensors, or
from the older format with unpickling switched off; code from a model's repository never runs.

A post longer than the encoder's positions is read in overlapping windows, and each word takes
its state from the window in which it stands farthest from a cut, so no word is ever dropped.
"""

import inspect
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Self, get_args

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, DynamicCache

from mnerfeat.errors import ConfigError, ModelError

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """One post in the encoder's vocabulary.

    Attributes:
        windows: Piece ids with special tokens, one tuple a window; nearly always one window.
        spans: Per word (window, first piece, one past its last piece).
        unknown_words: Words without any piece, which stand as the unknown token.
        cut_words: Words with more pieces than a window holds; the surplus is not read.
    """

    windows: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[int, int, int], ...]
    unknown_words: int = 0
    cut_words: int = 0


@dataclass(frozen=True, kw_only=True)
class TextCounts:
    """What reading a data set's words met, for reports.

    Attributes:
        posts: All posts.
        words: All words.
        unknown_words: Words that yield no piece and stand as the unknown token.
        long_posts: Posts read in several windows.
        cut_words: Words longer than a whole window, read in part.
    """

    posts: int
    words: int
    unknown_words: int
    long_posts: int
    cut_words: int

    @classmethod
    def of(cls, texts: Iterable[Pieces]) -> Self:
        """Count over the tokenised posts of a data set."""
        texts = list(texts)
        return cls(
            posts=len(texts),
            words=sum(len(text.spans) for text in texts),
            unknown_words=sum(text.unknown_words for text in texts),
            long_posts=sum(len(text.windows) > 1 for text in texts),
            cut_words=sum(text.cut_words for text in texts),
        )


@dataclass(frozen=True, kw_only=True)
class PieceBatch:
    """The pieces of a batch of posts. `rows` are windows: at least one a post.

    Attributes:
        ids: Piece ids; the padding token on padding.
        mask: True on real pieces, special tokens included.
        post: The post in the batch that a row belongs to; a post's rows stand in order.
        spans: Per word (row, first piece, one past its last piece); zero on padding.
        word_mask: True on real words; every post has at least one, and they come first.
    """

    ids: Int[Tensor, "rows pieces"]
    mask: Bool[Tensor, "rows pieces"]
    post: Int[Tensor, " rows"]
    spans: Int[Tensor, "batch words 3"]
    word_mask: Bool[Tensor, "batch words"]

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name, for code that moves dictionaries of tensors between devices."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device) -> "PieceBatch":
        """The same batch on a device."""
        return PieceBatch(**{name: x.to(device) for name, x in self.tensors().items()})


class Tokenizer:
    """Words to pieces, by a fast tokenizer of the `transformers` library.

    Args:
        backend: A fast tokenizer.
        max_pieces: Longest window, special tokens included.

    Raises:
        ModelError: The tokenizer is not a fast one, or has no unknown or padding token.
    """

    def __init__(self, backend: Any, max_pieces: int) -> None:
        if not backend.is_fast:
            raise ModelError(
                f"{backend.name_or_path}: a {type(backend).__name__} cannot tell which word a "
                "piece comes from; a fast tokenizer (tokenizer.json) is needed",
                hint="save the model's fast tokenizer beside it with `save_pretrained`",
            )
        missing = [name for name in ("unk", "pad") if getattr(backend, f"{name}_token_id") is None]
        if missing:
            raise ModelError(
                f"{backend.name_or_path}: the tokenizer has no {' and no '.join(missing)} token"
            )
        self.backend = backend
        self.padding: int = backend.pad_token_id
        self.unknown: int = backend.unk_token_id
        self._before, self._after = _special_tokens(backend)
        self.room = max_pieces - len(self._before) - len(self._after)
        if self.room < 1:
            raise ModelError(
                f"{backend.name_or_path}: windows of {max_pieces} pieces leave no room for words"
            )

    def __call__(self, posts: Sequence[Sequence[str]]) -> list[Pieces]:
        """Tokenise posts, each a sequence of at least one word.

        What had to be done about odd words and long posts is logged in one line, and can be
        counted with `TextCounts.of`.
        """
        if not posts:
            return []
        encoded = self.backend(
            [list(words) for words in posts], is_split_into_words=True, add_special_tokens=False
        )
        texts = []
        for row, words in enumerate(posts):
            pieces: list[list[int]] = [[] for _ in words]
            for word, piece in zip(encoded.word_ids(row), encoded["input_ids"][row], strict=True):
                pieces[word].append(piece)
            texts.append(self._post(pieces))
        counts = TextCounts.of(texts)
        if counts.long_posts or counts.cut_words:
            logger.warning(
                "%d of %d posts are longer than %d pieces and are read in overlapping windows; "
                "%d words are longer than a window and are read in part; no word is dropped",
                *(counts.long_posts, counts.posts, self.room, counts.cut_words),
            )
        if counts.unknown_words:
            logger.info(
                "%d of %d words have no piece in the vocabulary; the unknown token stands for them",
                *(counts.unknown_words, counts.words),
            )
        return texts

    def _post(self, pieces: list[list[int]]) -> Pieces:
        words = [word[: self.room] or [self.unknown] for word in pieces]
        ranges = windows([len(word) for word in words], self.room)
        chosen = assign([len(word) for word in words], ranges)
        rows: list[tuple[int, ...]] = []
        spans = [(0, 0, 0)] * len(words)
        for row, (start, end) in enumerate(ranges):
            ids = list(self._before)
            for index in range(start, end):
                if chosen[index] == row:
                    spans[index] = (row, len(ids), len(ids) + len(words[index]))
                ids += words[index]
            rows.append((*ids, *self._after))
        return Pieces(
            windows=tuple(rows),
            spans=tuple(spans),
            unknown_words=sum(not word for word in pieces),
            cut_words=sum(len(word) > self.room for word in pieces),
        )

    def batch(self, texts: Sequence[Pieces]) -> PieceBatch:
        """Pad posts to one batch, on the CPU."""
        rows = [window for text in texts for window in text.windows]
        post = [index for index, text in enumerate(texts) for _ in text.windows]
        first = [0]
        for text in texts:
            first.append(first[-1] + len(text.windows))
        width = max(len(row) for row in rows)
        words = max(len(text.spans) for text in texts)
        padding = [(0, 0, 0)]
        return PieceBatch(
            ids=torch.tensor([[*row, *[self.padding] * (width - len(row))] for row in rows]),
            mask=torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows]),
            post=torch.tensor(post),
            spans=torch.tensor(
                [
                    [(row + offset, start, end) for row, start, end in text.spans]
                    + padding * (words - len(text.spans))
                    for text, offset in zip(texts, first[:-1], strict=True)
                ]
            ),
            word_mask=torch.tensor(
                [[index < len(text.spans) for index in range(words)] for text in texts]
            ),
        )


def windows(lengths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Cut a post into windows of whole words.

    Args:
        lengths: Pieces of each word, each at most `room`.
        room: Pieces that a window holds.

    Returns:
        Word ranges [start, end), covering all words; neighbours overlap by up to half a window.
    """
    ranges: list[tuple[int, int]] = []
    start = end = 0
    while end < len(lengths):
        size = sum(lengths[start:end])
        while end < len(lengths) and size + lengths[end] <= room:
            size += lengths[end]
            end += 1
        ranges.append((start, end))
        if end < len(lengths):
            # The next window must reach beyond this one, and repeats at most half of it.
            kept = size
            while start < end and (kept > room // 2 or kept + lengths[end] > room):
                kept -= lengths[start]
                start += 1
    return ranges


def assign(lengths: Sequence[int], ranges: Sequence[tuple[int, int]]) -> list[int]:
    """For each word the window that shows most of its surroundings.

    Args:
        lengths: Pieces of each word.
        ranges: As `windows` gives them.

    Returns:
        The window in which a word's distance in pieces to the nearer cut is largest; the
        post's own beginning and end are no cuts. The earlier one where two are equal.
    """
    chosen = [0] * len(lengths)
    widest = [-1.0] * len(lengths)
    for window, (start, end) in enumerate(ranges):
        left = float("inf") if start == 0 else 0.0
        right = float("inf") if end == len(lengths) else float(sum(lengths[start:end]))
        for word in range(start, end):
            right -= lengths[word]
            if min(left, right) > widest[word]:
                chosen[word], widest[word] = window, min(left, right)
            left += lengths[word]
    return chosen


def _special_tokens(backend: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that a tokenizer puts before and after a text."""
    encoded = backend(["a"], is_split_into_words=True, return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], [bool(x) for x in encoded["special_tokens_mask"]]
    if all(special):
        # The letter itself may be unknown to a small vocabulary; the unknown token is special.
        special = [word is None for word in encoded.word_ids()]
    first = special.index(False)
    last = len(special) - special[::-1].index(False)
    return tuple(ids[:first]), tuple(ids[last:])


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
    def from_pretrained(cls, config: TextConfig) -> Self:
        """Load the encoder that a configuration names, with its trained weights, in float32.

        Raises:
            ModelError: It cannot be found or read, or lacks weights.
        """
        with _model_errors(config.encoder):
            settings = AutoConfig.from_pretrained(config.encoder, **_hub(config))
            backend = AutoTokenizer.from_pretrained(
                config.encoder, add_prefix_space=True, **_hub(config)
            )
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
    def from_folder(cls, folder: Path, config: TextConfig) -> Self:
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
