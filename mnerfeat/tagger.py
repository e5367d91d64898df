"""Text encoder and head together: posts in, tags out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.raw_text import clean_text
from mnerfeat.datasets.tags import TagSet, entities
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.errors import ConfigError, DataError
from mnerfeat.heads.base import (
    IGNORED,
    Head,
    HeadConfig,
    HeadOutput,
    HeadSizes,
    Images,
    Words,
)
from mnerfeat.heads.dpe import DpeConfig, IterativeConfig
from mnerfeat.heads.gifr import GifrConfig
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.text import PieceBatch, Pieces, TextEncoder

HEADS: dict[str, type[HeadConfig]] = {
    "dpe": DpeConfig,
    "gifr": GifrConfig,
    "iqcr": IqcrConfig,
    "iterative": IterativeConfig,
    "text": TextOnlyConfig,
}
"""Heads by name: the options of each, which also build it."""


def head_options(name: str) -> type[HeadConfig]:
    """Return the options class of a head.

    Raises:
        ConfigError: There is no head of that name.
    """
    try:
        return HEADS[name]
    except KeyError:
        choices = ", ".join(sorted(HEADS))
        raise ConfigError(f"unknown head {name!r}; choose from: {choices}") from None


def head_name(config: HeadConfig) -> str:
    """Return the name of a head in `HEADS` from its configuration."""
    return next(name for name, kind in HEADS.items() if kind is type(config))


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """A tagger's output for one post.

    Attributes:
        tags: One tag per word.
        images: For each of the post's images, in order, the head's values by name (see the head);
            None if the image could not be used.
        steps: If the head reasons in steps, the tags after each step.
    """

    tags: tuple[str, ...]
    images: tuple[Mapping[str, float | bool] | None, ...]
    steps: tuple[tuple[str, ...], ...] = ()

    def record(self, post: Post) -> dict[str, object]:
        """Return the JSON object of a prediction, which can be read again as a post.

        Returns:
            `id`; `text` (the words); `images` (their names); `label` (the predicted tags);
            `entities` (each with `type`, `start` and `end` in words, end exclusive, and its
            `text`), read by the lenient convention; `image_values` (one object per image with the
            head's values by name, null if the image could not be used). If the words were split
            from a text, `offsets` has the start and end of each word in it, in characters, and
            entities have `char_start` and `char_end`. If the head reasons in steps, `steps` has
            the `entities` after each of them.
        """
        record: dict[str, object] = {
            "id": post.id,
            "text": post.words,
            "images": post.images,
            "label": self.tags,
            "entities": _entity_records(post, self.tags),
            "image_values": self.images,
        }
        if post.offsets is not None:
            record["offsets"] = post.offsets
        if self.steps:
            record["steps"] = [_entity_records(post, tags) for tags in self.steps]
        return record


def _entity_records(post: Post, tags: Sequence[str]) -> list[dict[str, object]]:
    records = []
    for entity in entities(tags):
        words = post.words[entity.start : entity.end]
        record: dict[str, object] = {"type": entity.type, "start": entity.start, "end": entity.end}
        if post.raw is None or post.offsets is None:
            record["text"] = " ".join(words)
        else:
            start, end = post.offsets[entity.start][0], post.offsets[entity.end - 1][1]
            record["text"] = clean_text(post.raw[start:end])
            record |= {"char_start": start, "char_end": end}
        records.append(record)
    return records


class Tagger(nn.Module):
    """A text encoder with a head.

    Args:
        encoder: Words to states.
        head: States and images to tags.
        tag_set: Tags by id.
        column_sizes: Values per image in each column that the head reads.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        head: Head,
        tag_set: TagSet,
        column_sizes: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.tag_set = tag_set
        self.column_sizes = {column: column_sizes[column] for column in head.columns}

    @classmethod
    def build(
        cls,
        encoder: TextEncoder,
        head: HeadConfig,
        tag_set: TagSet,
        *,
        column_sizes: Mapping[str, int],
        seed: int,
    ) -> "Tagger":
        """Put a new head on an encoder.

        Args:
            encoder: Words to states.
            head: The head's options.
            tag_set: The tags to predict.
            column_sizes: As in `VisionTable`, at least for the columns that the head reads.
            seed: Random seed for the head's weights; other random states are unchanged.

        Raises:
            ConfigError: A column is missing, or the options do not fit the encoder.
        """
        missing = [column for column in head.columns if column not in column_sizes]
        if missing:
            raise ConfigError(
                f"the {head_name(head)} head reads {', '.join(head.columns)}; the images come "
                f"without {', '.join(missing)}"
            )
        sizes = HeadSizes(
            n_tags=len(tag_set),
            d_text=encoder.d_text,
            text_layers=encoder.layers,
            text_heads=encoder.attention_heads,
            columns={column: column_sizes[column] for column in head.columns},
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(encoder, head.build(sizes), tag_set, sizes.columns)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return each parameter once: `encoder`, and the groups of the head."""
        head = {str(name): group for name, group in self.head.parameter_groups().items()}
        return {"encoder": list(self.encoder.parameters()), **head}

    def forward(
        self,
        pieces: PieceBatch,
        images: Images,
        gold: Int[Tensor, "batch words"] | None = None,
        *,
        seed: Int[Tensor, " batch"] | None = None,
        decode: bool = True,
    ) -> HeadOutput:
        """Return the loss if `gold` is given, and tags if `decode` is set; see `Head`."""
        prefix = self.head.prefix(images)
        states, sentence = self.encoder(pieces, prefix, None if prefix is None else images.mask)
        words = Words(states=states, mask=pieces.word_mask, sentence=sentence, seed=seed)
        output: HeadOutput = self.head(words, images, gold, decode=decode)
        return output

    def images(self, table: VisionTable, posts: Int[Tensor, " batch"]) -> Images:
        """Return the columns of some posts' images that the head reads, on the tagger's device.

        Raises:
            DataError: The table has images, but lacks a column that the head reads.
        """
        mask, columns = table.batch(posts)
        device = self.device
        found = {}
        for name, size in self.column_sizes.items():
            if name in columns:
                found[name] = columns[name].to(device)
            elif mask.any():
                raise DataError(f"the head reads {name}, which the images come without")
            else:
                found[name] = torch.zeros(*mask.shape, *[size] * (size > 1), device=device)
        return Images(mask=mask.to(device), columns=found)

    @torch.no_grad()
    def tag(
        self,
        posts: Sequence[Post],
        table: VisionTable | None = None,
        *,
        batch_size: int = 64,
        progress: bool = False,
    ) -> list[Tagged]:
        """Tag posts in float32, longest first; results are in the order of the posts.

        Args:
            posts: Posts; gold tags are not used.
            table: Images of these posts, in the same order; None to use no image.
            batch_size: Posts per batch; no result depends on it.
            progress: Whether to show a progress bar.

        Raises:
            DataError: The table has another number of posts, or lacks a column that the head reads.
        """
        table = VisionTable.without_images(len(posts)) if table is None else table
        if len(table) != len(posts):
            raise DataError(f"got {len(posts)} posts and the images of {len(table)} posts")
        # A post of images alone has no words to tag.
        found = {
            index: Tagged(tags=(), images=(None,) * len(post.images))
            for index, post in enumerate(posts)
            if not post.words
        }
        with_words = [index for index in range(len(posts)) if index not in found]
        pieces_of = self.encoder.tokenizer([posts[index].words for index in with_words])
        texts = dict(zip(with_words, pieces_of, strict=True))
        order = sorted(with_words, key=lambda index: -_length(texts[index]))
        was_training = self.training
        self.eval()
        try:
            with tqdm(total=len(posts), unit="post", disable=not progress, leave=False) as bar:
                for start in range(0, len(order), batch_size):
                    chosen = order[start : start + batch_size]
                    pieces = self.encoder.tokenizer.batch([texts[index] for index in chosen])
                    images = self.images(table, torch.tensor(chosen))
                    seed = torch.tensor([post_seed(posts[index]) for index in chosen])
                    output = self(pieces.to(self.device), images, seed=seed)
                    found |= self._read(output, images, [posts[i] for i in chosen], chosen)
                    bar.update(len(chosen))
        finally:
            self.train(was_training)
        return [found[index] for index in range(len(posts))]

    def _read(
        self, output: HeadOutput, images: Images, posts: Sequence[Post], numbers: Sequence[int]
    ) -> dict[int, Tagged]:
        """Return a batch's results as Python values, with one transfer per tensor."""
        assert output.tags is not None
        tags = output.tags.tolist()
        steps = [step.tolist() for step in output.steps]
        used = images.mask.tolist()
        values = {name: column.tolist() for name, column in output.images.items()}
        found = {}
        for row, (post, number) in enumerate(zip(posts, numbers, strict=True)):
            slots = used[row]
            found[number] = Tagged(
                tags=self.tag_set.decode(tags[row][: len(post.words)]),
                images=tuple(
                    {name: column[row][slot] for name, column in values.items()}
                    if slot < len(slots) and slots[slot]
                    else None
                    for slot in range(len(post.images))
                ),
                steps=tuple(self.tag_set.decode(step[row][: len(post.words)]) for step in steps),
            )
        return found


def choose_device(name: str = "auto") -> torch.device:
    """Return a device by name; `auto` is a GPU if there is one, else the CPU.

    Raises:
        ConfigError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}; choose auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"the device is {name!r}, and torch sees no GPU", hint="mnerfeat doctor")
    return device


def post_seed(post: Post) -> int:
    """Return a random seed (63 bits) that depends only on a post's id."""
    digest = hashlib.sha256(post.id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def gold_ids(posts: Sequence[Post], tag_set: TagSet) -> list[list[int]]:
    """Return the tag ids of labelled posts.

    Raises:
        DataError: Posts have no tags; all are listed.
    """
    unlabelled = [post.id for post in posts if post.tags is None]
    if unlabelled:
        raise DataError(f"{len(unlabelled)} posts have no tags", faults=unlabelled)
    return [tag_set.encode(post.tags or ()) for post in posts]


def pad_ids(rows: Sequence[Sequence[int]]) -> Int[Tensor, "batch words"]:
    """Return the tag ids of a batch as one tensor, with `IGNORED` on padding."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[IGNORED] * (width - len(row))] for row in rows])


def _length(text: Pieces) -> int:
    return sum(len(window) for window in text.windows)
