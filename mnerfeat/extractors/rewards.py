"""Rewards: what a discriminator gives every post's text with each of its images.

Computed from the CLIP embeddings in the cache; no image is opened and no other model is loaded.
`reward` is r(text, image), `reward_blank` is r(text, blank image), and `reward_seen` is 1 if the
discriminator learned from rankings of a post with that text, so that training on rewards can leave
such posts out.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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
from mnerfeat.datasets.image_rows import Find, post_rows, resolve
from mnerfeat.datasets.pair_columns import (
    REWARD,
    REWARD_BLANK,
    REWARD_SEEN,
    pair_rows,
)
from mnerfeat.datasets.posts import Post
from mnerfeat.errors import CacheLookupError
from mnerfeat.extractors.clip import CLIP_IMAGE, CLIP_TEXT
from mnerfeat.preference.checkpoint import SavedDiscriminator, load_discriminator, reward_command
from mnerfeat.preference.discriminator import compute_rewards

logger = logging.getLogger(__name__)

PAIRS_A_PART: Final = 1 << 16
"""Pairs written to the cache at a time."""

_FEATURES = (REWARD, REWARD_BLANK, REWARD_SEEN)
_COMMAND = "mnerfeat extract --features clip,reward"


@dataclass(frozen=True, kw_only=True)
class RewardSummary:
    """The outcome of computing rewards.

    Attributes:
        cache: The cache that holds them.
        pairs: Distinct pairs of a text and an image in the posts.
        new: Pairs that were computed, or would be.
        failed: Pairs whose image is unreadable.
        unknown: Images in the posts that the cache does not contain.
        sources: Number of rankings that the discriminator learned from, by who ranked.
        seconds: Duration.
        dry_run: Whether nothing was computed.
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
    source: FeatureCache | None = None,
    find: Find | None = None,
) -> RewardSummary:
    """Compute the rewards of posts that a cache lacks.

    Args:
        path: The cache, with the CLIP embeddings of the posts' texts and images.
        posts: The posts.
        folder: Folder of the discriminator.
        replace: Replace rewards by another discriminator, or from other embeddings.
        dry_run: Count what there is to do, and do nothing.
        source: Cache with the CLIP embeddings, and with rewards that need not be computed again;
            by default the cache itself.
        find: Finds the images' rows in the source; by default by name.

    Raises:
        RunError: There is no discriminator.
        CacheLookupError: CLIP embeddings are missing; every post is listed.
        ProvenanceError: The embeddings come from another CLIP than the discriminator's, or the
            cache holds rewards by another discriminator and `replace` is not set.
        StorageError: The disk is full.
    """
    started = time.monotonic()
    saved, discriminator, blank = load_discriminator(folder)
    cache = FeatureCache(path) if source is None else source
    provenance = _provenance(cache, saved, folder)
    held = cache.pairs.features.get(REWARD)
    stale = held is not None and held.provenance != provenance
    if held is not None and stale and not replace:
        held.require(provenance, command=reward_command(folder, replace=True))
    pairs = _Pairs(cache, posts, find)
    done = pairs.failed & (False if stale else _held_as_failed(cache, pairs.ids))
    done |= np.logical_and.reduce(
        [cache.pairs.done(name, pairs.ids, provenance) for name in _FEATURES]
    )
    todo = np.flatnonzero(~done)
    if stale and not dry_run:
        _warn_of_loss(cache, pairs.ids)
    if len(todo) and not dry_run:
        writer = CacheWriter(path)
        seen = np.isin(pairs.text_ids, saved.text_ids)
        for start in range(0, len(todo), PAIRS_A_PART):
            part = todo[start : start + PAIRS_A_PART]
            valid = part[~pairs.failed[part]]
            texts, text = np.unique(pairs.text[valid], return_inverse=True)
            images, image = np.unique(pairs.image[valid], return_inverse=True)
            text_vectors, image_vectors = cache[CLIP_TEXT][texts], cache[CLIP_IMAGE][images]
            zeros = np.zeros(len(text), np.int64)
            values = {
                REWARD: compute_rewards(discriminator, text_vectors, image_vectors, text, image),
                REWARD_BLANK: compute_rewards(
                    discriminator, text_vectors, blank[None], text, zeros
                ),
                REWARD_SEEN: seen[valid].astype(np.uint8),
            }
            writer.put(pairs=pairs.rows(part, values, provenance), replace=replace)
    if not dry_run and path.exists():
        pack(path)
    return RewardSummary(
        cache=path,
        pairs=len(pairs.text),
        new=len(todo),
        failed=int(pairs.failed.sum()),
        unknown=pairs.unknown,
        sources=dict(saved.sources),
        seconds=time.monotonic() - started,
        dry_run=dry_run,
    )


def lacks_rewards(cache: FeatureCache, posts: Sequence[Post], *, find: Find | None = None) -> bool:
    """Return whether a cache lacks rewards of posts with images that it contains.

    Args:
        cache: The cache.
        posts: The posts.
        find: Finds the images' rows in the cache; by default by name.
    """
    if REWARD not in cache:
        return any(post.images for post in posts)
    rows = post_rows(cache, posts, find)
    found = pair_rows(cache, posts, rows)
    state = np.where(found >= 0, cache[REWARD].state[found], 0)
    return bool(((rows >= 0) & (state != OK) & (state != FAILED)).any())


