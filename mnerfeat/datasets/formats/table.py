r"""Tables: CSV and TSV with a header, one post per row.

```
id,text,images,entities
1,"Kawhi Leonard wins, at last",a.jpg;b.jpg,0:13:PER
```

- `text`: the text, which `mnerfeat.datasets.raw_text.split` splits into words;
- `words`: in place of `text`, words with one space between them;
- `id`: optional, by default the row's number;
- `images`: optional, names with `;` between them, or a JSON list of names;
- `entities`: spans `start:end:type` with `;` between them, in characters of the text from 0, the
  end excluded. Posts are unlabelled if the table has no such column.

A span whose border is inside a word divides the word. A type `I-PER` stands for a span whose tags
begin with `I-PER` instead of `B-PER`. Other columns are not read.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mnerfeat.datasets.formats.base import Format
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.raw_text import Word, clean_text, split
from mnerfeat.datasets.source import Source, shown
from mnerfeat.datasets.tags import OUTSIDE
from mnerfeat.errors import DataError


def read(source: Source, *, labelled: bool) -> list[Post]:
    """Read posts; see `Format.read`."""
    header = next(line for _, line in source.lines() if line.strip())
    source.faults.clear()  # found again below
    text = "".join(line for _, line in source.lines(ends=True)).removesuffix("\n")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",")
    posts: list[Post] = []
    names: list[str] = []
    try:
        for row in rows:
            if not names:
                names = [name.strip().lower() for name in row] if any(row) else []
                if labelled and names and "entities" not in names:
                    source.fault(rows.line_num, "no column 'entities': the labels of the posts")
            elif row:
                try:
                    cells = _cells(names, row)
                    posts.append(_post(source, cells, len(posts) + 1, labelled=labelled))
                except DataError as error:
                    source.fault(rows.line_num, error.what)
    except csv.Error as error:
        source.fault(rows.line_num, f"not a table: {error}")
    return posts


def _cells(names: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    if len(row) != len(names):
        raise DataError(f"{len(row)} cells; the header has {len(names)}")
    return dict(zip(names, row, strict=True))


def _post(source: Source, cells: dict[str, str], number: int, *, labelled: bool) -> Post:
    raw = clean_text(cells.get("text", cells.get("words", "")))
    words = split(raw) if "text" in cells else tuple(_words_between_spaces(raw))
    images = _images(cells.get("images", ""))
    if not words and (labelled or not images):
        raise DataError("the post has no words")
    tags = None
    if "entities" in cells:
        spans = [_span(source, span, len(raw)) for span in cells["entities"].split(";") if span]
        words = tuple(_divided(words, spans))
        tags = _tags(words, spans)
    return Post(
        id=clean_text(cells.get("id", "")) or str(number),
        words=tuple(word.text for word in words),
        tags=tags,
        images=images,
        raw=raw,
        offsets=tuple((word.start, word.end) for word in words),
    )


def _words_between_spaces(text: str) -> Iterator[Word]:
    start = 0
    for word in text.split(" ") if text else ():
        yield Word(word, start, start + len(word))
        start += len(word) + 1


def _images(cell: str) -> tuple[str, ...]:
    names: object = [name.strip() for name in cell.split(";")] if cell.strip() else []
    if cell.startswith("["):
        try:
            names = json.loads(cell)
        except ValueError:
            names = None
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise DataError(f"'images' is {shown(cell)}; wanted file names with ';' between them")
    return tuple(clean_text(name) for name in names)


@dataclass(frozen=True)
class _Span:
    """An entity in characters of a text, and its first and further tags."""

    start: int
    end: int
    first: str
    inside: str


def _span(source: Source, cell: str, length: int) -> _Span:
    start, _, rest = cell.strip().partition(":")
    end, _, kind = rest.partition(":")
    try:
        first = source.tag(kind if kind.startswith("I-") else f"B-{kind}")
        span = _Span(int(start), int(end), first, f"I-{first[2:]}")
    except (ValueError, DataError):
        raise DataError(f"the entity is {shown(cell)}; wanted start:end:type") from None
    if not 0 <= span.start < span.end <= length:
        raise DataError(f"the entity {cell} is not within the {length} characters of the text")
    return span


def _divided(words: Iterable[Word], spans: Sequence[_Span]) -> Iterator[Word]:
    """Yield the words, divided at the borders of spans inside them."""
    borders = sorted({border for span in spans for border in (span.start, span.end)})
    for word in words:
        cuts = [word.start, *(b for b in borders if word.start < b < word.end), word.end]
        for start, end in pairwise(cuts):
            text = word.text[start - word.start : end - word.start]
            yield Word(text, start, end)


def _tags(words: Sequence[Word], spans: Iterable[_Span]) -> tuple[str, ...]:
    tags = [OUTSIDE] * len(words)
    for span in spans:
        inside = [i for i, w in enumerate(words) if span.start <= w.start and w.end <= span.end]
        if not inside:
            raise DataError(f"the entity {span.start}:{span.end} has no word")
        if any(tags[i] != OUTSIDE for i in inside):
            raise DataError(f"the entity {span.start}:{span.end} overlaps another one")
        for number, i in enumerate(inside):
            tags[i] = span.inside if number else span.first
    return tuple(tags)


def _writer(delimiter: str) -> Format:
    def matches(line: str) -> bool:
        names = {name.strip(' "').lower() for name in line.split(delimiter)}
        return bool({"text", "words"} & names) and not line.startswith("{")

    def write(posts: Sequence[Post]) -> str:
        return _write(posts, delimiter)

    title = "CSV" if delimiter == "," else "TSV"
    return Format(
        title=title,
        suffix=f".{title.lower()}",
        begins=f"a {title} header with the column text or words",
        matches=matches,
        read=read,
        write=write,
    )


def _write(posts: Sequence[Post], delimiter: str) -> str:
    labelled = any(post.tags is not None for post in posts)
    names = ["id", "words", "images", *["entities"] * labelled]
    out = io.StringIO(newline="")
    table = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    table.writerow(names)
    for post in posts:
        row = [post.id, post.text, _image_cell(post.images)]
        table.writerow([*row, *[";".join(_spans(post))] * labelled])
    return out.getvalue()


def _image_cell(names: Sequence[str]) -> str:
    """Return names with `;` between them, or as JSON if they would not be read back."""
    cell = ";".join(names)
    plain = not cell.startswith("[") and cell.split(";") == [name.strip() for name in names]
    return cell if plain or not names else json.dumps(names, ensure_ascii=False)


def _spans(post: Post) -> Iterator[str]:
    """Yield every run of tags that belong together as `start:end:type`."""
    words = list(_words_between_spaces(post.text))
    tags = (*(post.tags or ())[: len(words)], OUTSIDE)
    start = 0
    for i in range(1, len(tags)):
        if tags[i] == f"I-{tags[start][2:]}" and tags[start] != OUTSIDE:
            continue
        if tags[start] != OUTSIDE:
            kind = tags[start].removeprefix("B-")
            yield f"{words[start].start}:{words[i - 1].end}:{kind}"
        start = i


CSV = _writer(",")
TSV = _writer("\t")
