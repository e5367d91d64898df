"""Ranking tasks for Label Studio, and its exports.

Label Studio's `Ranker` sorts the items of a `List`, optionally into buckets. A task shows a post's
text and images; annotators drag the helpful images into one bucket, best first, and the others
into a second one. The blank image stands between the two buckets. Images that were not moved stay
out of the ranking. Exports of projects without buckets, in which one item is the blank image, are
read too.

Formats: https://labelstud.io/tags/ranker, https://labelstud.io/guide/task_format
"""

import html
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mnerfeat.cache import text_id
from mnerfeat.errors import DataError
from mnerfeat.preference.posts import RankablePost
from mnerfeat.preference.rankings import HUMAN, Ranking, RankingFile, ranking_faults, read_text

logger = logging.getLogger(__name__)

RELEVANT, IRRELEVANT, UNSORTED = "relevant", "irrelevant", "_"
"""Buckets: before the blank image, after it, and not moved by the annotator."""

BLANK_ITEM = "blank"
"""Item id of the blank image in projects without buckets."""

INTERFACE = f"""<View>
  <Style>
    .htx-ranker-item img {{ max-width: 100%; max-height: 18em; }}
  </Style>
  <Header value="Which images help to understand the names in this post?"/>
  <Text name="text" value="$text"/>
  <List name="images" value="$items" title="Images"/>
  <Ranker name="rank" toName="images">
    <Bucket name="{RELEVANT}" title="Helpful, best first"/>
    <Bucket name="{IRRELEVANT}" title="Not helpful, best first"/>
  </Ranker>
</View>
"""
"""Labelling interface for the tasks."""

_HINT = "in Label Studio, Export → JSON (not JSON-MIN, not CSV)"


def make_tasks(
    posts: Iterable[tuple[str, RankablePost]], *, images: str
) -> list[dict[str, Mapping[str, Any]]]:
    """Return tasks for Label Studio's import.

    Args:
        posts: Split and post; posts without images are skipped.
        images: URL prefix of the images, for example `/data/local-files/?d=images/`.
    """
    return [
        {
            "data": {
                "id": post.id,
                "split": split,
                "text": post.text,
                "items": [
                    {
                        "id": name,
                        "title": name,
                        "html": f'<img src="{html.escape(images + quote(name))}"/>',
                    }
                    for name in post.images
                ],
            }
        }
        for split, post in posts
        if post.images
    ]


def parse_export(path: Path) -> RankingFile:
    """Parse Label Studio's JSON export.

    Skipped and unfinished tasks are ignored; a warning gives their number. Faults are: no post
    id, no ranking, no blank image, an empty ranking, duplicate images.

    Raises:
        DataError: The file cannot be read or is not such an export.
    """
    try:
        tasks = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}", hint=_HINT) from error
    if not isinstance(tasks, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks
    ):
        raise DataError(
            f"{path} is not an export of Label Studio: wanted a list of tasks with 'data' and "
            "'annotations'",
            hint=_HINT,
        )
    records: list[tuple[str, Ranking | list[str]]] = []
    skipped = 0
    for number, task in enumerate(tasks, start=1):
        annotations = [
            one
            for one in task.get("annotations") or ()
            if not (isinstance(one, dict) and one.get("was_cancelled"))
        ]
        skipped += not annotations
        place = f"{path}: task {task.get('id', number)}"
        records += [(place, _parse_annotation(task["data"], one)) for one in annotations]
    if skipped:
        logger.warning("%s: %d tasks have no annotation and are ignored", path, skipped)
    return RankingFile.collect(path, records)


def _parse_annotation(data: Mapping[str, Any], annotation: object) -> Ranking | list[str]:
    """Return the ranking of an annotated task, or its faults."""
    faults: list[str] = []
    post, text, split = data.get("id"), data.get("text"), data.get("split")
    if isinstance(post, bool) or not isinstance(post, str | int) or post == "":
        faults.append("its data has no 'id', the post id")
    values = list(_ranker_values(annotation))
    if len(values) != 1:
        return [*faults, f"an annotation has {len(values)} rankings; wanted one"]
    order = _parse_order(values[0])
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
    return Ranking(
        id=str(post),
        images=tuple(images),
        blank=blank,
        source=HUMAN,
        split=split if isinstance(split, str) and split else None,
        annotator=None if by is None else str(by),
        text_id=text_id(text).hex() if isinstance(text, str) else None,
    )


def _ranker_values(annotation: object) -> Iterator[object]:
    results = annotation.get("result") if isinstance(annotation, dict) else None
    for result in results or ():
        if isinstance(result, dict) and result.get("type") == "ranker":
            value = result.get("value")
            yield value.get("ranker") if isinstance(value, dict) else None


def _parse_order(value: object) -> tuple[list[str], int | None] | str:
    """Return images, best first, and the blank's position (None if missing); or a fault."""
    if isinstance(value, dict):
        buckets = {name: items for name, items in value.items() if name != UNSORTED}
        if not all(isinstance(items, list) for items in buckets.values()):
            return "a bucket of its ranking is not a list of items"
        if buckets and set(buckets) <= {RELEVANT, IRRELEVANT}:
            relevant, irrelevant = (
                [str(item) for item in buckets.get(name, [])] for name in (RELEVANT, IRRELEVANT)
            )
            return [*relevant, *irrelevant], len(relevant)
        if len(buckets) != 1:
            names = ", ".join(buckets) or "none"
            return f"its buckets are {names}; wanted {RELEVANT} and {IRRELEVANT}"
        (value,) = buckets.values()
    if not isinstance(value, list):
        return "its ranking is not a list of items"
    items = [str(item) for item in value]
    count = items.count(BLANK_ITEM)
    if count > 1:
        return f"the blank image is listed {count} times"
    images = [one for one in items if one != BLANK_ITEM]
    return images, items.index(BLANK_ITEM) if count else None
