"""Posts in, entities and what the head made of each image out.

Posts come from any file that `mnerfeat.datasets.read_posts` understands; predictions go to JSONL,
one object a post, which is itself such a file.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnerfeat.cache import FeatureCache
from mnerfeat.datasets.loader import read_posts
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.tags import Entity, entities
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.errors import DataError, StorageError
from mnerfeat.tagger import Tagged, Tagger


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was predicted for one post.

    Attributes:
        post: The post as it was given.
        tagged: Its tags, and the head's values of its images.
    """

    post: Post
    tagged: Tagged

    @property
    def entities(self) -> list[Entity]:
        """The entities that the tags spell out, by the lenient convention."""
        return entities(self.tagged.tags)

    @property
    def images(self) -> dict[str, Mapping[str, float] | None]:
        """By name, what the head made of each image; None where it could not be used."""
        return dict(zip(self.post.images, self.tagged.images, strict=True))

    def record(self) -> dict[str, object]:
        """As it is written to JSONL; see `Tagged.record`."""
        return self.tagged.record(self.post)


def predict(
    tagger: Tagger,
    posts: Sequence[Post],
    cache: FeatureCache | None = None,
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> list[Prediction]:
    """Predict the entities of posts.

    Args:
        tagger: As `Run.load_tagger` gives it.
        posts: Labelled or not; labels are not looked at.
        cache: Where the features of the posts' images are; None to look at no image.
        batch_size: Posts at a time; no result depends on it.
        progress: Show a progress bar.

    Returns:
        One prediction a post, in the order given.

    Raises:
        CacheLookupError: A feature that the head reads has not been extracted.
    """
    columns = tagger.head.columns
    with_images = cache is not None and any(post.images for post in posts) and columns
    table = VisionTable.without_images(len(posts))
    if cache is not None and with_images:
        table = VisionTable.from_cache(cache, posts, columns).to(tagger.device)
    found = tagger.tag(posts, table, batch_size=batch_size, progress=progress)
    return [Prediction(post=post, tagged=tagged) for post, tagged in zip(posts, found, strict=True)]


def predictions_text(predictions: Sequence[Prediction]) -> str:
    """Predictions as JSONL."""
    lines = (json.dumps(one.record(), ensure_ascii=False, allow_nan=False) for one in predictions)
    return "".join(f"{line}\n" for line in lines)


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write predictions as JSONL, all or nothing.

    Raises:
        StorageError: The file cannot be written; an older one is then left as it was.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_text(predictions_text(predictions), "utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions that `write_predictions` wrote, or that somebody else made.

    Only `text` and `label` are needed: words and predicted tags. Everything else may be missing,
    so the output of any other system can be scored here.

    Raises:
        DataError: The file cannot be read, or posts have no `label`; all of them are named.
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
    """The head's values of each image, None for each where there are none; None if they do not fit.

    Lines that are no JSON, which `read_posts` understands, hold no such values.
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
