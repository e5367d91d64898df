"""Tasks for people who rank images in Label Studio, and what they send back.

Label Studio's `Ranker` sorts the items of a `List`, into buckets where there are some. A task
shows a post's text and images; people drag the images that help into one bucket, best first, and
those that do not into another. The blank image stands between the two. Images that nobody moved
stay out of the ranking. An export may also come from a project without buckets, where one of the
items is the blank image.

Formats: https://labelstud.io/tags/ranker, https://labelstud.io/guide/task_format
"""

import html
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mnerfeat.errors import DataError
from mnerfeat.preference.matching import RankablePost
from mnerfeat.preference.rankings import (
    HUMAN,
    Found,
    Ranking,
    ranking_faults,
    read_text,
)

logger = logging.getLogger(__name__)

RELEVANT, IRRELEVANT = "relevant", "irrelevant"
"""The buckets, before and after the blank image."""

BLANK_ITEM = "blank"
"""The id of the blank image, in projects without buckets."""

_UNSORTED = "_"

INTERFACE = f"""<View>
  <Style>
    .htx-ranker-item img {{ max-width: 100%; max-height: 18em; }}
  </Style>
  <Header value="Which images tell something about the names in this post?"/>
  <Text name="text" value="$text"/>
  <List name="images" value="$items" title="Images"/>
  <Ranker name="rank" toName="images">
    <Bucket name="{RELEVANT}" title="Tell something: best first"/>
    <Bucket name="{IRRELEVANT}" title="Tell nothing: the least useless first"/>
  </Ranker>
</View>
"""
"""The labelling interface that goes with the tasks."""


def make_tasks(
    posts: Iterable[tuple[str, RankablePost]], *, images: str
) -> list[dict[str, Mapping[str, Any]]]:
    """Tasks for Label Studio's import.

    Args:
        posts: Split and post; those without images give no task.
        images: Where a browser finds the images: what stands before their names in an address,
            `/data/local-files/?d=images/` for example.
    """
    return [
        {
            "data": {
                "id": post.id,
                "split": split,
                "text": post.text,
                "items": [
                    {"id": name, "title": name, "html": _shown(images + quote(name))}
                    for name in post.images
                ],
            }
        }
        for split, post in posts
        if post.images
    ]


def read_export(path: Path) -> tuple[Ranking, ...]:
    """Read what Label Studio exports as JSON.

    Skipped and unfinished tasks are passed over, and counted in the log.

    Raises:
        DataError: The file cannot be read or is no such export, or tasks cannot be used: no
            post's id, no ranking, no blank image, an empty ranking, an image twice, a post ranked
            twice by one person. All of them are listed.
    """
    return find_exported(path).check()


def find_exported(path: Path) -> Found:
    """What Label Studio's JSON export holds; see `read_export`.

    Raises:
        DataError: The file cannot be read or is no such export.
    """
    try:
        tasks = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}", hint=_HINT) from error
    if not isinstance(tasks, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks
    ):
        raise DataError(
            f"{path} is no export of Label Studio: wanted a list of tasks with 'data' and "
            "'annotations'",
            hint=_HINT,
        )
    rankings: list[Ranking] = []
    places: list[str] = []
    faults: list[str] = []
    skipped = 0
    for number, task in enumerate(tasks, start=1):
        place = f"{path}: task {task.get('id', number)}"
        annotations = [one for one in task.get("annotations") or () if not _cancelled(one)]
        skipped += not annotations
        for annotation in annotations:
            found = _ranking(task["data"], annotation)
            if isinstance(found, Ranking):
                rankings.append(found)
                places.append(place)
            else:
                faults += [f"{place}: {fault}" for fault in found]
    if skipped:
        logger.warning("%s: %d tasks have no annotation and are passed over", path, skipped)
    return Found(path=path, rankings=tuple(rankings), places=tuple(places), faults=tuple(faults))


_HINT = "in Label Studio, Export → JSON (not JSON-MIN, not CSV)"


def _shown(address: str) -> str:
    return f'<img src="{html.escape(address)}"/>'


def _cancelled(annotation: object) -> bool:
    return isinstance(annotation, dict) and bool(annotation.get("was_cancelled"))


def _ranking(data: Mapping[str, Any], annotation: object) -> Ranking | list[str]:
    faults: list[str] = []
    name = data.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        faults.append("its data has no 'id': the post's")
    values = list(_values(annotation))
    if len(values) != 1:
        faults.append(f"an annotation has {len(values)} rankings; wanted one")
        return faults
    order = _order(values[0])
    if isinstance(order, str):
        return [*faults, order]
    images, blank = order
    faults += ranking_faults(images, 0 if blank is None else blank)
    if blank is None:
        faults.append(
            f"the blank image is missing: neither buckets {RELEVANT!r} and {IRRELEVANT!r} nor an "
            f"item {BLANK_ITEM!r}"
        )
    if faults or blank is None:
        return faults
    by = annotation.get("completed_by") if isinstance(annotation, dict) else None
    by = by.get("email") or by.get("id") if isinstance(by, dict) else by
    split = data.get("split")
    return Ranking(
        id=str(name),
        images=tuple(images),
        blank=blank,
        source=HUMAN,
        split=split if isinstance(split, str) and split else None,
        annotator=None if by is None else str(by),
    )


def _values(annotation: object) -> Iterator[object]:
    results = annotation.get("result") if isinstance(annotation, dict) else None
    for result in results or ():
        if isinstance(result, dict) and result.get("type") == "ranker":
            value = result.get("value")
            yield value.get("ranker") if isinstance(value, dict) else None


def _order(value: object) -> tuple[list[str], int | None] | str:
    """Images best first and the blank's position (None where it is missing), or a fault."""
    if isinstance(value, dict):
        buckets = {name: _names(items) for name, items in value.items() if name != _UNSORTED}
        if None in buckets.values():
            return "a bucket of its ranking is no list of items"
        lists = {name: items for name, items in buckets.items() if items is not None}
        if lists and set(lists) <= {RELEVANT, IRRELEVANT}:
            relevant = lists.get(RELEVANT, [])
            return [*relevant, *lists.get(IRRELEVANT, [])], len(relevant)
        if len(lists) != 1:
            return (
                f"its buckets are {', '.join(lists) or 'none'}; wanted {RELEVANT} and {IRRELEVANT}"
            )
        value = next(iter(lists.values()))
    names = _names(value)
    if names is None:
        return "its ranking is no list of items"
    count = names.count(BLANK_ITEM)
    if count > 1:
        return f"the blank image stands {count} times"
    images = [one for one in names if one != BLANK_ITEM]
    return images, names.index(BLANK_ITEM) if count else None


def _names(items: object) -> list[str] | None:
    if isinstance(items, Sequence) and not isinstance(items, str):
        return [str(item) for item in items]
    return None
