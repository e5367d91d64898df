"""Small things that several tests train and tag with."""

import random
from pathlib import Path

import torch
import transformers
from transformers import AutoModel

from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.tags import TYPES, TagSet
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.text import TextConfig, TextEncoder
from mnerfeat.training import TrainingConfig, TrainingData

# Several threads on models this small wait for each other, up to 25 times longer on a busy machine.
torch.set_num_threads(1)

SIZES = {
    "vit_cls": 6,
    "quality": 1,
    "relevance": 1,
    "ranked_relevance": 1,
    "grid": 6,
    "regions_grid": 6,
    "regions_count": 1,
    "caption_states": 8,
    "caption_length": 1,
    "tags_states": 8,
    "tags_length": 1,
}
"""Of the vectors of each column of `table`."""
FILLER = ["went", "to", "see", "the", "with", "today", "again", "near", "great", "!"]
CLUES = {"PER": "mr", "LOC": "in", "ORG": "at", "MISC": "watch"}
NAMES = [first + last for first in ("zor", "mik", "tal", "ben") for last in ("ba", "lo", "nu")]


def encoder_folder(folder: Path, *, dropout: float = 0.1) -> Path:
    """A random 2-layer BERT and a tokenizer for the words of `posts`."""
    folder.mkdir(exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*FILLER, *CLUES.values(), *NAMES]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def posts(count: int, seed: int, *, clue: bool) -> list[Post]:
    """Posts with one name each; a word before it tells the type, where `clue` is set."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        kind = draw.choice(TYPES)
        before = draw.choices(FILLER, k=draw.randint(0, 4))
        after = draw.choices(FILLER, k=draw.randint(0, 4))
        name = draw.sample(NAMES, k=draw.randint(1, 2))
        words = [*before, CLUES[kind] if clue else "the", *name, *after]
        at = len(before) + 1
        tags = ["O"] * len(words)
        tags[at] = f"B-{kind}"
        tags[at + 1 : at + len(name)] = [f"I-{kind}"] * (len(name) - 1)
        images = tuple(f"{number}_{slot}.jpg" for slot in range(draw.randint(0, 3)))
        made.append(Post(id=str(number), words=tuple(words), tags=tuple(tags), images=images))
    return made


def table(some: list[Post], seed: int) -> VisionTable:
    """Images that show the type of their post's name, where they are good and relevant."""
    generator = torch.Generator().manual_seed(seed)
    width = max(1, *(len(post.images) for post in some))
    rows = torch.full((len(some), width), -1)
    vectors, quality = [], []
    relevance = torch.zeros(len(some), width)
    for number, post in enumerate(some):
        kind = next(tag[2:] for tag in post.tags or () if tag != "O")
        for slot in range(len(post.images)):
            rows[number, slot] = len(vectors)
            vector = 0.3 * torch.randn(6, generator=generator)
            vector[TYPES.index(kind)] += 2 if slot == 0 else 0
            vectors.append(vector)
            quality.append(0.5 if slot == 0 else 0.2)
            relevance[number, slot] = 0.3 if slot == 0 else 0.2
    return VisionTable(
        rows,
        {
            "vit_cls": torch.stack(vectors),
            "quality": torch.tensor(quality),
            **several_vectors(len(vectors), generator),
        },
        {"relevance": relevance, "ranked_relevance": relevance},
    )


def several_vectors(images: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Columns that hold several vectors an image, with no meaning; and how many are real."""
    shapes = {
        "grid": (2, 2),
        "regions_grid": (3, 2, 2),
        "caption_states": (4,),
        "tags_states": (3,),
    }
    counts = {"regions_count": 3.0, "caption_length": 2.0, "tags_length": 3.0}
    return {
        name: torch.randn(images, *shape, SIZES[name], generator=generator)
        for name, shape in shapes.items()
    } | {name: torch.full((images,), count) for name, count in counts.items()}


def data(*, clue: bool, count: int = 48, images: bool = True) -> TrainingData:
    """A training and a dev split."""
    train, dev = posts(count, 1, clue=clue), posts(24, 2, clue=clue)
    none = VisionTable.without_images
    return TrainingData(
        train=train,
        dev=dev,
        train_images=table(train, 1) if images else none(len(train)),
        dev_images=table(dev, 2) if images else none(len(dev)),
        tag_set=TagSet(),
        fingerprints={"data": "tiny"},
    )


QUICK: dict[str, object] = {
    "epochs": 3,
    "batch_size": 8,
    "encoder_lr": 1e-2,
    "fusion_lr": 5e-3,
    "crf_lr": 3e-2,
    "device": "cpu",
}
"""Options under which the tiny encoder learns within seconds."""


def config(**options: object) -> TrainingConfig:
    return TrainingConfig(**QUICK | options)  # type: ignore[arg-type]


def encoder(folder: Path) -> TextEncoder:
    return TextEncoder.from_pretrained(TextConfig(encoder=str(folder)))
