"""Columns of a post's text with an image: CLIP cosines, and rewards of a discriminator."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import FAILED, OK, FeatureCache, pair_id, stack_ids, text_id
from mnerfeat.datasets.posts import Post
from mnerfeat.errors import CacheError, CacheLookupError, MnerfeatError, ProvenanceError

RELEVANCE = "relevance"
"""Cosine of a post's CLIP text embedding and an image's CLIP embedding, in [-1, 1]."""

RANKED_RELEVANCE = "ranked_relevance"
"""R of GIFR (eq. 2): σ(r(image) − r(blank)) with the rewards r of a discriminator that learned
from rankings, in (0, 1); above 0.5 if it ranks the image before the blank one."""

REWARD, REWARD_BLANK = "reward", "reward_blank"
"""The cached features of pairs behind R: r(text, image) and r(text, blank image)."""

REWARD_SEEN = "reward_seen"
"""1 for a pair whose text the discriminator learned from, else 0."""

RENEW_REWARDS = "mnerfeat extract --features reward --replace"
"""The command that recomputes rewards."""


def cosines(
    cache: FeatureCache, posts: Sequence[Post], table: NDArray[np.int64], unique: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the column `RELEVANCE`.

    Args:
        cache: With CLIP embeddings.
        posts: All posts of the table.
        table: (posts, images) places in `unique`, -1 for no image.
        unique: Rows of the cache.

    Returns:
        (posts, images) float32, zero for no image.

    Raises:
        CacheLookupError: Texts of posts with images have no embedding.
        CacheError: The embeddings come from different models.
    """
    needed = np.flatnonzero((table >= 0).any(axis=1)).tolist()
    text_rows = cache.text_rows([posts[i].text for i in needed])
    feature = cache["clip_text"]
    lost = [
        posts[i].id
        for i, row in zip(needed, text_rows.tolist(), strict=True)
        if row < 0 or feature.state[row] != OK
    ]
    if lost:
        raise CacheLookupError(
            f"{cache.path} lacks the CLIP text embeddings of {len(lost):,} posts:",
            faults=lost,
            hint="mnerfeat extract --features clip --posts DIR (the folder of train, dev, test)",
        )
    images, texts = cache["clip_image"][unique], feature[text_rows]
    if images.shape[1:] != texts.shape[1:]:
        raise CacheError(
            f"clip_image has {images.shape[1]} numbers a row and clip_text {texts.shape[1]}: they "
            "come from different models",
            hint="mnerfeat extract --features clip --replace",
        )
    relevance = np.zeros(table.shape, np.float32)
    rows = table[needed]
    found = np.einsum("pd,pid->pi", _normalised(texts), _normalised(images)[rows])
    relevance[needed] = np.where(rows >= 0, found, 0)
    return relevance


def pair_rows(
    cache: FeatureCache, posts: Sequence[Post], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rows of posts' texts with their images in a cache.

    Args:
        cache: With pairs.
        posts: All posts.
        rows: (posts, images) rows of the images, -1 for none.

    Returns:
        (posts, images) rows of `cache.pairs`, -1 for none.
    """
    found = np.full(rows.shape, -1, np.int64)
    wanted = np.argwhere(rows >= 0)
    if not len(wanted):
        return found
    texts = {post: text_id(posts[post].text) for post in np.unique(wanted[:, 0]).tolist()}
    ids = [
        pair_id(texts[post], cache.images.ids[rows[post, slot]].tobytes())
        for post, slot in wanted.tolist()
    ]
    found[wanted[:, 0], wanted[:, 1]] = cache.pairs.find(stack_ids(ids))
    return found


def ranked_relevance(
    cache: FeatureCache, posts: Sequence[Post], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the column `RANKED_RELEVANCE`.

    Args:
        cache: With rewards.
        posts: All posts.
        rows: (posts, images) rows of the images that can be used, -1 elsewhere.

    Returns:
        (posts, images) float32, zero without a reward; and which images have one.

    Raises:
        ProvenanceError: The rewards were computed from other CLIP embeddings than the cache's.
        CacheLookupError: Images that can be used have no reward yet; their posts are listed.
    """
    require_fresh_rewards(cache)
    found = pair_rows(cache, posts, rows)
    rewards = [cache[name] for name in (REWARD, REWARD_BLANK)]
    there = found >= 0
    usable = there & np.all([reward.state[found] == OK for reward in rewards], axis=0)
    failed = there & np.any([reward.state[found] == FAILED for reward in rewards], axis=0)
    untried = (rows >= 0) & ~usable & ~failed
    if untried.any():
        lacking = [posts[i].id for i in np.flatnonzero(untried.any(axis=1)).tolist()]
        raise CacheLookupError(
            f"{cache.path} lacks the rewards of {int(untried.sum()):,} images, of "
            f"{len(lacking):,} posts:",
            faults=lacking,
            hint="mnerfeat extract --features reward --posts DIR (the folder of train, dev, test)",
        )
    values = np.zeros(rows.shape, np.float32)
    reward, blank = (np.asarray(one[found[usable]], np.float64) for one in rewards)
    values[usable] = np.exp(-np.logaddexp(0, blank - reward))  # eq. 2
    return values, usable


def require_fresh_rewards(cache: FeatureCache) -> None:
    """Check that the rewards were computed together, from the CLIP embeddings in the cache.

    Raises:
        ProvenanceError: They were not; the hint has the command that recomputes them.
    """
    made = cache[REWARD].provenance
    faults = [
        f"{name}: {made.facts[name]}, not {cache[name].provenance.digest}"
        for name in ("clip_text", "clip_image")
        if name in cache and made.facts.get(name) not in {None, cache[name].provenance.digest}
    ]
    if cache[REWARD_BLANK].provenance != made:
        faults += [
            f"{REWARD_BLANK}: {fault}"
            for fault in cache[REWARD_BLANK].provenance.differences(
                made, "for the blank image", "for the posts' images"
            )
        ]
    if faults:
        raise ProvenanceError(
            f"the rewards in {cache.path} are stale: they were computed from other embeddings than "
            "it contains (theirs, not the cache's):",
            faults=faults,
            hint=RENEW_REWARDS,
        )


def seen_posts(cache: FeatureCache, posts: Sequence[Post]) -> NDArray[np.bool_]:
    """Return which posts have a text that the rewards' discriminator was trained on.

    Args:
        cache: With rewards.
        posts: Any posts.

    Returns:
        (posts,); False for posts without images, which have no ranking.
    """
    found = np.zeros(len(posts), bool)
    if REWARD_SEEN not in cache:
        return found
    seen = cache[REWARD_SEEN]
    rows = np.flatnonzero(seen.state == OK)
    rows = rows[seen[rows] == 1]
    texts = {row.tobytes() for row in cache.pairs.pair_ids[0][rows]}
    return np.array([bool(post.images) and text_id(post.text) in texts for post in posts], bool)


def _normalised(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    vectors = vectors.astype(np.float32)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (norms > 0).all():
        raise MnerfeatError("a CLIP embedding is zero, so its cosines are undefined")
    normalised: NDArray[np.float32] = vectors / norms
    return normalised
