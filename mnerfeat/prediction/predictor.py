"""Predictions for new posts, with their images in the training cache or in a folder."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mnerfeat.checkpoint import Run, find_run
from mnerfeat.datasets import Post, read_posts
from mnerfeat.datasets.pair_columns import RANKED_RELEVANCE
from mnerfeat.datasets.raw_text import post_of_text
from mnerfeat.errors import ConfigError, DataError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.prediction.features import (
    cached_features,
    extracted_features,
    require_features,
    with_rewards,
)
from mnerfeat.prediction.predictions import Prediction, predict
from mnerfeat.tagger import Tagger, choose_device

PREDICT_CACHE = "predict.h5"
"""Cache in the run folder with the features that prediction extracted."""


def predict_file(
    path: Path,
    config: ExtractConfig,
    runs: Path,
    name: str | None = None,
    *,
    images: Path | None = None,
) -> list[Prediction]:
    """Predict the posts of a file. The training cache is only read.

    Args:
        path: Posts in any format, labelled or not.
        config: Training cache, device, discriminator, and models in place of those that the run
            recorded.
        runs: Folder of run folders.
        name: The run, as `find_run` takes it.
        images: Folder of the posts' images. Images are found there only, and known by their
            bytes; features that the training cache lacks are extracted into the run's
            `predict.h5`. If None, images are found by name in the training cache.

    Raises:
        DataError: Lines cannot be used; all are listed.
        RunError: There is no such run.
        ProvenanceError: Features or models are not those that the run was trained with.
        CacheError: Features are missing.
    """
    posts = read_posts(path)
    run = find_run(runs, name)
    tagger = run.load_tagger(choose_device())
    if images is not None:
        if not images.is_dir():
            raise ConfigError(f"the images folder {images} does not exist")
        config = replace(config, images=images)
    return _predict(
        run, tagger, posts, config, own=run.folder / PREDICT_CACHE, extract=images is not None
    )


def predict_post(
    text: str, images: Sequence[Path], config: ExtractConfig, runs: Path, name: str | None = None
) -> Prediction:
    """Predict one post. New features are not kept; the training cache is only read.

    Args:
        text: Raw text, split into words as the data sets are.
        images: Image files.
        config: As in `predict_file`.
        runs: Folder of run folders.
        name: The run, as `find_run` takes it.

    Raises:
        DataError: The text has no word, or images are missing.
        RunError: There is no such run.
        ProvenanceError: Models are not those that the run was trained with.
    """
    post = post_of_text(text, id="post")
    if not post.words:
        raise DataError(f"the text {text!r} has no word")
    absent = [str(path) for path in images if not path.is_file()]
    if absent:
        raise DataError("these images do not exist:", faults=absent)
    run = find_run(runs, name)
    tagger = run.load_tagger(choose_device())
    root = Path(Path.cwd().anchor)
    inside = tuple(path.resolve().relative_to(root).as_posix() for path in images)
    post = replace(post, images=inside)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / PREDICT_CACHE
        config = replace(config, images=root)
        (found,) = _predict(run, tagger, [post], config, own=own, extract=True)
    return Prediction(post=replace(post, images=tuple(map(str, images))), tagged=found.tagged)


def _predict(
    run: Run,
    tagger: Tagger,
    posts: Sequence[Post],
    config: ExtractConfig,
    *,
    own: Path,
    extract: bool,
) -> list[Prediction]:
    with_images = [post for post in posts if post.images]
    if not tagger.head.columns or not with_images:
        return predict(tagger, posts)
    if extract:
        features = extracted_features(run, with_images, config, own)
        if features is None:
            return predict(tagger, posts)
    else:
        features = cached_features(run, with_images, config.cache)
    if RANKED_RELEVANCE in tagger.head.columns:
        features = with_rewards(features, with_images, config.discriminator, own)
    require_features(run, features.cache)
    return predict(tagger, posts, features.cache, find=features.find)
