"""Captions, tags and boxes of images, read from JSON lines in place of running a model.

One JSON object a line, UTF-8; other keys are ignored.

```
{"image": "17.jpg", "caption": "a man on a stage"}
{"image": "17.jpg", "tags": ["man", "guitar"]}
{"image": "17.jpg", "boxes": [[12, 8, 90.5, 120]]}
```

Tags and boxes come in order of confidence; `labels` is read if there is no `tags`. Boxes are
pixels of the upright image, XYXY: left, top, right, bottom.

`image` is a file name, with as many folders as it takes to be unique: an entry for `17.jpg` or
`photos/17.jpg` is found for `images/photos/17.jpg`. Empty lines are skipped.
"""

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from PIL import Image

from mnerfeat.datasets.source import Source, shown
from mnerfeat.errors import DataError
from mnerfeat.extractors.base import Prepare, Prepared, UnreadableImageError

Box = tuple[float, float, float, float]
"""Pixels, XYXY: left, top, right, bottom."""

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Annotations(Generic[Value]):
    """The annotations in a file.

    Attributes:
        file: Name of the file, for messages and provenances.
        entries: Annotation by image, as named in the file.
    """

    file: str
    entries: Mapping[str, Value]

    def of(self, image: Path) -> Value:
        """Return the annotation of an image file.

        Raises:
            UnreadableImageError: There is none.
        """
        parts = PurePosixPath(image).parts
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if name in self.entries:
                return self.entries[name]
        raise UnreadableImageError(f"not in {self.file}")


@dataclass(frozen=True, kw_only=True)
class AnnotationPrepare(Generic[Value]):
    """Looks up the annotation of an image file, and prepares the image with it.

    Attributes:
        annotations: The annotations.
        make: Makes the preparation step for an annotation.
    """

    annotations: Annotations[Value]
    make: Callable[[Value], Prepare]

    def of(self, path: Path) -> Prepare:
        """See `FilePrepare.of`."""
        return self.make(self.annotations.of(path))

    def __call__(self, image: Image.Image) -> Prepared:
        """Never called: `of` comes first."""
        raise NotImplementedError


def read_captions(path: Path) -> Annotations[str]:
    """Read a file of captions.

    Raises:
        DataError: It cannot be read, or some lines cannot be used; all are listed.
    """
    return _read(path, ("caption",), "a string", _text)


def read_tags(path: Path) -> Annotations[tuple[str, ...]]:
    """Read a file of object tags.

    Raises:
        DataError: See `read_captions`.
    """
    return _read(path, ("tags", "labels"), "a list of strings", _tags)


def read_boxes(path: Path) -> Annotations[tuple[Box, ...]]:
    """Read a file of boxes.

    Raises:
        DataError: See `read_captions`.
    """
    wanted = "a list of [left, top, right, bottom], in pixels, left < right and top < bottom"
    return _read(path, ("boxes",), wanted, _boxes)


def _read(
    path: Path, keys: tuple[str, ...], wanted: str, parse: Callable[[Any], Value]
) -> Annotations[Value]:
    source = Source(path)
    entries: dict[str, Value] = {}
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
            parsed = parse(value)
        except (TypeError, ValueError):
            source.fault(number, f"{keys[0]!r} is {_kind(value)}; wanted {wanted}")
            continue
        if entries.setdefault(name, parsed) != parsed:
            source.fault(number, f"{shown(name)} differs from line {lines[name]}")
        lines.setdefault(name, number)
    if source.faults:
        count = len(source.faults)
        raise DataError(
            f"{count:,} {'line' if count == 1 else 'lines'} of {path} cannot be used:",
            faults=source.faults,
            hint='correct or remove them; wanted lines such as {"image": "17.jpg", '
            f'"{keys[0]}": …}}',
        )
    if not entries:
        raise DataError(f"{path} is empty")
    return Annotations(file=path.name, entries=entries)


def _entry(line: str, keys: tuple[str, ...]) -> tuple[str, Any]:
    """Return the image and the annotation of a line; a ValueError says what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}): {shown(line)}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{shown(line)} is no JSON object")  # noqa: TRY004 - a fault of the line
    name = record.get("image")
    if not isinstance(name, str) or not PurePosixPath(name).name:
        raise ValueError(f"'image' is {_kind(name)}; wanted a file name")
    value = next((record[key] for key in keys if record.get(key) is not None), None)
    return "/".join(PurePosixPath(name.replace("\\", "/")).parts), value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return " ".join(value.split())


def _tags(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_text, value))


def _boxes(value: Any) -> tuple[Box, ...]:
    if not isinstance(value, list):
        raise TypeError
    boxes = []
    for left, top, right, bottom in value:
        box = (left, top, right, bottom)
        if not all(type(number) in (int, float) and math.isfinite(number) for number in box):
            raise TypeError
        if not (left < right and top < bottom):
            raise ValueError
        boxes.append((float(left), float(top), float(right), float(bottom)))
    return tuple(boxes)


def _kind(value: Any) -> str:
    return "missing" if value is None else reprlib.repr(value)
