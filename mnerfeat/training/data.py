"""Training data from a data folder and a feature cache."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnerfeat.cache import FeatureCache
from mnerfeat.datasets import Post, TagSet, fingerprint, read_folder
from mnerfeat.datasets.checks import entity_warnings
from mnerfeat.datasets.image_rows import post_rows
from mnerfeat.datasets.pair_columns import (
    RANKED_RELEVANCE,
    REWARD,
    pair_rows,
    seen_posts,
)
from mnerfeat.datasets.vision import FEATURES_OF_COLUMN, VisionTable
from mnerfeat.errors import DataError
from mnerfeat.heads.base import HeadConfig
from mnerfeat.preference import open_discriminator
from mnerfeat.preference.checkpoint import reward_command
from mnerfeat.training.config import RankedPosts
from mnerfeat.training.ranked_relevance import judge_images, read_judgements
from mnerfeat.training.trainer import TrainingData

logger = logging.getLogger(__name__)

VIT_WIDTH = 768
"""Width of image vectors if no post has an image: that of ViT-B."""


def load_training_data(
    data: Path,
    cache: Path,
    head: HeadConfig,
    *,
    ranked_posts: RankedPosts = "leave-out",
    discriminator: Path | None = None,
) -> TrainingData:
    """Read train and dev, and the image columns that a head reads.

    The test split is not opened. The cache is not opened if the head reads no images or no post
    has any.

    Args:
        data: Folder of the splits.
        cache: Feature cache.
        head: Options of the head.
        ranked_posts: What to do with train posts that the discriminator learned from, if the head
            reads its rewards; see `TrainingConfig`.
        discriminator: Folder of the discriminator; if it exists, the rewards must be its own.

    Raises:
        DataError: A split is missing or cannot be read, or no train post is left.
        CacheError: There is no cache, or it lacks what the head reads.
        ProvenanceError: The rewards are stale.
        RunError: `ranked_posts` is `as-ranked`, and the discriminator's rankings are missing.
    """
    found = read_folder(data, ("train", "dev"))
    train, dev = found["train"].posts, found["dev"].posts
    for warning in entity_warnings({"train": train, "dev": dev}):
        logger.warning("%s", warning)
    fingerprints: dict[str, Any] = {"data": {split.name: split.fingerprint for split in found}}
    if any(post.images for post in (*train, *dev)) and head.columns:
        with FeatureCache(cache) as opened:
            if RANKED_RELEVANCE in head.columns and REWARD in opened:
                require_rewards(opened, discriminator)
                train, split = _d_model(opened, train, dev, ranked_posts)
                fingerprints |= split
            train_images = VisionTable.from_cache(opened, train, head.columns)
            dev_images = VisionTable.from_cache(opened, dev, head.columns)
            if RANKED_RELEVANCE in head.columns and ranked_posts == "as-ranked":
                judged = judge_images(train_images, opened, train, read_judgements(discriminator))
                fingerprints["d_dis"]["images_as_ranked"] = judged
                logger.info("R of %d train images comes from their rankings", judged)
            fingerprints["features"] = feature_fingerprints(opened, (*train, *dev), head.columns)
    else:
        if head.columns:
            logger.warning("no post of train and dev has an image; the head reads text only")
        sizes = {name: VIT_WIDTH if name == "vit_cls" else 1 for name in head.columns}
        train_images, dev_images = (
            VisionTable.without_images(len(posts), sizes) for posts in (train, dev)
        )
    return TrainingData(
        train=train,
        dev=dev,
        train_images=train_images,
        dev_images=dev_images,
        tag_set=TagSet.of((*found["train"].posts, *dev)),
        fingerprints=fingerprints,
    )


def _d_model(
    cache: FeatureCache, train: Sequence[Post], dev: Sequence[Post], ranked_posts: RankedPosts
) -> tuple[tuple[Post, ...], Mapping[str, Any]]:
    """Return the tagger's train posts (D_model of GIFR), and their description for the run.

    The discriminator was trained on the rewards of posts that it learned from. Its R is less
    certain on other posts, so a tagger that learned to trust R on the former would be misled.
    """
    seen = seen_posts(cache, train)
    in_dev = int(seen_posts(cache, dev).sum())
    if in_dev:
        logger.warning(
            "the discriminator learned from the texts of %d dev posts; scores on them are too high",
            in_dev,
        )
    made = cache[REWARD].provenance.facts
    sources = made.get("rankings", {}).get("sources", {})
    if set(sources) - {"human"}:
        logger.warning("R comes from rankings that are not human: %s", ", ".join(sorted(sources)))
    left = tuple(post for post, one in zip(train, seen, strict=True) if not one)
    kept = ranked_posts != "leave-out"
    if kept:
        left = tuple(train)
    if not left:
        raise DataError(
            "the discriminator learned from every post of train, so none is left for the tagger",
            hint="train the discriminator on fewer (`mnerfeat rank train --share 0.1 --replace`), "
            "or keep them: --set train.ranked_posts=keep",
        )
    ranked = [post for post, one in zip(train, seen, strict=True) if one]
    logger.info(
        "%d train posts, whose rankings trained the discriminator, are %s; %d posts to train on",
        len(ranked),
        "kept" if kept else "left out",
        len(left),
    )
    return left, {
        "d_dis": {
            "posts": len(ranked),
            "fingerprint": fingerprint(ranked),
            "kept": kept,
            **made.get("drawn_by", {}),
        },
        "d_model": {"posts": len(left), "fingerprint": fingerprint(left)},
    }


def require_rewards(cache: FeatureCache, discriminator: Path | None) -> None:
    """Check that rewards come from a discriminator, if it exists.

    Args:
        cache: Cache with rewards.
        discriminator: Folder of the discriminator, or None.

    Raises:
        ProvenanceError: The discriminator has changed since.
        RunError: The folder is not a discriminator's.
    """
    if discriminator is None or not discriminator.is_dir():
        return
    saved = open_discriminator(discriminator)
    if "clip_text" in cache and "clip_image" in cache:
        wanted = saved.reward_provenance(
            cache["clip_text"].provenance, cache["clip_image"].provenance
        )
        cache[REWARD].require(wanted, command=reward_command(discriminator, replace=True))


def feature_fingerprints(
    cache: FeatureCache, posts: Sequence[Post], columns: Iterable[str]
) -> Mapping[str, Mapping[str, Any]]:
    """Describe the features that a run reads, for its record.

    Returns:
        By feature, `provenance` (the facts about the extractor), `rows` (a SHA-256 of the rows
        that the posts use), and, for rewards, `inputs` (the provenance of the embeddings that they
        were computed from, by feature).
    """
    image_rows = post_rows(cache, posts)
    rows = np.unique(image_rows)
    text_rows = np.unique(cache.text_rows([post.text for post in posts if post.images]))
    found: dict[str, dict[str, Any]] = {}
    for name in sorted({name for column in columns for name in FEATURES_OF_COLUMN[column]}):
        used = text_rows if name in cache.texts.features else rows
        if name in cache.pairs.features:
            used = np.unique(pair_rows(cache, posts, image_rows))
        found[name] = {
            "provenance": dict(cache[name].provenance.facts),
            "rows": cache[name].fingerprint(used[used >= 0]),
        }
        if name == REWARD:
            found[name]["inputs"] = {
                input_: dict(cache[input_].provenance.facts)
                for input_ in ("clip_text", "clip_image")
                if input_ in cache
            }
    return found
