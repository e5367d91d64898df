r"""The format of MNER-MI and MNER-MI-Plus (Huang et al. 2024): one JSON object per line.

```
{"id": 5302, "text": ["soft", "spot", "for", "jaebeom"], "images": ["5302_0.jpg", "5302_1.jpg"],
 "label": ["O", "O", "O", "B-PER"], "url": "https://twitter.com/i/web/status/…"}
```

(on one line). `id` is a number or a string; `url` and other keys are not read. It is also the
format for the user's own posts, of which `id` (default: the line's number) and `images` (default:
none) are optional, and `label` too if labels are not needed; `text` may then be one string, which
`mnerfeat.datasets.raw_text.split` splits into words.

The published loader evaluates each line as Python, so lines that are Python dictionaries (single
quotes, `None`) are read, too. They are parsed as literals and never run, and neighbouring strings
are no list: `["Kawhi" "Leonard"]` is refused.
"""

import ast
import io
import json
import reprlib
import tokenize
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise

from mnerfeat.datasets.formats.base import Format
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.raw_text import clean_text, post_of_text
from mnerfeat.datasets.source import Source, shown
from mnerfeat.errors import DataError


def read(source: Source, *, labelled: bool) -> list[Post]:
    """Read posts; see `Format.read`."""
    posts = []
    for number, line in source.lines():
        if line.strip(" \t"):
            try:
                posts.append(_post(source, _record(line), str(number), labelled=labelled))
            except DataError as error:
                for reason in error.faults or (error.what,):
                    source.fault(number, reason)
    return posts


def write(posts: Sequence[Post]) -> str:
    """Write posts; see `Format.write`."""
    lines = []
    for post in posts:
        record: dict[str, object] = {"id": post.id, "text": post.words, "images": post.images}
        if post.tags is not None:
            record["label"] = post.tags
        lines.append(json.dumps(record, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


FORMAT = Format(
    title="JSON lines",
    suffix=".jsonl",
    begins="a JSON object per line",
    matches=lambda line: line.startswith("{"),
    read=read,
    write=write,
)


def _record(line: str) -> Mapping[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        record = _python_record(line.strip(" \t"))
        if record is None:
            reason = str(error)
            if isinstance(error, json.JSONDecodeError):
                reason = f"{error.msg} at column {error.colno}"
            raise DataError(f"not JSON ({reason}): {shown(line)}") from None
    if not isinstance(record, dict):
        raise DataError(f"{shown(line)} is no JSON object")
    return record


def _python_record(line: str) -> object:
    """Return the value of a Python literal without neighbouring strings, else None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown escapes are kept as they are
            value: object = ast.literal_eval(line)
            kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(line).readline)]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    joined = (tokenize.STRING, tokenize.STRING) in pairwise(kinds)
    return None if joined else value


def _post(source: Source, record: Mapping[str, object], default_id: str, *, labelled: bool) -> Post:
    """Return a record's post; a DataError lists all its faults."""
    faults: list[str] = []
    id_ = _id(record.get("id", default_id), faults)
    label, text = record.get("label"), record.get("text")
    images = _images(record, faults)
    may_be_string = label is None and not labelled
    if isinstance(text, str) and may_be_string:
        post = post_of_text(text, id=id_, images=images)
    else:
        post = Post(id=id_, words=_words(text, faults, may_be_string), images=images)
    if not post.words and not faults and (labelled or not images):
        faults.append("the post has no words")
    tags = None
    if label is not None:
        tags = _tags(source, label, post.words, faults)
    elif labelled:
        faults.append("no 'label': the tags of the words")
    if faults:
        raise DataError("a post that cannot be used", faults=faults)
    return post if tags is None else Post(id=id_, words=post.words, tags=tags, images=images)


def _id(value: object, faults: list[str]) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        faults.append(f"'id' is {_kind(value)}; wanted a number or a string")
    return clean_text(str(value))


def _words(value: object, faults: list[str], may_be_string: bool) -> tuple[str, ...]:
    words = _strings(value)
    if words is None:
        wanted = "a list of words" + (" or a string" if may_be_string else "")
        faults.append(f"'text' is {_kind(value)}; wanted {wanted}")
    return words or ()


def _tags(
    source: Source, value: object, words: Sequence[str], faults: list[str]
) -> tuple[str, ...]:
    raw = _strings(value)
    if raw is None:
        faults.append(f"'label' is {_kind(value)}; wanted a list of tags")
        return ()
    if words and len(raw) != len(words):
        faults.append(f"{len(words)} words but {len(raw)} labels")
    tags = []
    for tag in raw:
        try:
            tags.append(source.tag(tag))
        except DataError as error:
            faults.append(error.what)
    return tuple(tags)


def _images(record: Mapping[str, object], faults: list[str]) -> tuple[str, ...]:
    if "images" not in record and "image" in record:
        faults.append("'image' is not read; wanted 'images', a list of file names")
    value = record.get("images")
    names = _strings([] if value is None else value)
    if names is None or not all(names) or any("\0" in name for name in names):
        faults.append(f"'images' is {_kind(value)}; wanted a list of file names")
        return ()
    return names


def _strings(value: object) -> tuple[str, ...] | None:
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(clean_text(item) for item in value)
    return None


def _kind(value: object) -> str:
    return "missing" if value is None else reprlib.repr(value)
