"""The format of MNER-MI and MNER-MI-Plus (Huang et al. 2024): one JSON object a line.

```
{"id": 5302, "text": ["soft", "spot", "for", "jaebeom"], "images": ["5302_0.jpg", "5302_1.jpg"],
 "label": ["O", "O", "O", "B-PER"], "url": "https://twitter.com/i/web/status/…"}
```

(on one line). `id` is a number or a string; `url` and other keys are not read. It is also the
format in which users bring their own posts: there `id` (then the line's number), `images` (then
none) and, where labels are not asked for, `label` may be left out, and `text` may then be one
string, which `words_of` splits.

The published loader evaluates each line as Python, so lines that are Python dictionaries
(single quotes, `None`) are understood too; they are parsed as literals, never run.
"""

import ast
import json
import reprlib
import uuid
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.raw_text import words_of
from mnerfeat.datasets.source import Source, refuse, shown, with_unique_ids
from mnerfeat.datasets.tags import canonical_tag
from mnerfeat.errors import DataError, StorageError


def read_json_lines(path: Path, *, labelled: bool = True) -> tuple[Post, ...]:
    """Reads a file of posts.

    Args:
        path: The file.
        labelled: Every post must have labels; otherwise they are read where they are given.

    Returns:
        The posts in the file's order; ids that occur again get `#2`, `#3`, ….

    Raises:
        DataError: The file cannot be read, or lines cannot be used; all of them are listed.
    """
    source = Source(path)
    posts = parse_json_lines(source, labelled=labelled)
    refuse(source.faults)
    return posts


def parse_json_lines(source: Source, *, labelled: bool) -> tuple[Post, ...]:
    """Reads the posts of a source, noting every fault there."""
    posts = []
    for number, line in source.lines():
        if line.strip(" \t"):
            try:
                posts.append(_post(_record(line), str(number), labelled=labelled))
            except DataError as error:
                for reason in error.faults or (error.what,):
                    source.fault(number, reason)
    return with_unique_ids(posts, source)


def write_json_lines(posts: Iterable[Post], path: Path) -> None:
    """Writes posts so that `read_json_lines` gives them back, all or nothing.

    Args:
        posts: Labelled or not; ids must be unique.
        path: The file; an older one is replaced when everything is written.

    Raises:
        DataError: Posts that could not be read back; all of them are listed.
        StorageError: The file cannot be written.
    """
    posts = tuple(posts)
    lines, faults = [], []
    seen: set[str] = set()
    for post in posts:
        record: dict[str, object] = {"id": post.id, "text": post.words, "images": post.images}
        if post.tags is not None:
            record["label"] = post.tags
        line = json.dumps(record, ensure_ascii=False)
        lines.append(line)
        try:
            same = _post(_record(line), "", labelled=False) == post
            reason = None if same else "would not be read back as it is"
        except DataError as error:
            reason = "; ".join(error.faults or (error.what,))
        if post.id in seen:
            reason = "the id occurs twice"
        seen.add(post.id)
        if reason:
            faults.append(f"post {post.id!r}: {reason}")
    if faults:
        raise DataError(f"posts that cannot be written to {path}", faults=faults)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def _record(line: str) -> Mapping[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd escapes, which are kept as they stand
                record = ast.literal_eval(line.strip(" \t"))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise DataError(f"not JSON ({error}): {shown(line)}") from None
    if not isinstance(record, dict):
        raise DataError(f"{shown(line)} is no JSON object")
    return record


def _post(record: Mapping[str, object], default_id: str, *, labelled: bool) -> Post:
    """One record to a post; a DataError holds all its faults."""
    faults: list[str] = []
    name = _id(record.get("id", default_id), faults)
    label = record.get("label")
    words = _words(record.get("text"), faults, as_string=label is None and not labelled)
    tags = None
    if label is not None:
        tags = _tags(label, words, faults)
    elif labelled:
        faults.append("no 'label': the tags of the words")
    images = _images(record, faults)
    if faults:
        raise DataError("a post that cannot be used", faults=faults)
    return Post(id=name, words=words, tags=tags, images=images)


def _id(value: object, faults: list[str]) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        faults.append(f"'id' is {_kind(value)}; wanted a number or a string")
    return _mended(str(value))


def _words(value: object, faults: list[str], *, as_string: bool) -> tuple[str, ...]:
    whole = isinstance(value, str) and as_string
    words = words_of(_mended(str(value))) if whole else _strings(value)
    if words is None:
        wanted = "a list of words" + (" or a string" if as_string else "")
        faults.append(f"'text' is {_kind(value)}; wanted {wanted}")
    elif not words:
        faults.append("the post has no words")
    return words or ()


def _tags(value: object, words: tuple[str, ...], faults: list[str]) -> tuple[str, ...]:
    raw = _strings(value)
    if raw is None:
        faults.append(f"'label' is {_kind(value)}; wanted a list of tags")
        return ()
    if words and len(raw) != len(words):
        faults.append(f"{len(words)} words but {len(raw)} labels")
    tags = []
    for tag in raw:
        try:
            tags.append(canonical_tag(tag))
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
        return tuple(_mended(item) for item in value)
    return None


def _kind(value: object) -> str:
    return "missing" if value is None else reprlib.repr(value)


def _mended(text: str) -> str:
    """Joins surrogate pairs, and puts U+FFFD for half of one: no tokenizer or file takes it."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
