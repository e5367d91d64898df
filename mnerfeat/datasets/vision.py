"""The image columns of a whole data set as tensors, so that a batch costs an index."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from mnerfeat.cache import FAILED, OK, Feature, FeatureCache
from mnerfeat.datasets.images import archive_names
from mnerfeat.datasets.pair_columns import (
    RANKED_RELEVANCE,
    RELEVANCE,
    REWARD,
    REWARD_BLANK,
    cosines,
    ranked_relevance,
)
from mnerfeat.datasets.posts import Post
from mnerfeat.errors import CacheLookupError

log = logging.getLogger(__name__)

FEATURES_OF_COLUMN: Mapping[str, tuple[str, ...]] = {
    "vit_cls": ("vit_cls",),
    "quality": ("quality",),
    RELEVANCE: ("clip_image", "clip_text"),
    RANKED_RELEVANCE: (REWARD, REWARD_BLANK),
    **{
        name: (name,)
        for name in (
            "grid",
            "regions_grid",
            "regions_count",
            "caption_states",
            "caption_length",
            "tags_states",
            "tags_length",
        )
    },
}
"""The cached features that a column is made of."""


IN_MEMORY = 1 << 30
"""Bytes of a column up to which it is read whole; of a larger one a batch reads what it needs."""

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class StoredColumn:
    """A column that stays in the cache's file, and takes no memory of its own.

    Attributes:
        values: A memory map of the feature, (rows of the cache, …).
        rows: Where each row of the column stands there.
    """

    values: Tensor
    rows: Int[Tensor, " rows"]

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, …)."""
        return (len(self.rows), *self.values.shape[1:])

    @property
    def nbytes(self) -> int:
        """What it would take in memory."""
        return math.prod(self.shape) * self.values.element_size()

    def take(self, index: Int[Tensor, "..."]) -> Tensor:
        """Some rows, on the host."""
        return self.values[self.rows[index.cpu()]]

    def to(self, device: torch.device) -> Tensor:
        """The whole of it on a device, a few rows at a time, so that the host never holds it."""
        moved = torch.empty(self.shape, dtype=self.values.dtype, device=device)
        for start in range(0, len(self.rows), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            moved[some] = self.values[self.rows[some]].to(device)
        return moved


Find = Callable[[Sequence[str]], NDArray[np.int64]]
"""Names of images to their rows in a cache, (k,); -1 for an image that it does not contain."""

Column = Tensor | StoredColumn
"""(rows, …): what depends on the image alone."""


@dataclass(frozen=True, kw_only=True)
class ImageUse:
    """How many of the images that posts name can be used, and why not the others.

    Attributes:
        posts: All of them.
        with_images: Posts with at least one image that can be used.
        named: Images named by the posts, each naming counted.
        used: Of these, the ones with every column known.
        unknown: Names the cache knows nothing of: the files were not there at extraction.
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


class VisionTable:
    """The images of some posts: which rows they are, and every column of these rows.

    Args:
        image_rows: (posts, images) int64 into the image columns; -1 where there is no image
            that can be used. At least one image wide.
        image_columns: By name.
        pair_columns: By name, (posts, images): what depends on post and image.
        use: What could be used, where the table comes from a cache.
    """

    def __init__(
        self,
        image_rows: Int[Tensor, "posts images"],
        image_columns: Mapping[str, Column],
        pair_columns: Mapping[str, Tensor],
        use: ImageUse | None = None,
    ) -> None:
        self.image_rows = image_rows
        self.image_columns = dict(image_columns)
        self.pair_columns = dict(pair_columns)
        self.use = use
        # Counting on the host: asking the device for a batch's width would wait for it.
        self._widths = _widths(image_rows)

    @staticmethod
    def without_images(posts: int, sizes: Mapping[str, int] | None = None) -> "VisionTable":
        """A table for posts of which no image is looked at.

        Args:
            posts: How many.
            sizes: Of the vectors of each column that a head will ask for nevertheless.
        """
        columns = {name: torch.zeros(0, size) for name, size in (sizes or {}).items() if size > 1}
        pairs = {name: torch.zeros(posts, 1) for name, size in (sizes or {}).items() if size == 1}
        return VisionTable(torch.full((posts, 1), -1), columns, pairs)

    @classmethod
    def from_cache(
        cls,
        cache: FeatureCache,
        posts: Sequence[Post],
        columns: Iterable[str],
        *,
        find: Find | None = None,
    ) -> "VisionTable":
        """Look up the images of `posts` and load `columns` of them, and nothing else.

        Columns above `IN_MEMORY` bytes stay in the file of a packed cache. An image that the
        cache does not know, or that could not be read, is masked, counted and reported; it is
        never replaced by another one.

        Args:
            cache: With the features the columns are made of.
            posts: In the order in which batches will name them.
            columns: Names of `FEATURES_OF_COLUMN`.
            find: Finds the images' rows; by default `resolve` looks their names up in the cache.

        Raises:
            CacheLookupError: Where a feature is missing, whole or for some posts, because it
                has not been extracted (yet), or where not one image is known.
        """
        columns = tuple(columns)
        if not columns:
            return VisionTable.without_images(len(posts))
        features = {name for column in columns for name in FEATURES_OF_COLUMN[column]}
        _require_features(cache, features)
        lookup = _Lookup(cache, posts, find)
        usable = lookup.known.copy()
        for name in sorted(features):
            if name in cache.images.features:
                usable &= lookup.usable(name)
        pair_columns = {}
        if RANKED_RELEVANCE in columns:
            values, ranked = ranked_relevance(cache, posts, np.where(usable, lookup.rows, -1))
            pair_columns[RANKED_RELEVANCE] = torch.from_numpy(values)
            usable &= ranked
        unique, image_rows = np.unique(lookup.rows[usable], return_inverse=True)
        table = np.full(lookup.rows.shape, -1, np.int64)
        table[usable] = image_rows
        image_columns = {
            column: _column(cache[column], unique)
            for column in columns
            if column in cache.images.features
        }
        if RELEVANCE in columns:
            pair_columns[RELEVANCE] = torch.from_numpy(cosines(cache, posts, table, unique))
        use = lookup.use(usable)
        log.info("%s", use)
        return VisionTable(torch.from_numpy(table), image_columns, pair_columns, use)

    @property
    def column_sizes(self) -> dict[str, int]:
        """The size of each column's vectors, of which a row may hold several; 1 for a number."""
        sizes = {
            name: column.shape[-1] if len(column.shape) > 1 else 1
            for name, column in self.image_columns.items()
        }
        return sizes | dict.fromkeys(self.pair_columns, 1)

    def __len__(self) -> int:
        return len(self.image_rows)

    def to(self, device: torch.device) -> "VisionTable":
        """The same table on `device`; a column that takes over half its free memory stays."""
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None

        def moved(column: Column) -> Column:
            too_large = free is not None and column.nbytes > free // 2
            return column if too_large or device.type == "cpu" else column.to(device)

        return VisionTable(
            self.image_rows.to(device),
            {name: moved(column) for name, column in self.image_columns.items()},
            {name: column.to(device) for name, column in self.pair_columns.items()},
            self.use,
        )

    def batch(
        self, post: Int[Tensor, "batch"]
    ) -> tuple[Bool[Tensor, "batch images"], dict[str, Tensor]]:
        """The images of some posts.

        Args:
            post: Numbers of posts; where they lie on the host, the batch is as wide as its
                widest post, elsewhere as wide as the table (padding never changes a result).

        Returns:
            Which images there are, and every column (batch, images, …) float32, zero where
            there is none.
        """
        width = self.image_rows.shape[1]
        if post.device.type == "cpu":
            width = int(self._widths[post].max()) if len(post) else 1
        rows = self.image_rows[post.to(self.image_rows.device), :width]
        mask = rows >= 0
        columns = {}
        for name, column in self.image_columns.items():
            if not column.shape[0]:  # not one image can be used
                columns[name] = torch.zeros(*mask.shape, *column.shape[1:], device=rows.device)
                continue
            values = _take(column, rows.clamp(min=0)).to(rows.device).float()
            columns[name] = values * mask.view(*mask.shape, *[1] * (values.ndim - 2))
        for name, column in self.pair_columns.items():
            columns[name] = column[post.to(column.device), :width].float() * mask
        return mask, columns


def _column(feature: Feature, rows: NDArray[np.int64]) -> Column:
    size = len(rows) * math.prod(feature.row_shape) * feature.dtype.itemsize
    if size > IN_MEMORY and feature.mapped:
        log.info("%s (%.1f GiB) stays in the cache's file", feature.name, size / 2**30)
        values = feature.tensor(allow_missing=True)
        return StoredColumn(values=values, rows=torch.from_numpy(rows))
    return torch.from_numpy(feature[rows])


def _take(column: Column, index: Int[Tensor, "..."]) -> Tensor:
    if isinstance(column, StoredColumn):
        return column.take(index)
    return column[index.to(column.device)]


def _widths(image_rows: Tensor) -> Tensor:
    """How many slots a post needs, at least 1, (posts,)."""
    positions = torch.arange(1, image_rows.shape[1] + 1)
    return ((image_rows.cpu() >= 0) * positions).amax(dim=1).clamp(min=1)


class _Lookup:
    """Where the images of posts are in a cache.

    Attributes:
        names: Of the images, one list a post.
        rows: (posts, images) rows of the cache, -1 for none.
        known: (posts, images) whether the cache knows the image.
    """

    def __init__(self, cache: FeatureCache, posts: Sequence[Post], find: Find | None) -> None:
        self._cache = cache
        self.names = [post.images for post in posts]
        width = max([1, *map(len, self.names)])
        flat = [name for names in self.names for name in names]
        found = resolve(cache, flat) if find is None else find(flat)
        slot = np.array([len(names) for names in self.names])[:, None] > np.arange(width)
        self.rows = np.full((len(posts), width), -1, np.int64)
        self.rows[slot] = found
        self._slot = slot
        self.known = self.rows >= 0
        if flat and not self.known.any():
            raise CacheLookupError(
                f"{cache.path} knows none of the {len(flat):,} images that the posts name "
                f"(for example {flat[0]!r})",
                hint="extract the folder that holds them: mnerfeat extract --images DIR",
            )

    def usable(self, feature: str) -> NDArray[np.bool_]:
        """Which images have the feature.

        Raises:
            CacheLookupError: Where some were never tried: the extraction is unfinished.
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

    def use(self, usable: NDArray[np.bool_]) -> ImageUse:
        unknown: dict[str, None] = {}
        failed: dict[str, str] = {}
        for post, slot in np.argwhere(self._slot & ~usable).tolist():
            name, row = self.names[post][slot], int(self.rows[post, slot])
            if row < 0:
                unknown[name] = None
            else:
                failed[name] = next(
                    (
                        feature.failures[row]
                        for feature in self._cache.images.features.values()
                        if row in feature.failures
                    ),
                    "it has no reward",
                )
        return ImageUse(
            posts=len(self.names),
            with_images=int(usable.any(axis=1).sum()),
            named=int(self._slot.sum()),
            used=int(usable.sum()),
            unknown=tuple(unknown),
            failed=failed,
        )


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


def _require_features(cache: FeatureCache, features: Iterable[str]) -> None:
    lacking = [name for name in sorted(features) if name not in cache]
    if lacking:
        raise CacheLookupError(
            f"{cache.path} lacks {', '.join(lacking)}; it holds "
            f"{', '.join(cache.features) or 'nothing'}",
            hint=f"mnerfeat extract --features {','.join(_extractors(lacking))}"
            + (" --posts data" if {"clip_text", REWARD, REWARD_BLANK} & set(lacking) else ""),
        )


def _extractors(features: Iterable[str]) -> list[str]:
    """The extractors that make some features: `vit_cls` is made by `vit`."""
    return sorted({feature.split("_", maxsplit=1)[0] for feature in features})
