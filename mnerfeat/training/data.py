"""From a data folder and a feature cache to what training and evaluation take."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnerfeat.cache import FeatureCache
from mnerfeat.datasets import Post, TagSet, read_folder
from mnerfeat.datasets.vision import FEATURES_OF_COLUMN, VisionTable, resolve
from mnerfeat.heads.base import HeadConfig
from mnerfeat.training.fitting import TrainingData


def load_training_data(data: Path, cache: Path, head: HeadConfig) -> TrainingData:
    """Read train and dev, and the image columns that a head needs of them.

    The test split is not opened. The cache is not opened for a head that reads no images.

    Args:
        data: The folder of the splits.
        cache: The feature cache.
        head: The head's options.

    Raises:
        DataError: Splits that are missing or cannot be read.
        CacheError: No cache, or one that lacks what the head reads.
    """
    found = read_folder(data, ("train", "dev"))
    train, dev = found["train"].posts, found["dev"].posts
    fingerprints: dict[str, Any] = {"data": {split.name: split.fingerprint for split in found}}
    train_images, dev_images = (VisionTable.without_images(len(posts)) for posts in (train, dev))
    if head.columns:
        with FeatureCache(cache) as opened:
            train_images = VisionTable.from_cache(opened, train, head.columns)
            dev_images = VisionTable.from_cache(opened, dev, head.columns)
            fingerprints["features"] = feature_fingerprints(opened, (*train, *dev), head.columns)
    return TrainingData(
        train=train,
        dev=dev,
        train_images=train_images,
        dev_images=dev_images,
        tag_set=TagSet.of((*train, *dev)),
        fingerprints=fingerprints,
    )


def feature_fingerprints(
    cache: FeatureCache, posts: Sequence[Post], columns: Iterable[str]
) -> Mapping[str, Mapping[str, Any]]:
    """What a run writes down about the features it was trained on.

    Returns:
        By feature: `provenance`, the facts about what made it, and `rows`, a SHA-256 of the rows
        that the posts use.
    """
    names = [name for post in posts for name in post.images]
    rows = np.unique(resolve(cache, names))
    text_rows = np.unique(cache.text_rows([post.text for post in posts if post.images]))
    found = {}
    for name in sorted({name for column in columns for name in FEATURES_OF_COLUMN[column]}):
        used = rows if name in cache.images.features else text_rows
        found[name] = {
            "provenance": dict(cache[name].provenance.facts),
            "rows": cache[name].fingerprint(used[used >= 0]),
        }
    return found
