r"""The format of Twitter-2015 and Twitter-2017 (Zhang et al. 2018; Lu et al. 2018; Yu et al. 2020).

```
IMGID:1015799
George<TAB>B-PER
Zimmerman<TAB>I-PER

IMGID:1109405
```

Each post is a line `IMGID:<id>`, then a line `word<TAB>tag` a word, then a blank line, which may
be missing at the end of the file and doubled anywhere. The post's image is `<id>.jpg`. A word may
be anything without a tab, even a lone no-break space or nothing at all; a single space instead of
the tab is understood too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.source import Source, refuse, shown, with_unique_ids
from mnerfeat.datasets.tags import canonical_tag
from mnerfeat.errors import DataError

START = "IMGID:"
"""What a post's first line begins with."""


def read_conll(path: Path) -> tuple[Post, ...]:
    """Reads a file of labelled posts.

    Returns:
        The posts in the file's order; ids that occur again get `#2`, `#3`, ….

    Raises:
        DataError: The file cannot be read, or lines cannot be used; all of them are listed.
    """
    source = Source(path)
    posts = parse_conll(source)
    refuse(source.faults)
    return posts


def parse_conll(source: Source) -> tuple[Post, ...]:
    """Reads the posts of a source, noting every fault there."""
    posts: list[Post] = []
    for block in _blocks(source):
        if block.id is None:
            first = shown(block.rows[0][1])
            source.fault(block.line, f"words without an {START} line before them: {first}")
            continue
        if not block.id:
            source.fault(block.line, f"{START} without an id")
        if not block.rows:
            source.fault(block.line, f"{START}{block.id} has no words")
        rows = [_word_and_tag(source, number, line) for number, line in block.rows]
        posts.append(
            Post(
                id=block.id,
                words=tuple(word for word, _ in rows),
                tags=tuple(tag for _, tag in rows),
                images=(f"{block.id}.jpg",),
            )
        )
    return with_unique_ids(posts, source)


@dataclass(frozen=True, kw_only=True)
class _Block:
    """The lines of a post: where it begins, its id (None: no `IMGID:` line), its words' lines."""

    line: int
    id: str | None
    rows: list[tuple[int, str]] = field(default_factory=list)


def _blocks(source: Source) -> Iterator[_Block]:
    block: _Block | None = None
    for number, line in source.lines():
        content = line.strip(" \t")
        if content.startswith(START) and "\t" not in content:
            if block is not None:
                yield block
            block = _Block(line=number, id=content[len(START) :].strip(" "))
        elif content:
            block = block or _Block(line=number, id=None)
            block.rows.append((number, line))
        elif block is not None and block.rows:
            # A blank line between IMGID: and the words, or a second one, ends nothing.
            yield block
            block = None
    if block is not None:
        yield block


def _word_and_tag(source: Source, number: int, line: str) -> tuple[str, str]:
    columns = line.rstrip(" \t").split("\t" if "\t" in line else " ")
    if len(columns) != 2:
        wanted = "wanted a word, a tab and a tag"
        source.fault(number, f"{len(columns)} columns in {shown(line)}; {wanted}")
        return line, "O"
    word, tag = columns
    try:
        return word, canonical_tag(tag.strip(" "))
    except DataError as error:
        source.fault(number, error.what)
        return word, "O"
