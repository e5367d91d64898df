"""The contract of a file format of posts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.source import Source


class Reader(Protocol):
    """Reads posts from a file."""

    def __call__(self, source: Source, *, labelled: bool) -> list[Post]:
        """Read all posts, noting every fault in `source` and going on.

        Args:
            source: The file.
            labelled: Every post must have words and tags; otherwise tags are read if given.
        """


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file format of posts.

    Attributes:
        title: Its name for people.
        suffix: Of files that are written in it.
        begins: What its files begin with, for messages.
        matches: Whether a file is of this format, by its first line that is not blank.
        read: See `Reader`.
        write: Returns the text of a file. What the format cannot express may be lost:
            `mnerfeat.datasets.formats.write_posts` reads everything back before it writes.
        names_images: Whether files name the images; otherwise they are found by the post's id.
    """

    title: str
    suffix: str
    begins: str
    matches: Callable[[str], bool]
    read: Reader
    write: Callable[[Sequence[Post]], str]
    names_images: bool = True
