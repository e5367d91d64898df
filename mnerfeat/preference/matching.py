"""Rankings brought together with the posts they are about, and the choice of D_dis."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mnerfeat.errors import DataError
from mnerfeat.preference.rankings import Found, Ranking


@runtime_checkable
class RankablePost(Protocol):
    """What is asked of a post; those of the data sets have it."""

    @property
    def id(self) -> str:
        """Unique within its split."""
        ...

    @property
    def text(self) -> str:
        """What the discriminator reads."""
        ...

    @property
    def images(self) -> tuple[str, ...]:
        """Names."""
        ...


@dataclass(frozen=True, kw_only=True)
class RankedPost:
    """A post with one ranking of its images.

    Attributes:
        split: Of the post.
        post: The post.
        ranking: Of some or all of its images.
    """

    split: str
    post: RankablePost
    ranking: Ranking

    @property
    def key(self) -> tuple[str, str]:
        """Which post it is, over all splits."""
        return self.split, self.post.id


def match(found: Found, posts: Mapping[str, Sequence[RankablePost]]) -> tuple[RankedPost, ...]:
    """Find the post of each ranking of a file.

    Args:
        found: What the file holds.
        posts: By split.

    Raises:
        DataError: The file has faults, or rankings of unknown posts, of posts that stand in
            several splits and name none, and of images that the post does not have; all of them
            are listed. Or it holds no ranking.
    """
    known = {split: {post.id: post for post in some} for split, some in posts.items()}
    matched: list[RankedPost] = []
    misfits: list[str] = []
    for ranking, place in zip(found.rankings, found.places, strict=True):
        one = _owner(ranking, known)
        if isinstance(one, RankedPost):
            matched.append(one)
        else:
            misfits.append(f"{place}: post {ranking.id!r} {one}")
    found.check(*misfits, hint=_HINT if misfits else None)
    return tuple(matched)


_HINT = (
    "name the folder of the posts that were ranked with --data, or correct or take out these "
    "rankings"
)


def _owner(ranking: Ranking, known: Mapping[str, Mapping[str, RankablePost]]) -> RankedPost | str:
    """The ranking with its post, or why there is none."""
    splits = [
        split
        for split, some in known.items()
        if ranking.split in {None, split} and ranking.id in some
    ]
    if not splits:
        return f"is not in {ranking.split or ', '.join(known)}"
    if len(splits) > 1:
        return f"stands in {' and in '.join(splits)}; add 'split'"
    post = known[splits[0]][ranking.id]
    unknown = [name for name in ranking.images if name not in post.images]
    if unknown:
        return (
            f"({splits[0]}) has no image {', '.join(unknown)}; it has "
            f"{', '.join(post.images) or 'none'}"
        )
    return RankedPost(split=splits[0], post=post, ranking=ranking)


def draw(keys: Sequence[tuple[str, str]], count: int, *, seed: int) -> frozenset[tuple[str, str]]:
    """Some of some posts, drawn by a seed.

    Whether a post comes before another hangs on the seed and these two alone, so the choice does
    not depend on the posts' order, on the machine, or on a library's version; and of two counts,
    the larger one's choice holds the smaller one's.

    Args:
        keys: Splits and ids of posts; repeated ones count once.
        count: How many; all of them where there are not so many.
        seed: Any number.
    """

    def place(key: tuple[str, str]) -> bytes:
        return hashlib.sha256(f"{seed}\0{key[0]}\0{key[1]}".encode("utf-8", "replace")).digest()

    return frozenset(sorted(set(keys), key=place)[:count])


def choose(
    ranked: Sequence[RankedPost], *, split: str, posts: int, share: float, seed: int
) -> tuple[RankedPost, ...]:
    """D_dis: the rankings that the discriminator learns from.

    They are those of one split. Where more posts of it are ranked than the share allows, as many
    as it allows are drawn by the seed; the rest is left to the tagger.

    Args:
        ranked: Every ranking there is.
        split: Which rankings may be used, `train` as a rule.
        posts: How many posts the split has, ranked or not.
        share: Of all posts of the split, at most, in (0, 1].
        seed: Draws them.

    Returns:
        The rankings chosen, in the order given; all rankings of a post that was drawn.

    Raises:
        DataError: No post of the split is ranked.
    """
    mine = [one for one in ranked if one.split == split]
    if not mine:
        raise DataError(
            f"none of the {len(ranked):,} rankings is of a post of {split}",
            hint="`mnerfeat rank tasks` writes tasks for people; `mnerfeat rank proxy` writes "
            "rankings from CLIP similarity",
        )
    drawn = draw([one.key for one in mine], max(1, round(share * posts)), seed=seed)
    return tuple(one for one in mine if one.key in drawn)
