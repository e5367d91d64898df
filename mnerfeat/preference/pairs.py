"""The pairs of eq. 1: a better image and a worse one of the same post, the blank among them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mnerfeat.preference.matching import RankedPost


@dataclass(frozen=True, kw_only=True)
class Order:
    """A ranking in numbers.

    Attributes:
        text: Number of the post's text.
        items: Numbers of its ranked images, best first, the blank image among them.
        blank: Position of the blank image in `items`.
    """

    text: int
    items: tuple[int, ...]
    blank: int


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs of images of the same post.

    Attributes:
        text: Number of the text.
        better: Number of the image that is ranked higher.
        worse: Number of the image that is ranked lower.
        with_blank: Whether one of the two is the blank image.
        order: Which ranking the pair comes from.
    """

    text: Int[Tensor, " pairs"]
    better: Int[Tensor, " pairs"]
    worse: Int[Tensor, " pairs"]
    with_blank: Tensor
    order: Int[Tensor, " pairs"]

    def __len__(self) -> int:
        return len(self.text)


def number(
    ranked: Sequence[RankedPost],
) -> tuple[tuple[Order, ...], tuple[str, ...], tuple[str, ...]]:
    """Rankings as numbers of their texts and images.

    Returns:
        The rankings; the texts and the images' names that the numbers stand for. The blank image
        has the number after the last image.
    """
    texts: dict[str, int] = {}
    images: dict[str, int] = {}
    for one in ranked:
        texts.setdefault(one.post.text, len(texts))
        for name in one.ranking.images:
            images.setdefault(name, len(images))
    orders = []
    for one in ranked:
        items = [images[name] for name in one.ranking.images]
        items.insert(one.ranking.blank, len(images))
        orders.append(Order(text=texts[one.post.text], items=tuple(items), blank=one.ranking.blank))
    return tuple(orders), tuple(texts), tuple(images)


def make_pairs(orders: Sequence[Order]) -> Pairs:
    """Every pair of items of each ranking: D of eq. 1.

    A ranking of k images and the blank gives k (k + 1) / 2 pairs.
    """
    rows = [
        (order.text, order.items[i], order.items[j], order.blank in (i, j), place)
        for place, order in enumerate(orders)
        for i in range(len(order.items))
        for j in range(i + 1, len(order.items))
    ]
    columns = torch.tensor(rows, dtype=torch.long).reshape(-1, 5).unbind(dim=1)
    text, better, worse, with_blank, order = columns
    return Pairs(text=text, better=better, worse=worse, with_blank=with_blank.bool(), order=order)
