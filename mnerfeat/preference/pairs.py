"""Pairs of a better and a worse image of the same post: D of GIFR's eq. 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mnerfeat.preference.posts import RankedPost

PairSelection = Literal["all", "neighbours"]


@dataclass(frozen=True, kw_only=True)
class IndexedRanking:
    """A ranking whose text and images are given by index.

    Attributes:
        text: Index of the post's text.
        items: Indices of the ranked images, best first, including the blank image.
        blank: Position of the blank image in `items`.
    """

    text: int
    items: tuple[int, ...]
    blank: int


def index_rankings(
    ranked: Sequence[RankedPost],
) -> tuple[tuple[IndexedRanking, ...], tuple[str, ...], tuple[str, ...]]:
    """Number the texts and images of rankings.

    Returns:
        The indexed rankings, the texts, and the image names. The blank image's index is the
        number of image names.
    """
    texts: dict[str, int] = {}
    images: dict[str, int] = {}
    for one in ranked:
        texts.setdefault(one.post.text, len(texts))
        for name in one.ranking.images:
            images.setdefault(name, len(images))
    rankings = []
    for one in ranked:
        blank = one.ranking.blank
        items = [images[name] for name in one.ranking.images]
        items.insert(blank, len(images))
        rankings.append(IndexedRanking(text=texts[one.post.text], items=tuple(items), blank=blank))
    return tuple(rankings), tuple(texts), tuple(images)


def make_pairs(
    rankings: Sequence[IndexedRanking], selection: PairSelection = "all"
) -> Int[Tensor, "pairs 3"]:
    """Return the pairs of eq. 1 as indices: text, better image, worse image.

    Args:
        rankings: Rankings that include the blank image.
        selection: `all` pairs of a ranking, k (k + 1) / 2 for k images; or only its k
            `neighbours`, as in the authors' code.
    """
    rows = [
        (ranking.text, better, worse)
        for ranking in rankings
        for place, better in enumerate(ranking.items)
        for worse in ranking.items[place + 1 :][: 1 if selection == "neighbours" else None]
    ]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)
