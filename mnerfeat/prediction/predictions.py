"""Predictions: entities, and the head's values of each image.

Predictions are written as JSONL, one object per post, which `mnerfeat.datasets.read_posts` reads
like any file of posts.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnerfeat.cache import FeatureCache
from mnerfeat.checkpoint import json_lines
from mnerfeat.datasets.image_rows import Find
from mnerfeat.datasets.loader import read_posts
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.tags import Entity, entities
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.errors import DataError, StorageError
from mnerfeat.tagger import Tagged, Tagger


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one post.

    Attributes:
        post: The post.
        tagged: Its tags, and the head's values of its images.
    """

    post: Post
    tagged: Tagged

    @property
    def entities(self) -> list[Entity]:
        """Entities of the tags by the lenient convention."""
        return entities(self.tagged.tags)

    @property
    def images(self) -> dict[str, Mapping[str, float] | None]:
        """The head's values of each image by name; None if the image could not be used."""
        return dict(zip(self.post.images, self.tagged.images, strict=True))

    def record(self) -> dict[str, object]:
        """Return the JSON object of the prediction; see `Tagged.record`."""
        return self.tagged.record(self.post)


def predict(
    tagger: Tagger,
    posts: Sequence[Post],
    cache: FeatureCache | None = None,
    *,
    find: Find | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> list[Prediction]:
    """Predict the entities of posts.

    Args:
        tagger: As `Run.load_tagger` gives it.
        posts: Posts; labels are not used.
        cache: Cache with the features of the posts' images; None to use no image.
        find: Finds images in the cache, as in `VisionTable.from_cache`; by default by name.
        batch_size: Posts per batch; no result depends on it.
        progress: Whether to show a progress bar.

    Returns:
        One prediction per post, in the order given.

    Raises:
        CacheLookupError: A feature that the head reads has not been extracted.
    """
    columns = tagger.head.columns
    with_images = cache is not None and any(post.images for post in posts) and columns
    table = VisionTable.without_images(len(posts))
    if cache is not None and with_images:
        table = VisionTable.from_cache(cache, posts, columns, find=find).to(tagger.device)
    found = tagger.tag(posts, table, batch_size=batch_size, progress=progress)
    return [Prediction(post=post, tagged=tagged) for post, tagged in zip(posts, found, strict=True)]


def predictions_text(predictions: Sequence[Prediction]) -> str:
    """Return predictions as JSONL."""
    return json_lines(one.record() for one in predictions)


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write predictions as JSONL, all or nothing.

    Raises:
        StorageError: The file cannot be written; an older file stays unchanged.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_text(predictions_text(predictions), "utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions of this or any other system.

    Only `text` (words) and `label` (predicted tags) are needed.

    Raises:
        DataError: The file cannot be read, or posts have no `label`; all are listed.
    """
    posts = read_posts(path)
    unlabelled = [post.id for post in posts if post.tags is None]
    if unlabelled:
        raise DataError(f"{path}: {len(unlabelled)} posts have no 'label'", faults=unlabelled)
    predictions, faults = [], []
    lines = _lines(path)
    if not lines[0].startswith("{"):  # only JSON lines hold values of images
        lines = ["{}"] * len(posts)
    for post, line in zip(posts, lines, strict=True):
        images = _image_values(line, len(post.images))
        if images is None:
            faults.append(f"{post.id}: wanted one object or null for each of its images")
        predictions.append(
            Prediction(
                post=Post(id=post.id, words=post.words, images=post.images),
                tagged=Tagged(tags=post.tags or (), images=images or ()),
            )
        )
    if faults:
        raise DataError(f"{path}: 'image_values' that do not fit 'images'", faults=faults)
    return predictions


def _lines(path: Path) -> list[str]:
    text = path.read_text("utf-8-sig", errors="replace")
    return [line.strip(" \t") for line in text.split("\n") if line.strip(" \t\r")]


def _image_values(line: str, images: int) -> tuple[Mapping[str, float] | None, ...] | None:
    """Return the head's values of each image; None if they do not fit the images.

    Lines in other formats that `read_posts` reads have no such values.
    """
    try:
        values = json.loads(line).get("image_values")
    except ValueError:
        values = None
    if values is None:
        return (None,) * images
    fits = isinstance(values, list) and len(values) == images
    if not fits or not all(value is None or isinstance(value, dict) for value in values):
        return None
    return tuple(values)
