"""The vocabulary of the tiny text towers, and freshly made posts to train them on."""

import string

import numpy as np
import torch
from torch import Tensor
from transformers import BertTokenizerFast

from mnerfeat.toy.language import caption, vocabulary
from mnerfeat.toy.plan import ToyPost, plan_posts

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_VOWELS = "aeiou"
_CONSONANTS = "bdfghjklmnprstvwxz"


def make_tokenizer(*, context: int) -> BertTokenizerFast:
    """A WordPiece tokenizer that knows the toy world's words, and spells every other word.

    Names are never in the vocabulary: they come apart into letters and consonant-vowel pairs.
    """
    signs = string.ascii_lowercase + string.digits
    pairs = [c + v for c in _CONSONANTS for v in _VOWELS]
    pieces = [*SPECIAL, *string.punctuation, *signs, *pairs, *vocabulary()]
    pieces += [f"##{piece}" for piece in (*signs, *pairs)]
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizerFast(vocab=vocab, do_lower_case=True, model_max_length=context)


def make_posts(count: int, *, seed: int) -> list[ToyPost]:
    """Posts with names that no world holds."""
    return plan_posts(count, seed=seed, share="backbones")


def make_sentences(posts: list[ToyPost], *, seed: int) -> list[tuple[str, str]]:
    """Pairs of a post and the caption of one of its images; the caption is empty without one."""
    rng = np.random.default_rng([seed, 11])
    return [
        (toy.post.text, caption(toy.images[rng.integers(len(toy.images))].scene, rng))
        if toy.images
        else (toy.post.text, "")
        for toy in posts
    ]


def wall_words(posts: list[ToyPost], walls: tuple[str, ...]) -> Tensor:
    """(posts,) the place in `walls` of the wall that each post hints at; -1 without a hint."""
    return torch.tensor([-1 if toy.wall is None else walls.index(toy.wall) for toy in posts])
