"""Images of posts in a cache: where each is, and why some cannot be used."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import FAILED, OK, FeatureCache
from mnerfeat.datasets.images import archive_names
from mnerfeat.datasets.posts import Post
from mnerfeat.errors import CacheLookupError

log = logging.getLogger(__name__)

Find = Callable[[Sequence[str]], NDArray[np.int64]]
"""Names of images to their rows in a cache, (k,); -1 for an image that it does not contain."""


def resolve(cache: FeatureCache, names: Sequence[str]) -> NDArray[np.int64]:
    """Find images in a cache by the names that posts give them; see `mnerfeat.cache.names`.

    Names that are not found as they stand are logged with how they were found.

    Returns:
        (k,) rows, -1 for images that the cache does not contain.

    Raises:
        CacheLookupError: Names fit several images with different bytes; all are listed.
    """
    rows, resolution = cache.find_images(names, other_names=archive_names)
    if resolution.ambiguous:
        raise CacheLookupError(
            f"{len(resolution.ambiguous):,} image names of the posts fit several different images:",
            faults=[
                f"{name}: {', '.join(stored)}"
                for name, stored in sorted(resolution.ambiguous.items())
            ],
            hint="name them in the data with their folders",
        )
    for note in resolution.notes():
        log.info("%s", note)
    return rows


def post_rows(
    cache: FeatureCache, posts: Sequence[Post], find: Find | None = None
) -> NDArray[np.int64]:
    """Find the images of posts in a cache.

    Args:
        cache: The cache.
        posts: The posts.
        find: Finds the images' rows; None for `resolve`.

    Returns:
        (posts, images) rows, -1 for none. At least one image wide.

    Raises:
        CacheLookupError: Names are ambiguous.
    """
    names = [name for post in posts for name in post.images]
    named = named_slots(posts)
    rows = np.full(named.shape, -1, np.int64)
    rows[named] = resolve(cache, names) if find is None else find(names)
    return rows


def named_slots(posts: Sequence[Post]) -> NDArray[np.bool_]:
    """Return which slots of posts have an image name, (posts, images), at least one wide."""
    counts = np.array([len(post.images) for post in posts], np.int64)
    slots: NDArray[np.bool_] = counts[:, None] > np.arange(max(1, counts.max(initial=0)))
    return slots


@dataclass(frozen=True, kw_only=True)
class ImageCoverage:
    """How many of the posts' images can be used, and why not the others.

    Attributes:
        posts: Number of posts.
        with_images: Posts with at least one image that can be used.
        named: Images of all posts; an image of two posts counts twice.
        used: Those of them with every column.
        unknown: Names that the cache does not contain: the files were missing at extraction.
        failed: Names of images that could not be read or extracted, with the reason.
    """

    posts: int
    with_images: int
    named: int
    used: int
    unknown: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lost = []
        if self.unknown:
            lost.append(f"{len(self.unknown):,} not in the cache")
        if self.failed:
            lost.append(f"{len(self.failed):,} unreadable")
        return (
            f"{self.used:,} of {self.named:,} images used, {self.with_images:,} of "
            f"{self.posts:,} posts have one" + (f" ({', '.join(lost)}; masked)" if lost else "")
        )


class ImageRows:
    """The rows of posts' images in a cache.

    Args:
        cache: The cache.
        posts: The posts.
        find: Finds the images' rows; None for `resolve`.

    Attributes:
        rows: (posts, images) rows of the cache, -1 for none. At least one image wide.
        known: (posts, images) True for images that the cache contains.

    Raises:
        CacheLookupError: The cache contains none of the images, or names are ambiguous.
    """

    def __init__(self, cache: FeatureCache, posts: Sequence[Post], find: Find | None) -> None:
        self._cache = cache
        self._names = [post.images for post in posts]
        self._named = named_slots(posts)
        self.rows = post_rows(cache, posts, find)
        self.known = self.rows >= 0
        if self._named.any() and not self.known.any():
            example = next(name for names in self._names for name in names)
            raise CacheLookupError(
                f"{cache.path} contains none of the {int(self._named.sum()):,} images of the posts "
                f"(for example {example!r})",
                hint="extract the folder that holds them: mnerfeat extract --images DIR",
            )

    def usable(self, feature: str) -> NDArray[np.bool_]:
        """Return which images have a feature.

        Raises:
            CacheLookupError: The extraction of the feature is unfinished.
        """
        state = self._cache[feature].state[self.rows]
        untried = self.known & (state != OK) & (state != FAILED)
        if untried.any():
            names = self._cache.images.describe(np.unique(self.rows[untried]))
            raise CacheLookupError(
                f"{feature} has not been extracted for {len(names):,} images of the posts:",
                faults=names,
                hint=f"finish it: mnerfeat extract --features {feature}",
            )
        usable: NDArray[np.bool_] = self.known & (state == OK)
        return usable

    def coverage(self, usable: NDArray[np.bool_]) -> ImageCoverage:
        """Return what can be used, with the reasons for the rest.

        Args:
            usable: (posts, images) images with every column.
        """
        reasons: dict[int, str] = {}
        for feature in self._cache.images.features.values():
            reasons = {**feature.failures, **reasons}
        unknown: dict[str, None] = {}
        failed: dict[str, str] = {}
        for post, slot in np.argwhere(self._named & ~usable).tolist():
            name, row = self._names[post][slot], int(self.rows[post, slot])
            if row < 0:
                unknown[name] = None
            else:
                failed[name] = reasons.get(row, "it has no reward")
        return ImageCoverage(
            posts=len(self._names),
            with_images=int(usable.any(axis=1).sum()),
            named=int(self._named.sum()),
            used=int(usable.sum()),
            unknown=tuple(unknown),
            failed=failed,
        )
