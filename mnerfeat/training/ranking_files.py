"""Files of rankings: tasks for people out, what they and others ranked in, and a proxy for them."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mnerfeat.cache import FeatureCache
from mnerfeat.datasets import Post, read_split
from mnerfeat.errors import ConfigError, DataError
from mnerfeat.extraction.blank import extract_blank
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.preference.blank import Blank
from mnerfeat.preference.label_studio import INTERFACE, find_exported, make_tasks
from mnerfeat.preference.matching import RankedPost, draw, match
from mnerfeat.preference.pairs import number
from mnerfeat.preference.published import find_published, with_splits
from mnerfeat.preference.rankings import (
    PROXY,
    Ranking,
    find_rankings,
    read_text,
    write_rankings,
    write_text,
)
from mnerfeat.training.ranking import (
    blank_row,
    cached_embeddings,
    read_every_split,
    similarity_rewards,
    with_embeddings,
)

logger = logging.getLogger(__name__)

Format = Literal["auto", "jsonl", "label-studio", "gifr"]

FORMATS: tuple[Format, ...] = get_args(Format)
"""Told from the content; one ranking a line; Label Studio's JSON export; GIFR's authors'."""


@dataclass(frozen=True, kw_only=True)
class WrittenTasks:
    """Tasks for people.

    Attributes:
        tasks: The file for Label Studio's import.
        interface: The file with its labelling interface.
        posts: How many tasks there are.
        images: How many images they show.
    """

    tasks: Path
    interface: Path
    posts: int
    images: int


def write_tasks(
    data: Path,
    out: Path,
    *,
    images: str,
    split: str = "train",
    share: float = 0.1,
    seed: int = 0,
    replace: bool = False,
) -> WrittenTasks:
    """Write tasks for people who rank images: the posts that will be D_dis.

    Args:
        data: The folder of the posts.
        out: The file of tasks; the interface goes beside it, as `.xml`.
        images: What stands before an image's name where a browser finds it.
        split: Of the posts.
        share: Of all posts of the split, in (0, 1]; only posts with images are drawn.
        seed: Draws the posts.
        replace: Overwrite files that are there.

    Raises:
        DataError: The split is missing, or no post of it has an image.
        ConfigError: An impossible share, or a file that is there already.
        StorageError: The files cannot be written.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"rank.share is {share}; it must be above 0 and at most 1")
    interface = out.with_suffix(".xml")
    for path in (out, interface):
        check_new(path, replace=replace)
    posts = read_split(data, split).posts
    with_images = [post for post in posts if post.images]
    if not with_images:
        raise DataError(f"no post of {split} in {data} has an image")
    drawn = draw([(split, p.id) for p in with_images], max(1, round(share * len(posts))), seed=seed)
    chosen = [(split, post) for post in with_images if (split, post.id) in drawn]
    tasks = make_tasks(chosen, images=images)
    write_text(INTERFACE, interface)
    write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", out)
    return WrittenTasks(
        tasks=out,
        interface=interface,
        posts=len(tasks),
        images=sum(len(post.images) for _, post in chosen),
    )


def import_rankings(
    path: Path, data: Path, out: Path, *, format_: Format = "auto", replace: bool = False
) -> tuple[Ranking, ...]:
    """Turn rankings of another format into a file of rankings, once all of them fit the posts.

    Args:
        path: The file.
        data: The folder of the posts that were ranked.
        out: The file to be written.
        format_: One of `FORMATS`.
        replace: Overwrite a file that is there.

    Raises:
        DataError: An unknown format, or rankings that cannot be used or do not fit the posts;
            all of them are listed, and nothing is written.
        ConfigError: A file that is there already.
        StorageError: The file cannot be written.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"format: {format_!r}; choose from: {', '.join(FORMATS)}")
    check_new(out, replace=replace)
    told = _told_format(path) if format_ == "auto" else format_
    posts = read_every_split(data)
    if told == "gifr":
        found = find_published(path)
        found = dataclasses.replace(found, rankings=with_splits(found.rankings, posts))
    else:
        found = find_exported(path) if told == "label-studio" else find_rankings(path)
    match(found, posts)
    write_rankings(found.rankings, out)
    return found.rankings


def write_proxy(
    data: Path,
    out: Path,
    extraction: ExtractConfig,
    *,
    split: str = "train",
    blank: Blank = "mean",
    threshold: float | None = None,
    replace: bool = False,
) -> tuple[Ranking, ...]:
    """Write rankings by CLIP similarity, which only stand in for people's; they say so.

    Images are ranked by the cosine of their embedding and their post's. The blank image stands
    where its own cosine puts it, or at a threshold.

    Args:
        data: The folder of the posts.
        out: The file to be written.
        extraction: Names the cache, and the CLIP for the blank image.
        split: Of the posts.
        blank: What the blank image is.
        threshold: Images with a larger cosine come before the blank image.
        replace: Overwrite a file that is there.

    Raises:
        DataError: The split is missing, or no post of it has an image that can be used.
        CacheLookupError: CLIP embeddings are missing.
        ConfigError: A file that is there already.
        StorageError: The file cannot be written.
    """
    check_new(out, replace=replace)
    posts = read_split(data, split).posts
    blank_id = extract_blank(extraction, blank)
    with FeatureCache(extraction.cache) as cache:
        unranked = _in_given_order(cache, posts, split)
        orders, texts, images = number(unranked)
        embeddings = cached_embeddings(cache, texts, images, blank_row(cache, blank_id))
    rankings = []
    for one, mine in zip(unranked, similarity_rewards(orders, embeddings), strict=True):
        *cosines, own = mine
        bar = own if threshold is None else threshold
        order = np.argsort(-np.asarray(cosines), kind="stable").tolist()
        rankings.append(
            Ranking(
                id=one.post.id,
                images=tuple(one.ranking.images[i] for i in order),
                blank=sum(cosine > bar for cosine in cosines),
                source=PROXY,
                split=split,
            )
        )
    write_rankings(rankings, out)
    return tuple(rankings)


def check_new(path: Path, *, replace: bool) -> None:
    """Make sure that a file may be written.

    Raises:
        ConfigError: It is there already and not to be replaced.
    """
    if path.exists() and not replace:
        raise ConfigError(f"{path} is there already", hint="--replace to overwrite it, or --out")


def _told_format(path: Path) -> Format:
    start = read_text(path).lstrip()
    if start.startswith("["):
        return "label-studio"
    if start.startswith("{"):
        return "jsonl"
    if start.startswith("id:"):
        return "gifr"
    raise DataError(
        f"{path} begins with {start[:40]!r}, which no known format does: wanted '{{' (a ranking a "
        "line), '[' (Label Studio's JSON export) or 'id:' (GIFR's text/preference2.txt)",
        hint=f"name the format with --format: {', '.join(FORMATS[1:])}",
    )


def _in_given_order(
    cache: FeatureCache, posts: Sequence[Post], split: str
) -> tuple[RankedPost, ...]:
    """Posts with the images that can be used, not ranked yet: the blank image after them all."""
    given = [
        RankedPost(
            split=split,
            post=post,
            ranking=Ranking(
                id=post.id,
                images=tuple(dict.fromkeys(post.images)),
                blank=len(set(post.images)),
                source=PROXY,
            ),
        )
        for post in posts
        if post.images
    ]
    if not given:
        raise DataError(f"no post of {split} has an image")
    return with_embeddings(cache, given)
