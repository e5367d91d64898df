"""Captions, tags and boxes that others have made, from JSONL files.

One JSON object a line, UTF-8; keys that are not named here are not read.

```
{"image": "17.jpg", "caption": "a man on a stage"}
{"image": "17.jpg", "tags": ["man", "guitar"]}
{"image": "17.jpg", "boxes": [[12, 8, 90.5, 120]]}
```

Tags and boxes come best first; where there is no `tags`, `labels` is read. Boxes are pixels of the
upright image, XYXY: left, top, right, bottom.

`image` is a file's name, with as many of its folders as are needed to tell it apart: a line about
`17.jpg` or `photos/17.jpg` is found for `images/photos/17.jpg`. Empty lines are passed over.
"""

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from mnerfeat.datasets.source import Source, shown
from mnerfeat.errors import DataError
from mnerfeat.extractors.base import UnreadableImageError

Box = tuple[float, float, float, float]
"""Pixels, XYXY: left, top, right, bottom."""

Said = TypeVar("Said")


@dataclass(frozen=True, kw_only=True)
class Imported(Generic[Said]):
    """What a file says of images. It can be pickled.

    Attributes:
        file: The file's name, for messages and provenances.
        entries: By image, as named in the file.
    """

    file: str
    entries: Mapping[str, Said]

    def of(self, image: Path) -> Said:
        """What the file says of an image file.

        Raises:
            UnreadableImageError: Nothing.
        """
        parts = PurePosixPath(image).parts
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if name in self.entries:
                return self.entries[name]
        raise UnreadableImageError(f"{self.file} says nothing of it")


def read_captions(path: Path) -> Imported[str]:
    """A file of captions.

    Raises:
        DataError: It cannot be read, or lines cannot be used; all of them are listed.
    """
    return _read(path, ("caption",), "a string", lambda value: " ".join(_string(value).split()))


def read_tags(path: Path) -> Imported[tuple[str, ...]]:
    """A file of object tags.

    Raises:
        DataError: As `read_captions`.
    """
    return _read(path, ("tags", "labels"), "a list of strings", _tags)


def read_boxes(path: Path) -> Imported[tuple[Box, ...]]:
    """A file of regions.

    Raises:
        DataError: As `read_captions`.
    """
    wanted = "a list of [left, top, right, bottom], in pixels, left < right and top < bottom"
    return _read(path, ("boxes",), wanted, _boxes)


def _read(
    path: Path, keys: tuple[str, ...], wanted: str, parse: Callable[[Any], Said]
) -> Imported[Said]:
    source = Source(path)
    entries: dict[str, Said] = {}
    lines: dict[str, int] = {}
    for number, line in source.lines():
        if not line.strip():
            continue
        try:
            name, value = _entry(line, keys)
        except ValueError as error:
            source.fault(number, str(error))
            continue
        try:
            said = parse(value)
        except ValueError:
            source.fault(number, f"{keys[0]!r} is {_kind(value)}; wanted {wanted}")
            continue
        if entries.setdefault(name, said) != said:
            source.fault(number, f"{shown(name)} stands in line {lines[name]} with something else")
        lines.setdefault(name, number)
    if source.faults:
        count = len(source.faults)
        raise DataError(
            f"{count:,} {'line' if count == 1 else 'lines'} of {path} cannot be used:",
            faults=source.faults,
            hint='correct them or take them out; wanted lines such as {"image": "17.jpg", '
            f'"{keys[0]}": …}}',
        )
    if not entries:
        raise DataError(f"{path} says nothing of any image: it is empty")
    return Imported(file=path.name, entries=entries)


def _entry(line: str, keys: tuple[str, ...]) -> tuple[str, Any]:
    """The image that a line is about, and what it says; a ValueError says what is wrong."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}): {shown(line)}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{shown(line)} is no JSON object")  # noqa: TRY004 - not about a type here
    name = record.get("image")
    if not isinstance(name, str) or not PurePosixPath(name).name:
        raise ValueError(f"'image' is {_kind(name)}; wanted a file's name")
    value = next((record[key] for key in keys if record.get(key) is not None), None)
    return "/".join(PurePosixPath(name.replace("\\", "/")).parts), value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no string")  # noqa: TRY004 - caught above
    return value


def _tags(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("no list")  # noqa: TRY004 - caught above
    return tuple(" ".join(_string(tag).split()) for tag in value)


def _boxes(value: Any) -> tuple[Box, ...]:
    if not isinstance(value, list):
        raise ValueError("no list")  # noqa: TRY004 - caught above
    boxes = []
    for box in value:
        if not isinstance(box, list) or len(box) != 4:
            raise ValueError("no box")
        if not all(type(number) in (int, float) and math.isfinite(number) for number in box):
            raise ValueError("no numbers")
        left, top, right, bottom = map(float, box)
        if not (left < right and top < bottom):
            raise ValueError("an empty box")
        boxes.append((left, top, right, bottom))
    return tuple(boxes)


def _kind(value: Any) -> str:
    return "missing" if value is None else reprlib.repr(value)
