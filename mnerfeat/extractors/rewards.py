"""Rewards in the cache: what a discriminator makes of every post's text with its images.

They are computed from the CLIP embeddings in the cache; no image is opened and no other model is
loaded. `reward` is r(text, image), `reward_blank` is r(text, blank image), and `reward_seen` is 1
where the discriminator learned from rankings of a post with that text, so that whoever trains on
rewards can leave these posts out.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import (
    FAILED,
    OK,
    CacheWriter,
    FeatureCache,
    FeatureRows,
    Provenance,
    TableRows,
    pack,
    pair_id,
    stack_ids,
)
from mnerfeat.datasets.pair_columns import (
    REWARD,
    REWARD_BLANK,
    REWARD_SEEN,
    pair_rows,
)
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.vision import resolve
from mnerfeat.errors import CacheLookupError
from mnerfeat.preference.folder import SavedDiscriminator, load_discriminator, reward_command
from mnerfeat.preference.scoring import score_pairs

logger = logging.getLogger(__name__)

PAIRS_A_PART = 1 << 16
"""Pairs after which a part is sealed."""

CLIP_TEXT, CLIP_IMAGE = "clip_text", "clip_image"


@dataclass(frozen=True, kw_only=True)
class RewardSummary:
    """What was done about rewards.

    Attributes:
        cache: Where they are.
        pairs: Different pairs of a text and an image that the posts make.
        new: Of these, the ones that were computed, or would be.
        failed: Pairs whose image could not be read.
        unknown: Images named by the posts that the cache knows nothing of.
        sources: Who ranked what the discriminator learned from, with how many rankings.
        seconds: From start to end.
        dry_run: Whether nothing was done.
    """

    cache: Path
    pairs: int
    new: int
    failed: int
    unknown: int
    sources: dict[str, int]
    seconds: float
    dry_run: bool

    def __str__(self) -> str:
        rankings = ", ".join(f"{count:,} {source}" for source, count in self.sources.items())
        lost = [
            f", {count:,} {what}"
            for count, what in (
                (self.failed, "with an unreadable image"),
                (self.unknown, "images not in the cache"),
            )
            if count
        ]
        return (
            f"{self.pairs:,} rewards of texts with images: {self.new:,} "
            f"{'to do' if self.dry_run else 'new'}{''.join(lost)}; by a discriminator that "
            f"learned from {rankings} rankings; {self.seconds:,.1f} s"
        )


def extract_rewards(
    path: Path,
    posts: Sequence[Post],
    folder: Path,
    *,
    replace: bool = False,
    dry_run: bool = False,
) -> RewardSummary:
    """Bring the rewards in a cache up to date with posts and with a discriminator.

    Args:
        path: The cache, with the CLIP embeddings of the posts' texts and images.
        posts: Whose texts and images.
        folder: The discriminator's.
        replace: Make rewards anew that another discriminator, or other embeddings, gave.
        dry_run: Say what there is to do, and do nothing.

    Raises:
        RunError: Where there is no discriminator.
        CacheLookupError: Where CLIP embeddings are missing; every post is listed.
        ProvenanceError: Where the embeddings come from another CLIP than the discriminator's, or
            the cache holds the rewards of another discriminator and `replace` is not set.
        StorageError: Where the disk is full.
    """
    started = time.monotonic()
    saved, discriminator, blank = load_discriminator(folder)
    cache = FeatureCache(path)
    provenance = _provenance(cache, saved)
    stale = _check_fresh(cache, provenance, folder, replace=replace)
    pairs = _Pairs(cache, posts)
    done = np.ones(len(pairs.text), bool)
    for name in (REWARD, REWARD_BLANK, REWARD_SEEN):
        done &= cache.pairs.done(name, pairs.ids, provenance)
    failed = cache[CLIP_IMAGE].state[pairs.image] == FAILED
    open_ = np.flatnonzero(~done & ~(failed & _told(cache, pairs.ids, provenance)))
    if stale and not dry_run:
        _warn_of_loss(cache, pairs.ids)
    if len(open_) and not dry_run:
        seen = np.isin(pairs.text_ids, saved.text_ids)
        writer = CacheWriter(path)
        for start in range(0, len(open_), PAIRS_A_PART):
            part = open_[start : start + PAIRS_A_PART]
            fine = ~failed[part]
            texts, text = np.unique(pairs.text[part[fine]], return_inverse=True)
            images, image = np.unique(pairs.image[part[fine]], return_inverse=True)
            text_vectors, image_vectors = cache[CLIP_TEXT][texts], cache[CLIP_IMAGE][images]
            none = np.zeros(len(text), np.int64)
            values = {
                REWARD: score_pairs(discriminator, text_vectors, image_vectors, text, image),
                REWARD_BLANK: score_pairs(discriminator, text_vectors, blank[None], text, none),
                REWARD_SEEN: seen[part[fine]].astype(np.uint8),
            }
            writer.put(pairs=pairs.rows(part, fine, values, provenance))
    if not dry_run:
        pack(path)
    return RewardSummary(
        cache=path,
        pairs=len(pairs.text),
        new=len(open_),
        failed=int(failed.sum()),
        unknown=pairs.unknown,
        sources=dict(saved.sources),
        seconds=time.monotonic() - started,
        dry_run=dry_run,
    )


def lacks_rewards(path: Path, posts: Sequence[Post]) -> bool:
    """Whether a cache lacks rewards of posts with images that it knows."""
    with FeatureCache(path) as cache:
        if REWARD not in cache:
            return any(post.images for post in posts)
        counts = np.array([len(post.images) for post in posts], np.int64)
        slots = counts[:, None] > np.arange(counts.max(initial=0))
        rows = np.full(slots.shape, -1, np.int64)
        rows[slots] = resolve(cache, [name for post in posts for name in post.images])
        found = pair_rows(cache, posts, rows)
        state = np.where(found >= 0, cache[REWARD].state[found], 0)
        return bool(((rows >= 0) & (state != OK) & (state != FAILED)).any())


def _provenance(cache: FeatureCache, saved: SavedDiscriminator) -> Provenance:
    lacking = [name for name in (CLIP_TEXT, CLIP_IMAGE) if name not in cache]
    if lacking:
        raise CacheLookupError(
            f"{cache.path} lacks {' and '.join(lacking)}, which rewards are made of",
            hint="mnerfeat extract --features clip,reward",
        )
    for name in (CLIP_TEXT, CLIP_IMAGE):
        saved.require_clip(name, cache[name].provenance, where=str(cache.path))
    return saved.reward_provenance(cache[CLIP_TEXT].provenance, cache[CLIP_IMAGE].provenance)


def _check_fresh(
    cache: FeatureCache, provenance: Provenance, folder: Path, *, replace: bool
) -> bool:
    """Whether the cache holds rewards of something else.

    Raises:
        ProvenanceError: It does, and they are not to be replaced.
    """
    held = cache.pairs.features.get(REWARD)
    if held is None or held.provenance == provenance:
        return False
    if not replace:
        held.require(provenance, command=reward_command(folder, replace=True))
    return True


def _told(cache: FeatureCache, ids: NDArray[np.uint8], provenance: Provenance) -> NDArray[np.bool_]:
    """Which pairs the cache holds as failed already."""
    held = cache.pairs.features.get(REWARD)
    if held is None or held.provenance != provenance:
        return np.zeros(len(ids), bool)
    rows = cache.pairs.find(ids)
    told: NDArray[np.bool_] = (rows >= 0) & (held.state[rows] == FAILED)
    return told


def _warn_of_loss(cache: FeatureCache, ids: NDArray[np.uint8]) -> None:
    state = cache.pairs.features[REWARD].state
    rows = cache.pairs.find(ids)
    left = int((state == OK).sum() - (state[rows[rows >= 0]] == OK).sum())
    if left:
        logger.warning(
            "replacing the rewards; those of %s pairs of other posts are dropped", f"{left:,}"
        )


class _Pairs:
    """The pairs that posts make of their texts and images, each once.

    Attributes:
        text: (n,) rows of the texts.
        image: (n,) rows of the images.
        text_ids: (n,) identities of the texts, in hex.
        ids: (n, 32) identities of the pairs.
        unknown: Images that the cache knows nothing of.
    """

    def __init__(self, cache: FeatureCache, posts: Sequence[Post]) -> None:
        with_images = [post for post in posts if post.images]
        names = [name for post in with_images for name in post.images]
        rows = resolve(cache, names)
        owner = np.repeat(np.arange(len(with_images)), [len(post.images) for post in with_images])
        self.unknown = len({name for name, row in zip(names, rows, strict=True) if row < 0})
        owner, rows = owner[rows >= 0], rows[rows >= 0]
        used = sorted(set(owner.tolist()))
        self._check(cache, [with_images[i] for i in used], rows)
        text_rows = np.full(len(with_images), -1, np.int64)
        if used:
            text_rows[used] = cache.text_rows([with_images[i].text for i in used])
        both = np.unique(np.stack([text_rows[owner], rows], axis=1).reshape(-1, 2), axis=0)
        self.text, self.image = both[:, 0], both[:, 1]
        identities = {row: cache.texts.ids[row].tobytes() for row in np.unique(self.text).tolist()}
        self._texts = [identities[row] for row in self.text.tolist()]
        self._images = [cache.images.ids[row].tobytes() for row in self.image.tolist()]
        self.text_ids: NDArray[Any] = np.array([one.hex() for one in self._texts], dtype="<U64")
        self.ids = stack_ids(
            [pair_id(text, image) for text, image in zip(self._texts, self._images, strict=True)]
        )

    @staticmethod
    def _check(cache: FeatureCache, posts: Sequence[Post], rows: NDArray[np.int64]) -> None:
        faults = []
        state = cache[CLIP_TEXT].state
        for post, row in zip(posts, cache.text_rows([p.text for p in posts]).tolist(), strict=True):
            if row < 0 or state[row] != OK:
                faults.append(f"the text of post {post.id}")
        image_state = cache[CLIP_IMAGE].state
        lacking = np.unique(rows[(image_state[rows] != OK) & (image_state[rows] != FAILED)])
        faults += cache.images.describe(lacking)
        if faults:
            raise CacheLookupError(
                f"{cache.path} lacks {len(faults):,} CLIP embeddings that rewards are made of:",
                faults=faults,
                hint="mnerfeat extract --features clip,reward --posts FILE (of these posts, or the "
                "folder of train, dev, test)",
            )

    def rows(
        self,
        part: NDArray[np.int64],
        fine: NDArray[np.bool_],
        values: dict[str, NDArray[Any]],
        provenance: Provenance,
    ) -> TableRows:
        """Some pairs as the cache takes them; those that are not fine as failed."""
        state = np.where(fine, OK, FAILED).astype(np.uint8)
        reasons = dict.fromkeys(np.flatnonzero(~fine).tolist(), "its image has no CLIP embedding")
        features = {}
        for name, given in values.items():
            data = np.zeros(len(part), given.dtype)
            data[fine] = given
            features[name] = FeatureRows(
                data=data, state=state, provenance=provenance, reasons=reasons
            )
        return TableRows(
            ids=self.ids[part],
            features=features,
            text=stack_ids([self._texts[i] for i in part.tolist()]),
            image=stack_ids([self._images[i] for i in part.tolist()]),
        )
