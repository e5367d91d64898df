"""Posts, rankings and embeddings that several tests rank."""

from dataclasses import MISSING, dataclass, fields

import torch
from hypothesis import strategies as st

from mnerfeat.preference.discriminator import CachedEmbeddings
from mnerfeat.preference.pairs import IndexedRanking
from mnerfeat.preference.rankings import Ranking

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)),
    min_size=1,
    max_size=8,
)


@dataclass(frozen=True, kw_only=True)
class TinyPost:
    id: str
    text: str = "some words"
    images: tuple[str, ...] = ()


@st.composite
def rankings(draw):
    images = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    return Ranking(
        id=draw(NAMES),
        images=tuple(images),
        blank=draw(st.integers(0, len(images))),
        source=draw(st.sampled_from(["human", "proxy", "unstated", "crowd"])),
        split=draw(st.sampled_from([None, "train", "dev"])),
        annotator=draw(st.sampled_from([None, "a", "b"])),
    )


def world(posts, *, seed=0, width=6, kinds=4):
    """Embeddings of posts and images where an image is relevant if it is of the post's kind.

    Returns:
        Embeddings; rankings of three images and the blank each, the relevant ones first.
    """
    generator = torch.Generator().manual_seed(seed)
    table = torch.Generator().manual_seed(99)  # kinds look the same in every world
    words = torch.randn(kinds, width, generator=table)
    looks = torch.randn(kinds, width, generator=table)
    blank = torch.randn(1, width, generator=table)

    def noise(n):
        return 0.1 * torch.randn(n, width, generator=generator)

    post_kind = torch.randint(kinds, (posts,), generator=generator)
    image_kind = torch.randint(kinds, (posts, 3), generator=generator)
    image_kind[:, 0] = post_kind
    orders = []
    for post in range(posts):
        numbers = [3 * post + slot for slot in range(3)]
        fits = [bool(image_kind[post, slot] == post_kind[post]) for slot in range(3)]
        before = [n for n, fit in zip(numbers, fits, strict=True) if fit]
        after = [n for n, fit in zip(numbers, fits, strict=True) if not fit]
        # Images of a kind are alike, so that a ranking among them would be noise.
        orders.append(
            IndexedRanking(
                text=post,
                items=(before[0], 3 * posts, *after[:1]),
                blank=1,
            )
        )
    text = words[post_kind] + noise(posts)
    image = torch.cat([looks[image_kind.flatten()] + noise(3 * posts), blank])
    return CachedEmbeddings(text, image), orders


def unchecked(kind, **options):
    """Build a configuration as users do, without the type checks that the tests switch on."""
    config = object.__new__(kind)
    for field in fields(kind):
        made = field.default if field.default is not MISSING else field.default_factory()
        object.__setattr__(config, field.name, options.get(field.name, made))
    config.__post_init__()
    return config
