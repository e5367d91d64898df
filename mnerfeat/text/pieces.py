"""Splits words into sub-word pieces, and long posts into windows that an encoder can read."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mnerfeat.errors import ModelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """The pieces of one post.

    Attributes:
        windows: Piece ids with special tokens, one tuple per window; nearly always one window.
        spans: For each word (window, first piece, one past its last piece).
        unknown_words: Words without any piece, which become the unknown token.
        cut_words: Words with more pieces than fit a window; the rest of them is not read.
    """

    windows: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[int, int, int], ...]
    unknown_words: int = 0
    cut_words: int = 0


@dataclass(frozen=True, kw_only=True)
class TextCounts:
    """Counts of a data set's words and pieces, for reports.

    Attributes:
        posts: Posts.
        words: Words.
        unknown_words: Words without any piece, which become the unknown token.
        long_posts: Posts read in several windows.
        cut_words: Words longer than a window, read in part.
    """

    posts: int
    words: int
    unknown_words: int
    long_posts: int
    cut_words: int

    @classmethod
    def of(cls, texts: Iterable[Pieces]) -> "TextCounts":
        """Count over tokenised posts."""
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
    """The pieces of a batch of posts. `rows` are windows: at least one per post.

    Attributes:
        ids: Piece ids; the padding token for padding.
        mask: True for real pieces, special tokens included.
        post: The post in the batch that each row belongs to; a post's rows are in order.
        spans: For each word (row, first piece, one past its last piece); zero for padding.
        word_mask: True for real words; every post has at least one, and they come first.
    """

    ids: Int[Tensor, "rows pieces"]
    mask: Bool[Tensor, "rows pieces"]
    post: Int[Tensor, " rows"]
    spans: Int[Tensor, "batch words 3"]
    word_mask: Bool[Tensor, "batch words"]

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name, for code that moves dictionaries of tensors."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device) -> "PieceBatch":
        """Return the batch on a device."""
        return PieceBatch(**{name: x.to(device) for name, x in self.tensors().items()})


class Tokenizer:
    """Splits words into pieces with a fast tokenizer of the `transformers` library.

    Args:
        backend: A fast tokenizer.
        max_pieces: Maximum length of a window, special tokens included.

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

        Words without a piece and posts in several windows are logged in one line; `TextCounts.of`
        counts them.
        """
        if not posts:
            return []
        encoded = self.backend(
            [list(words) for words in posts],
            is_split_into_words=True,
            add_special_tokens=False,
            verbose=False,  # no warning of long posts, which are read in windows
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
                "%d of %d words have no piece in the vocabulary and become the unknown token",
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
        """Return posts as one padded batch, on the CPU."""
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
        lengths: Number of pieces of each word, at most `room`.
        room: Number of pieces that fit a window.

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
    """Choose for each word the window with most of its context.

    Args:
        lengths: Number of pieces of each word.
        ranges: Windows, as `windows` returns them.

    Returns:
        The window in which a word's distance in pieces to the nearer cut is largest; the
        post's own beginning and end are no cuts. The earlier one of two equal windows.
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
    """Return the special tokens that a tokenizer puts before and after a text."""
    encoded = backend(["a"], is_split_into_words=True, return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], [bool(x) for x in encoded["special_tokens_mask"]]
    if all(special):
        # The letter itself may be unknown to a small vocabulary; the unknown token is special.
        special = [word is None for word in encoded.word_ids()]
    first = special.index(False)
    last = len(special) - special[::-1].index(False)
    return tuple(ids[:first]), tuple(ids[last:])
