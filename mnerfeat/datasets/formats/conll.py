r"""The format of Twitter-2015 and Twitter-2017 (Zhang et al. 2018; Lu et al. 2018; Yu et al. 2020).

```
IMGID:1015799
George<TAB>B-PER
Zimmerman<TAB>I-PER

IMGID:1109405
IMAGE:1109405_a.jpg
IMAGE:1109405_b.jpg
```

Each post is a line `IMGID:<id>`, then one line `word<TAB>tag` per word, then a blank line, which
may be missing at the end of the file and doubled anywhere. The post's image is `<id>.jpg`, unless
lines `IMAGE:<name>` follow, one per image (a single `IMAGE:` means none). A word may be anything
without a tab, even a single no-break space or nothing at all; one space is read as the tab, too.
Posts without labels have one word per line and no tags.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mnerfeat.datasets.formats.base import Format
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.source import Source, shown
from mnerfeat.errors import DataError

START = "IMGID:"
"""Beginning of a post's first line."""

IMAGE = "IMAGE:"
"""Beginning of a line that names one of several images."""


def read(source: Source, *, labelled: bool) -> list[Post]:
    """Read posts; see `Format.read`."""
    return read_blocks(source, START, lambda id_: (f"{id_}.jpg",), labelled=labelled)


def write(posts: Sequence[Post]) -> str:
    """Write posts; see `Format.write`."""
    lines = []
    for post in posts:
        lines.append(f"{START}{post.id}")
        if post.images != (f"{post.id}.jpg",):
            lines += [f"{IMAGE}{name}" for name in post.images or ("",)]
        lines += [*word_lines(post), ""]
    return "".join(f"{line}\n" for line in lines)


FORMAT = Format(
    title="CoNLL",
    suffix=".txt",
    begins=f"a line {START}<id>",
    matches=lambda line: line.startswith(START),
    read=read,
    write=write,
)


def word_lines(post: Post) -> list[str]:
    """Return one line per word of a post, with its tag if it is labelled."""
    if post.tags is None:
        return list(post.words)
    return [f"{word}\t{tag}" for word, tag in zip(post.words, post.tags, strict=False)]


def read_blocks(
    source: Source,
    start: str,
    images_of: Callable[[str], tuple[str, ...]],
    *,
    labelled: bool,
) -> list[Post]:
    """Read posts that begin with a line of their own, noting every fault.

    Args:
        source: The file.
        start: Beginning of a post's first line, before its id.
        images_of: Names of the images of a post without `IMAGE:` lines, by its id.
        labelled: Whether every post must have tags and words.
    """
    posts: list[Post] = []
    for block in _blocks(source, start):
        if block.id is None:
            first = shown(block.rows[0][1])
            source.fault(block.line, f"words without a line {start} before them: {first}")
            continue
        if not block.id:
            source.fault(block.line, f"{start} without an id")
        named = images_of(block.id)
        images = named if block.images is None else tuple(filter(None, block.images))
        if not block.rows and (labelled or not images):
            source.fault(block.line, f"{start}{block.id} has no words")
        words, tags = _words_and_tags(source, block.rows, labelled=labelled)
        posts.append(Post(id=block.id, words=words, tags=tags, images=images))
    return posts


@dataclass(frozen=True, kw_only=True)
class _Block:
    """The lines of a post.

    Attributes:
        line: Number of the first one.
        id: The post's id; None if its first line is missing.
        images: Names on image lines; None if there are no such lines.
        rows: The lines of words, with their numbers.
    """

    line: int
    id: str | None
    images: list[str] | None = None
    rows: list[tuple[int, str]] = field(default_factory=list)


def _blocks(source: Source, start: str) -> Iterator[_Block]:
    block: _Block | None = None
    for number, line in source.lines():
        content = line.strip(" \t")
        bare = "\t" not in content
        if bare and content.startswith(start):
            if block is not None:
                yield block
            block = _Block(line=number, id=content[len(start) :].strip(" "))
        elif bare and content.startswith(IMAGE) and block and block.id and not block.rows:
            images = [*(block.images or ()), content[len(IMAGE) :]]
            block = _Block(line=block.line, id=block.id, images=images)
        elif content:
            block = block or _Block(line=number, id=None)
            block.rows.append((number, line))
        elif block is not None and block.rows:
            # A blank line before the first word, or a second one, ends nothing.
            yield block
            block = None
    if block is not None:
        yield block


def _words_and_tags(
    source: Source, rows: Sequence[tuple[int, str]], *, labelled: bool
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    columns = [_columns(line) for _, line in rows]
    if not labelled and all(len(cells) == 1 for cells in columns):
        return tuple(cells[0] for cells in columns), None
    words, tags = [], []
    for (number, line), cells in zip(rows, columns, strict=True):
        word, tag = line, "O"
        try:
            if len(cells) != 2:
                reason = f"{len(cells)} columns in {shown(line)}; wanted a word, a tab and a tag"
                source.fault(number, reason)
            else:
                word, tag = cells[0], source.tag(cells[1].strip(" "))
        except DataError as error:
            source.fault(number, error.what)
        words.append(word)
        tags.append(tag)
    return tuple(words), tuple(tags)


def _columns(line: str) -> list[str]:
    return line.rstrip(" \t").split("\t" if "\t" in line else " ")
