"""The images of posts as tensors, so that a batch is one index operation."""

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mnerfeat.cache import FeatureCache
from mnerfeat.datasets.columns import Column, load_column, take
from mnerfeat.datasets.image_rows import Find, ImageCoverage, ImageRows
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


class VisionTable:
    """The images of some posts, with the columns that a head reads.

    Args:
        image_rows: (posts, images) int64 rows of the image columns; -1 if there is no image that
            can be used. At least one image wide.
        image_columns: Columns of images by name, (rows, …).
        pair_columns: Columns of posts with images by name, (posts, images).
        coverage: What could be used of a cache, if the table comes from one.
    """

    def __init__(
        self,
        image_rows: Int[Tensor, "posts images"],
        image_columns: Mapping[str, Column],
        pair_columns: Mapping[str, Tensor],
        coverage: ImageCoverage | None = None,
    ) -> None:
        self.image_rows = image_rows
        self.image_columns = dict(image_columns)
        self.pair_columns = dict(pair_columns)
        self.coverage = coverage
        # On the host, so that a batch's width does not wait for the device.
        self._widths = _widths(image_rows)

    @staticmethod
    def without_images(posts: int, sizes: Mapping[str, int] | None = None) -> "VisionTable":
        """Return a table without any image.

        Args:
            posts: Number of posts.
            sizes: Size of the vectors of each column that a head reads.
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
        """Load columns of the images of some posts, and nothing else.

        Large columns stay in the file of a packed cache (see `mnerfeat.datasets.columns`). An
        image that the cache does not contain, or that could not be read, is masked, counted and
        reported; it is never replaced by another one.

        Args:
            cache: With the features of which the columns are made.
            posts: In the order of the numbers that `batch` takes.
            columns: Names of `FEATURES_OF_COLUMN`.
            find: Finds the images' rows; by default `resolve` looks their names up in the cache.

        Raises:
            CacheLookupError: A feature has not been extracted, or not for all posts; or the cache
                contains none of the images.
        """
        columns = tuple(columns)
        if not columns:
            return VisionTable.without_images(len(posts))
        features = {name for column in columns for name in FEATURES_OF_COLUMN[column]}
        _require_features(cache, features)
        images = ImageRows(cache, posts, find)
        usable = images.known.copy()
        for name in sorted(features):
            if name in cache.images.features:
                usable &= images.usable(name)
        pair_columns = {}
        if RANKED_RELEVANCE in columns:
            values, ranked = ranked_relevance(cache, posts, np.where(usable, images.rows, -1))
            pair_columns[RANKED_RELEVANCE] = torch.from_numpy(values)
            usable &= ranked
        unique, image_rows = np.unique(images.rows[usable], return_inverse=True)
        table = np.full(images.rows.shape, -1, np.int64)
        table[usable] = image_rows
        image_columns = {
            column: load_column(cache[column], unique)
            for column in columns
            if column in cache.images.features
        }
        if RELEVANCE in columns:
            pair_columns[RELEVANCE] = torch.from_numpy(cosines(cache, posts, table, unique))
        coverage = images.coverage(usable)
        log.info("%s", coverage)
        return VisionTable(torch.from_numpy(table), image_columns, pair_columns, coverage)

    @property
    def column_sizes(self) -> dict[str, int]:
        """Size of the vectors of each column, of which a row may hold several; 1 for numbers."""
        sizes = {
            name: column.shape[-1] if len(column.shape) > 1 else 1
            for name, column in self.image_columns.items()
        }
        return sizes | dict.fromkeys(self.pair_columns, 1)

    def __len__(self) -> int:
        return len(self.image_rows)

    def to(self, device: torch.device) -> "VisionTable":
        """Return the table on a device; a column larger than half its free memory stays."""
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None

        def moved(column: Column) -> Column:
            too_large = free is not None and column.nbytes > free // 2
            return column if too_large or device.type == "cpu" else column.to(device)

        return VisionTable(
            self.image_rows.to(device),
            {name: moved(column) for name, column in self.image_columns.items()},
            {name: column.to(device) for name, column in self.pair_columns.items()},
            self.coverage,
        )

    def batch(
        self, post: Int[Tensor, "batch"]
    ) -> tuple[Bool[Tensor, "batch images"], dict[str, Tensor]]:
        """Return the images of some posts.

        Args:
            post: Numbers of posts. On the host, the batch is as wide as its widest post, on a
                device as wide as the table (padding never changes a result).

        Returns:
            A mask of the images, and every column (batch, images, …) float32, zero for padding.
        """
        width = self.image_rows.shape[1]
        if post.device.type == "cpu":
            width = int(self._widths[post].max()) if len(post) else 1
        rows = self.image_rows[post.to(self.image_rows.device), :width]
        mask = rows >= 0
        columns = {}
        for name, column in self.image_columns.items():
            if not column.shape[0]:  # no image can be used
                columns[name] = torch.zeros(*mask.shape, *column.shape[1:], device=rows.device)
                continue
            values = take(column, rows.clamp(min=0)).to(rows.device).float()
            columns[name] = values * mask.view(*mask.shape, *[1] * (values.ndim - 2))
        for name, column in self.pair_columns.items():
            columns[name] = column[post.to(column.device), :width].float() * mask
        return mask, columns


def _widths(image_rows: Tensor) -> Tensor:
    """Return the number of slots that each post needs, at least 1, (posts,)."""
    positions = torch.arange(1, image_rows.shape[1] + 1)
    return ((image_rows.cpu() >= 0) * positions).amax(dim=1).clamp(min=1)


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
    """Return the extractors that make some features: `vit` makes `vit_cls`."""
    return sorted({feature.split("_", maxsplit=1)[0] for feature in features})
