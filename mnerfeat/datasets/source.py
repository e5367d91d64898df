"""A file of posts while it is read: its lines, and everything that is wrong with them.

Words of tweets contain characters that Python takes for line ends or white space (U+0085, U+2028,
no-break spaces, …), so lines end at a line feed only, and only ASCII is stripped.
"""

import codecs
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import final

from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.tags import OUTSIDE, canonical_tag
from mnerfeat.errors import DataError

log = logging.getLogger(__name__)

SHOWN = 60
"""Maximum number of characters of a faulty line in a message."""


@final
class Source:
    """A file's lines and the faults found in them.

    Args:
        path: A UTF-8 file, with or without a byte order mark, with LF or CRLF line ends.
        data: Its content, if it is not to be read from disk.

    Attributes:
        path: As given.
        faults: `file:line: reason`, in the order found.
        renamed: Number of posts that got a new id because an earlier post has theirs.
        type_names: How often each entity type occurs, by its name in the file.

    Raises:
        DataError: The file cannot be read, or is UTF-16.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self.path = path
        self.faults: list[str] = []
        self.renamed = 0
        self.type_names: Counter[str] = Counter()
        try:
            data = path.read_bytes() if data is None else data
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(
                f"{path} is UTF-16; wanted UTF-8",
                hint=f"iconv -f UTF-16 -t UTF-8 {path} > {path.stem}-utf8{path.suffix}",
            )
        self._data = data.removeprefix(codecs.BOM_UTF8)

    def lines(self, *, ends: bool = False) -> Iterator[tuple[int, str]]:
        """Yield line numbers, from 1, and lines; a line that is not UTF-8 is a fault.

        Args:
            ends: Keep the lines' ends.
        """
        for number, raw in enumerate(self._data.split(b"\n"), start=1):
            try:
                yield number, (raw + b"\n" if ends else raw.rstrip(b"\r")).decode("utf-8")
            except UnicodeDecodeError as error:
                byte = raw[error.start]
                self.fault(number, f"not UTF-8 (byte 0x{byte:02x}, the line's {error.start + 1}th)")

    def fault(self, line: int, reason: str) -> None:
        """Note what is wrong with a line; reading goes on."""
        self.faults.append(f"{self.path}:{line}: {reason}")

    def tag(self, raw: str) -> str:
        """Return a tag with its canonical type, and count the type's name.

        Raises:
            DataError: It is no tag.
        """
        tag = canonical_tag(raw)
        if tag != OUTSIDE:
            self.type_names[raw[2:]] += 1
        return tag


def shown(text: str) -> str:
    """Return a piece of a file as messages quote it: odd characters escaped, long ones cut."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}…"


def refuse(faults: Iterable[str]) -> None:
    """Raise one DataError that lists every fault, if there are any."""
    faults = tuple(faults)
    if faults:
        raise DataError(
            f"{len(faults):,} {'fault' if len(faults) == 1 else 'faults'} in the posts' files",
            faults=faults,
            hint="correct these lines or take the posts out, and run the command again",
        )


def with_unique_ids(posts: Iterable[Post], source: Source) -> tuple[Post, ...]:
    """Return a source's posts; those with an earlier one's id are named `<id>#2`, `<id>#3`, ….

    A number that some post's own id already has is skipped. Images keep their names.
    """
    posts = tuple(posts)
    taken = Counter(post.id for post in posts)
    if len(taken) == len(posts):
        return posts
    seen: set[str] = set()
    unique = []
    for post in posts:
        name, number = post.id, 1
        while name in seen or (number > 1 and name in taken):
            number += 1
            name = f"{post.id}#{number}"
        seen.add(name)
        unique.append(post if name == post.id else replace(post, id=name))
    source.renamed = len(posts) - len(taken)
    log.warning(
        "%s: %d posts have the id of an earlier post; they are named <id>#2, <id>#3, …",
        source.path,
        source.renamed,
    )
    return tuple(unique)
