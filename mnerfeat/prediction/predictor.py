"""Predictions for posts whose images may not be in any cache yet."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mnerfeat.cache import FeatureCache
from mnerfeat.checkpoint import Run, find_run
from mnerfeat.datasets import Post, read_posts
from mnerfeat.datasets.pair_columns import RANKED_RELEVANCE, REWARD
from mnerfeat.datasets.raw_text import post_of_text
from mnerfeat.datasets.vision import FEATURES_OF_COLUMN
from mnerfeat.errors import DataError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.prediction.predictions import Prediction, predict
from mnerfeat.prediction.results import require_features
from mnerfeat.tagger import Tagger, choose_device


def predict_file(
    path: Path, config: ExtractConfig, runs: Path, name: str | None, *, extract_first: bool
) -> list[Prediction]:
    """Predict the posts of a file.

    Args:
        path: Posts in any format, labelled or not.
        config: Its cache is read; where `extract_first`, its models extract what that lacks of
            the posts' images in its folder, and of their texts. Its discriminator gives the
            rewards that the head needs and the cache lacks.
        runs: The folder of run folders.
        name: Of the run; None is the newest complete one.
        extract_first: Whether to extract.

    Raises:
        DataError: With every line that cannot be used.
        RunError: Where there is no such run.
        ProvenanceError: Where the features are not those that the run was trained on.
        CacheError: Where features are missing.
    """
    posts = read_posts(path)
    run = find_run(runs, name)
    tagger = run.load_tagger(choose_device())
    if extract_first:
        _extract(tagger, posts, config)
    elif RANKED_RELEVANCE in tagger.head.columns and config.cache.is_file():
        _make_rewards(posts, config)
    return _predict(run, tagger, posts, config.cache)


def predict_post(
    text: str, images: Sequence[Path], config: ExtractConfig, runs: Path, name: str | None
) -> Prediction:
    """Predict one post; what is extracted for it goes into no cache that lasts.

    Args:
        text: Split into words as the data sets are.
        images: Files.
        config: Whose models extract.
        runs: The folder of run folders.
        name: Of the run; None is the newest complete one.

    Raises:
        DataError: Where the text has no word, or images are not there.
        RunError: Where there is no such run.
        ProvenanceError: Where the models are not those that the run was trained on.
    """
    post = post_of_text(text, id="post")
    if not post.words:
        raise DataError(f"the text {text!r} has no word")
    absent = [str(path) for path in images if not path.is_file()]
    if absent:
        raise DataError("images that are not there:", faults=absent)
    run = find_run(runs, name)
    tagger = run.load_tagger(choose_device())
    root = Path(Path.cwd().anchor)
    names = tuple(path.resolve().relative_to(root).as_posix() for path in images)
    post = replace(post, images=names)
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, images=root, cache=Path(folder) / "features.h5")
        _extract(tagger, [post], config)
        (found,) = _predict(run, tagger, [post], config.cache)
    return Prediction(post=replace(post, images=tuple(map(str, images))), tagged=found.tagged)


def _extract(tagger: Tagger, posts: Sequence[Post], config: ExtractConfig) -> None:
    """Extract what the head reads of posts and is not in the cache yet."""
    features = {name for column in tagger.head.columns for name in FEATURES_OF_COLUMN[column]}
    extractors = {feature.split("_", maxsplit=1)[0] for feature in features}
    with_images = [post for post in posts if post.images]
    names = dict.fromkeys(name for post in with_images for name in post.images)
    names = {name: None for name in names if (config.images / name).is_file()}
    pairs = {"clip_text", REWARD} & features  # of texts and images: new where a text is
    if not features or not with_images or not (names or pairs):
        return
    from mnerfeat.extraction.extract import extract  # noqa: PLC0415 - needs an extra

    if REWARD in extractors:
        extractors.add("clip")  # which rewards are made of
    chosen = replace(config, features=tuple(sorted(extractors)))
    extract(chosen, posts=with_images if pairs else [], names=names)


def _make_rewards(posts: Sequence[Post], config: ExtractConfig) -> None:
    """Make the rewards that the cache lacks of the embeddings in it, which takes no model."""
    from mnerfeat.extractors.rewards import extract_rewards, lacks_rewards  # noqa: PLC0415

    if lacks_rewards(config.cache, posts):
        extract_rewards(config.cache, posts, config.discriminator)


def _predict(run: Run, tagger: Tagger, posts: Sequence[Post], path: Path) -> list[Prediction]:
    cache = None
    if tagger.head.columns and any(post.images for post in posts):
        cache = FeatureCache(path)
        require_features(run, cache)
    return predict(tagger, posts, cache)
