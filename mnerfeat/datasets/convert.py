"""Converting data sets between file formats: `mnerfeat data convert`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mnerfeat.datasets.formats import FORMATS, write_posts
from mnerfeat.datasets.formats.base import Format
from mnerfeat.datasets.images import images_by_id
from mnerfeat.datasets.loader import find_splits, read_posts
from mnerfeat.datasets.posts import Post
from mnerfeat.errors import ConfigError, DataError, StorageError

FORMAT_OF_SUFFIX = {
    ".json": "json",
    ".jsonl": "json",
    ".txt": "conll",
    ".conll": "conll",
    ".csv": "csv",
    ".tsv": "tsv",
}
"""The format of a written file whose format is not named."""


@dataclass(frozen=True, kw_only=True)
class ConvertedFile:
    """A file that was written.

    Attributes:
        path: The file.
        posts: Number of posts.
        images: Number of images of all posts.
        without_images: Number of posts without an image.
    """

    path: Path
    posts: int
    images: int
    without_images: int

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.posts:,} posts, {self.images:,} images, "
            f"{self.without_images:,} posts without an image"
        )


def convert(
    source: Path,
    target: Path,
    *,
    to: str | None = None,
    images: Sequence[Path] = (),
    overwrite: bool = False,
) -> tuple[ConvertedFile, ...]:
    """Write a file of posts, or all splits of a data set, in another format.

    Args:
        source: A file of any format, or a folder as in `mnerfeat.datasets.loader.find_splits`.
        target: The file, or the folder for `train`, `dev` and `test`.
        to: One of `FORMATS`; None for the format of the target's suffix, or JSON lines in a folder.
        images: Folders of images. If given, each post's images are all files `<id>_*` in them, as
            `mnerfeat.datasets.images.images_by_id` finds them, instead of those that it names.
        overwrite: Replace files that exist.

    Raises:
        ConfigError: An unknown format, or a folder of images that does not exist.
        DataError: Lines cannot be used, posts cannot be expressed in the format (all are listed),
            or no post has an image in the folders.
        StorageError: A file exists or cannot be written.
    """
    format_ = _format(to, target, is_folder=source.is_dir())
    for folder in images:
        if not folder.is_dir():
            raise ConfigError(f"the images folder {folder} does not exist")
    if source.is_file():
        files = {target: source}
    else:
        splits = find_splits(source)
        if not splits:
            raise DataError(f"there is no train, dev or test split in {source}")
        files = {target / f"{name}{format_.suffix}": path for name, path in splits.items()}
    existing = [str(path) for path in files if path.exists()]
    if existing and not overwrite:
        raise StorageError("files that exist already:", faults=existing, hint="add --replace")
    posts = {path: read_posts(read_from) for path, read_from in files.items()}
    if images:
        posts = {path: _with_images(found, images) for path, found in posts.items()}
        if not any(post.images for found in posts.values() for post in found):
            names = ", ".join(map(str, images))
            raise DataError(f"no file in {names} is named <id>_* by the id of a post")
    for path, found in posts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_posts(found, path, format_)
    return tuple(
        ConvertedFile(
            path=path,
            posts=len(found),
            images=sum(len(post.images) for post in found),
            without_images=sum(not post.images for post in found),
        )
        for path, found in posts.items()
    )


def _format(name: str | None, target: Path, *, is_folder: bool) -> Format:
    name = name or ("json" if is_folder else FORMAT_OF_SUFFIX.get(target.suffix.lower()))
    if name is None or name not in FORMATS:
        what = f"unknown format {name!r}" if name else f"{target} does not say which format it is"
        raise ConfigError(f"{what}; choose from: {', '.join(FORMATS)}", hint="name it with --to")
    return FORMATS[name]


def _with_images(posts: Sequence[Post], folders: Sequence[Path]) -> tuple[Post, ...]:
    """Return posts with the images of their ids; a repeated id `7#2` has the images of `7`."""
    found = images_by_id({name for post in posts for name in _ids(post)}, folders)
    images = [next((found[n] for n in _ids(post) if n in found), ()) for post in posts]
    return tuple(replace(post, images=names) for post, names in zip(posts, images, strict=True))


def _ids(post: Post) -> tuple[str, ...]:
    first, mark, number = post.id.rpartition("#")
    return (post.id, first) if mark and number.isdecimal() else (post.id,)
