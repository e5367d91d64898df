"""The file formats of posts, and reading and writing any of them.

A new format is a file in this folder with a `FORMAT`, and its line in `FORMATS`.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mnerfeat.datasets.formats import cmner, conll, json_lines, table
from mnerfeat.datasets.formats.base import Format
from mnerfeat.datasets.images import by_base_name
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.source import Source, shown, with_unique_ids
from mnerfeat.errors import DataError, StorageError

FORMATS: Mapping[str, Format] = {
    "json": json_lines.FORMAT,
    "conll": conll.FORMAT,
    "cmner": cmner.FORMAT,
    "csv": table.CSV,
    "tsv": table.TSV,
}
"""By the name that `mnerfeat data convert` takes. A file has the first format that matches."""


def parse(source: Source, *, labelled: bool) -> tuple[Post, ...]:
    """Read the posts of a file of any format, noting every fault in the source.

    Args:
        source: The file.
        labelled: Every post must have words and tags; otherwise tags are read if given.

    Returns:
        The posts in the file's order, with unique ids.
    """
    number, first = next(
        ((n, text) for n, line in source.lines() if (text := line.strip(" \t"))), (1, "")
    )
    source.faults.clear()  # the format's reader finds them again
    for format_ in FORMATS.values():
        if format_.matches(first):
            return with_unique_ids(format_.read(source, labelled=labelled), source)
    if not first:
        source.fault(1, "the file is empty")
    else:
        wanted = ", or ".join(format_.begins for format_ in FORMATS.values())
        source.fault(number, f"begins with {shown(first)}; wanted {wanted}")
    return ()


def write_posts(posts: Iterable[Post], path: Path, format_: Format) -> None:
    """Write posts so that reading the file gives them back, all or nothing.

    Args:
        posts: Labelled or not, with unique ids.
        path: The file; an older one is replaced once everything is written.
        format_: One of `FORMATS`.

    Raises:
        DataError: Posts that the format cannot express; all are listed.
        StorageError: The file cannot be written.
    """
    posts = tuple(posts)
    data = _encoded(posts, format_)
    faults = list(_faults(posts, data, path, format_))
    if faults:
        raise DataError(f"posts that cannot be written to {path} as {format_.title}", faults=faults)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def _encoded(posts: Sequence[Post], format_: Format) -> bytes:
    return format_.write(posts).encode("utf-8", "surrogatepass")


def _faults(posts: Sequence[Post], data: bytes, path: Path, format_: Format) -> Iterator[str]:
    """Yield the posts that a file does not give back, with the reason."""

    def comparable(post: Post) -> Post:
        return post if format_.names_images else replace(post, images=())

    kept = {comparable(post) for post in format_.read(Source(path, data), labelled=False)}
    seen: set[str] = set()
    for post in posts:
        reason = None
        if post.id in seen:
            reason = "the id occurs twice"
        elif comparable(post) not in kept:
            alone = Source(path, _encoded([post], format_))
            format_.read(alone, labelled=False)
            reasons = [fault.removeprefix(f"{path}:") for fault in alone.faults]
            reason = "; ".join(reasons) or "would not be read back as it is"
        elif not format_.names_images and post.images != _by_name(post):
            reason = f"its images are not named {post.id}_*, in the order of their names"
        seen.add(post.id)
        if reason:
            yield f"post {post.id!r}: {reason}"


def _by_name(post: Post) -> tuple[str, ...]:
    """Return the images of a post that are found by its id, in the order that they are found."""
    names = (name for name in post.images if PurePosixPath(name).name.startswith(f"{post.id}_"))
    return tuple(sorted(names, key=by_base_name))
