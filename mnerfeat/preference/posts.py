"""Posts with rankings of their images, and the choice of those that the discriminator learns from.

GIFR divides its training set into D_dis, which trains the discriminator, and D_model, which trains
the tagger (section 4.1).
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from mnerfeat.cache import text_id
from mnerfeat.errors import DataError
from mnerfeat.preference.rankings import Ranking, RankingFile


@runtime_checkable
class RankablePost(Protocol):
    """The part of a post that ranking needs."""

    @property
    def id(self) -> str:
        """Id, unique within the split."""
        ...

    @property
    def text(self) -> str:
        """Text that the discriminator reads."""
        ...

    @property
    def images(self) -> tuple[str, ...]:
        """Image names."""
        ...


@dataclass(frozen=True, kw_only=True)
class RankedPost:
    """A post with one ranking of its images.

    Attributes:
        split: Split of the post.
        post: The post.
        ranking: Ranking of some or all of its images.
    """

    split: str
    post: RankablePost
    ranking: Ranking

    @property
    def key(self) -> tuple[str, str]:
        """Split and id."""
        return self.split, self.post.id

    def restricted_to(self, images: Collection[str]) -> "RankedPost":
        """Return the post with the ranking of those of its images that are in `images`."""
        return replace(self, ranking=self.ranking.restricted_to(images))


def match_posts(
    file: RankingFile, posts: Mapping[str, Sequence[RankablePost]]
) -> tuple[RankedPost, ...]:
    """Find the post of each ranking in a file.

    Args:
        file: The file's content.
        posts: Posts by split.

    Raises:
        DataError: The file has faults or no ranking; or rankings are of unknown posts, of posts
            in several splits without naming one, of images that the post does not have, or of a
            text that has changed since. All faults are listed.
    """
    by_id = {split: {post.id: post for post in some} for split, some in posts.items()}
    matched: list[RankedPost] = []
    misfits: list[str] = []
    for ranking, place in zip(file.rankings, file.places, strict=True):
        found = _find_post(ranking, by_id)
        if isinstance(found, RankedPost):
            matched.append(found)
        else:
            misfits.append(f"{place}: post {ranking.id!r} {found}")
    file.check(*misfits, hint=_HINT if misfits else None)
    return tuple(matched)


_HINT = "name the folder of the ranked posts with --data, or correct or remove these rankings"


def _find_post(
    ranking: Ranking, by_id: Mapping[str, Mapping[str, RankablePost]]
) -> RankedPost | str:
    """Return the ranking with its post, or the reason why it fits none."""
    splits = [
        split
        for split, some in by_id.items()
        if ranking.split in {None, split} and ranking.id in some
    ]
    if not splits:
        return f"is not in {ranking.split or ', '.join(by_id)}"
    if len(splits) > 1:
        return f"is in {' and in '.join(splits)}; add 'split'"
    post = by_id[splits[0]][ranking.id]
    unknown = [name for name in ranking.images if name not in post.images]
    if unknown:
        return (
            f"({splits[0]}) has no image {', '.join(unknown)}; it has "
            f"{', '.join(post.images) or 'none'}"
        )
    if ranking.text_id not in {None, text_id(post.text).hex()}:
        return f"({splits[0]}) has another text than the post that was ranked"
    return RankedPost(split=splits[0], post=post, ranking=ranking)


def draw_posts(
    keys: Sequence[tuple[str, str]], count: int, *, seed: int
) -> frozenset[tuple[str, str]]:
    """Draw a sample of posts.

    Posts are sorted by a hash of the seed, split and id, so the sample does not depend on their
    order, the machine or a library's version, and a larger sample contains every smaller one.

    Args:
        keys: Splits and ids; duplicates count once.
        count: Sample size; all posts are drawn if there are fewer.
        seed: Random seed.
    """

    def position(key: tuple[str, str]) -> bytes:
        return hashlib.sha256(f"{seed}\0{key[0]}\0{key[1]}".encode("utf-8", "replace")).digest()

    return frozenset(sorted(set(keys), key=position)[:count])


def draw_d_dis(
    ranked: Sequence[RankedPost], *, split: str, posts: int, share: float, seed: int
) -> tuple[RankedPost, ...]:
    """Choose D_dis, the ranked posts that the discriminator learns from.

    If more posts are ranked than the share allows, a sample is drawn; the tagger keeps the rest.

    Args:
        ranked: Ranked posts of all splits.
        split: Split to choose from, usually `train`.
        posts: Number of posts in that split, ranked or not.
        share: Maximum fraction of these posts, in (0, 1].
        seed: Random seed.

    Returns:
        All rankings of the chosen posts, in the given order.

    Raises:
        DataError: No post of the split is ranked.
    """
    candidates = [one for one in ranked if one.split == split]
    if not candidates:
        raise DataError(
            f"none of the {len(ranked):,} rankings is of a post of {split}",
            hint="`mnerfeat rank tasks` writes tasks for people; `mnerfeat rank proxy` ranks by "
            "CLIP similarity",
        )
    keys = [one.key for one in candidates]
    chosen = draw_posts(keys, max(1, round(share * posts)), seed=seed)
    return tuple(one for one in candidates if one.key in chosen)
