r"""The format of CMNER (Ji et al. 2024): Chinese posts from Weibo with one to nine images.

```
WID:L364I3366
凯<TAB>B-PER
文<TAB>I-PER
```

As in CoNLL, but a post begins with `WID:<id>`, words are single characters, lines end in CRLF, and
no image is named: a post's images are all files `<id>_*`, sorted by name. They are looked for in
`images/` beside the file, or beside the file's folder, and everywhere inside it.
"""

from collections.abc import Sequence

from mnerfeat.datasets.formats.base import Format
from mnerfeat.datasets.formats.conll import read_blocks, word_lines
from mnerfeat.datasets.images import images_by_id
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.source import Source

START = "WID:"
"""Beginning of a post's first line."""

IMAGES = "images"
"""The folder of images, beside the file or beside its folder."""


def read(source: Source, *, labelled: bool) -> list[Post]:
    """Read posts; see `Format.read`."""
    ids = [line[len(START) :].strip() for _, line in source.lines() if line.startswith(START)]
    source.faults.clear()  # found again below
    home = source.path.absolute().parent
    folder = next((f for f in (home / IMAGES, home.parent / IMAGES) if f.is_dir()), None)
    images = images_by_id(ids, [folder] if folder else [])
    return read_blocks(source, START, lambda id_: images.get(id_, ()), labelled=labelled)


def write(posts: Sequence[Post]) -> str:
    """Write posts; see `Format.write`."""
    lines = [line for post in posts for line in (f"{START}{post.id}", *word_lines(post), "")]
    return "".join(f"{line}\r\n" for line in lines)


FORMAT = Format(
    title="CMNER",
    suffix=".txt",
    begins=f"a line {START}<id>",
    matches=lambda line: line.startswith(START),
    read=read,
    write=write,
    names_images=False,
)