def _provenance(cache: FeatureCache, saved: SavedDiscriminator, folder: Path) -> Provenance:
    missing = [name for name in (CLIP_TEXT, CLIP_IMAGE) if name not in cache]
    if missing:
        raise CacheLookupError(
            f"{cache.path} lacks {' and '.join(missing)}, which rewards are computed from",
            hint=_COMMAND,
        )
    for name in (CLIP_TEXT, CLIP_IMAGE):
        saved.require_clip(name, cache[name].provenance, cache=cache.path, folder=folder)
    return saved.reward_provenance(cache[CLIP_TEXT].provenance, cache[CLIP_IMAGE].provenance)


def _held_as_failed(cache: FeatureCache, ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pairs the cache holds as failed."""
    held = cache.pairs.features.get(REWARD)
    if held is None:
        return np.zeros(len(ids), bool)
    rows = cache.pairs.find(ids)
    failed: NDArray[np.bool_] = (rows >= 0) & (held.state[rows] == FAILED)
    return failed


def _warn_of_loss(cache: FeatureCache, ids: NDArray[np.uint8]) -> None:
    state = cache.pairs.features[REWARD].state
    rows = cache.pairs.find(ids)
    lost = int((state == OK).sum() - (state[rows[rows >= 0]] == OK).sum())
    if lost:
        logger.warning(
            "replacing the rewards; those of %s pairs of other posts are dropped", f"{lost:,}"
        )


class _Pairs:
    """The distinct pairs of a text and an image in posts.

    Attributes:
        text: (n,) rows of the texts.
        image: (n,) rows of the images.
        text_ids: (n,) identities of the texts, in hex.
        ids: (n, 32) identities of the pairs.
        failed: (n,) whether the image is unreadable.
        unknown: Number of images that the cache does not contain.
    """

    def __init__(self, cache: FeatureCache, posts: Sequence[Post], find: Find | None) -> None:
        with_images = [post for post in posts if post.images]
        names = [name for post in with_images for name in post.images]
        images = resolve(cache, names) if find is None else find(names)
        texts = cache.text_rows([post.text for post in with_images])
        owner = np.repeat(np.arange(len(with_images)), [len(post.images) for post in with_images])
        known = images >= 0
        self.unknown = len({name for name, there in zip(names, known, strict=True) if not there})
        owner, images = owner[known], images[known]
        used = np.unique(owner)
        _check_embeddings(cache, [with_images[i] for i in used.tolist()], texts[used], images)
        pairs = np.unique(np.stack([texts[owner], images], axis=1).reshape(-1, 2), axis=0)
        self.text, self.image = pairs[:, 0], pairs[:, 1]
        self._texts = [cache.texts.ids[row].tobytes() for row in self.text.tolist()]
        self._images = [cache.images.ids[row].tobytes() for row in self.image.tolist()]
        self.text_ids: NDArray[Any] = np.array([one.hex() for one in self._texts], dtype="<U64")
        self.ids = stack_ids(list(map(pair_id, self._texts, self._images)))
        self.failed = cache[CLIP_IMAGE].state[self.image] == FAILED

    def rows(
        self,
        part: NDArray[np.int64],
        values: Mapping[str, NDArray[Any]],
        provenance: Provenance,
    ) -> TableRows:
        """Return rows for the cache.

        Args:
            part: Numbers of pairs.
            values: By feature, for those of them that did not fail.
            provenance: Of all features.
        """
        valid = ~self.failed[part]
        state = np.where(valid, OK, FAILED).astype(np.uint8)
        reasons = dict.fromkeys(np.flatnonzero(~valid).tolist(), "its image has no CLIP embedding")
        features = {}
        for name, given in values.items():
            data = np.zeros(len(part), given.dtype)
            data[valid] = given
            features[name] = FeatureRows(
                data=data, state=state, provenance=provenance, reasons=reasons
            )
        return TableRows(
            ids=self.ids[part],
            features=features,
            text=stack_ids([self._texts[i] for i in part.tolist()]),
            image=stack_ids([self._images[i] for i in part.tolist()]),
        )


def _check_embeddings(
    cache: FeatureCache, posts: Sequence[Post], texts: NDArray[np.int64], images: NDArray[np.int64]
) -> None:
    """Check that the cache holds the embeddings of posts' texts and of images, given their rows."""
    states = cache[CLIP_TEXT].state
    faults = [
        f"the text of post {post.id}"
        for post, row in zip(posts, texts.tolist(), strict=True)
        if row < 0 or states[row] != OK
    ]
    image_states = cache[CLIP_IMAGE].state[images]
    faults += cache.images.describe(
        np.unique(images[(image_states != OK) & (image_states != FAILED)])
    )
    if faults:
        raise CacheLookupError(
            f"{cache.path} lacks {len(faults):,} CLIP embeddings that rewards are computed from:",
            faults=faults,
            hint=f"{_COMMAND} --posts FILE (of these posts, or the folder of train, dev, test)",
        )
