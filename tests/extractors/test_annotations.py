"""Files of captions, tags and boxes."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.errors import DataError
from mnerfeat.extractors.annotations import (
    Annotations,
    read_boxes,
    read_captions,
    read_tags,
)
from mnerfeat.extractors.base import UnreadableImageError

READERS: list[tuple[Callable[[Path], Annotations[Any]], str, Any]] = [
    (read_captions, "caption", "a man"),
    (read_tags, "tags", ["man", "traffic light"]),
    (read_boxes, "boxes", [[1, 2.5, 3, 4]]),
]


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return path


@pytest.mark.parametrize(("read", "key", "value"), READERS)
def test_what_a_file_says_is_found_by_as_much_of_the_path_as_it_names(
    tmp_path: Path, read: Any, key: str, value: Any
) -> None:
    other = {"caption": "two men", "tags": [], "boxes": []}[key]
    said = read(
        write(
            tmp_path / "said.jsonl",
            {"image": "17.jpg", key: value, "score": 0.3},
            "",
            {"image": "b/17.jpg", key: other},
            {"image": "./c/18.jpg", key: value},
        )
    )
    assert said.of(Path("images/a/17.jpg")) == said.entries["17.jpg"]
    assert said.of(Path("images/b/17.jpg")) == said.entries["b/17.jpg"]
    assert said.of(Path("c/18.jpg")) == said.entries["17.jpg"]
    for unknown in ("19.jpg", "images/117.jpg", "18.jpg"):
        with pytest.raises(UnreadableImageError, match=r"not in said\.jsonl"):
            said.of(Path(unknown))
    assert pickle.loads(pickle.dumps(said)) == said


def test_labels_serve_as_tags(tmp_path: Path) -> None:
    line = {"image": "a.jpg", "boxes": [[0, 0, 1, 1]], "labels": ["  traffic\n light "]}
    path = write(tmp_path / "regions.jsonl", line)
    assert read_tags(path).entries == {"a.jpg": ("traffic light",)}
    assert read_boxes(path).entries == {"a.jpg": ((0.0, 0.0, 1.0, 1.0),)}


@pytest.mark.parametrize(("read", "key", "value"), READERS)
def test_all_lines_that_cannot_be_used_are_listed_in_one_error(
    tmp_path: Path, read: Any, key: str, value: Any
) -> None:
    path = write(
        tmp_path / "said.jsonl",
        {"image": "a.jpg", key: value},
        "{oops",
        [1, 2],
        {key: value},
        {"image": "", key: value},
        {"image": "b.jpg"},
        {"image": "c.jpg", key: 7},
        {"image": "a.jpg", key: {"caption": "b", "tags": ["b"], "boxes": []}[key]},
        {"image": "a.jpg", key: value},
    )
    with pytest.raises(DataError, match="7 lines") as refused:
        read(path)
    places = [fault.split(": ")[0] for fault in refused.value.faults]
    assert places == [f"{path}:{line}" for line in (2, 3, 4, 5, 6, 7, 8)]
    assert "line 1" in refused.value.faults[-1]
    assert f"'{key}' is 7; wanted" in refused.value.faults[-2]


@pytest.mark.parametrize(
    "box",
    [
        [1, 2, 3],
        [1, 2, 1, 4],
        [5, 2, 3, 4],
        [1, 4, 3, 4],
        [1, 2, float("nan"), 4],
        [1, 2, float("inf"), 4],
        [1, 2, True, 4],
        ["1", 2, 3, 4],
        "1234",
        None,
    ],
)
def test_boxes_that_are_none_are_refused(tmp_path: Path, box: object) -> None:
    path = write(tmp_path / "regions.jsonl", {"image": "a.jpg", "boxes": [[0, 0, 1, 1], box]})
    with pytest.raises(DataError, match="1 line of"):
        read_boxes(path)


@pytest.mark.parametrize("read", [read_captions, read_tags, read_boxes])
def test_a_file_that_is_empty_or_not_there_is_told(tmp_path: Path, read: Any) -> None:
    with pytest.raises(DataError, match="empty"):
        read(write(tmp_path / "empty.jsonl", ""))
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "none.jsonl")


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1)
        .filter(lambda name: name != "."),
        st.text(st.characters(exclude_categories=["Cs"])),
        min_size=1,
    )
)  # fmt: skip
def test_captions_survive_whatever_they_hold(
    tmp_path_factory: pytest.TempPathFactory, captions: dict[str, str]
) -> None:
    lines = [{"image": name, "caption": text} for name, text in captions.items()]
    path = write(tmp_path_factory.mktemp("said") / "captions.jsonl", *lines)
    said = read_captions(path)
    for name, text in captions.items():
        assert said.of(Path("images") / name) == " ".join(text.split())
