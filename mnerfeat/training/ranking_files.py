"""Files of rankings: tasks for annotators, imports, and rankings by CLIP similarity."""

import dataclasses
import json
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
from mnerfeat.preference.label_studio import INTERFACE, make_tasks, parse_export
from mnerfeat.preference.pairs import index_rankings
from mnerfeat.preference.posts import RankedPost, draw_posts, match_posts
from mnerfeat.preference.published import identify_posts, parse_published
from mnerfeat.preference.rankings import (
    PROXY,
    Ranking,
    parse_rankings,
    read_text,
    write_rankings,
    write_text,
)
from mnerfeat.training.ranking import (
    clip_similarities,
    load_blank,
    load_embeddings,
    read_all_splits,
    record_contents,
    select_embedded,
)

Format = Literal["auto", "jsonl", "label-studio", "gifr"]

FORMATS: tuple[Format, ...] = get_args(Format)
"""Detect; JSON lines; Label Studio's JSON export; the file of GIFR's authors."""


@dataclass(frozen=True, kw_only=True)
class WrittenTasks:
    """Ranking tasks for annotators.

    Attributes:
        tasks: File for Label Studio's import.
        interface: File with the labelling interface.
        posts: Number of tasks.
        images: Number of images in them.
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
    """Write ranking tasks for the posts that will be D_dis.

    Args:
        data: Folder of the posts.
        out: File of tasks; the interface is written beside it, as `.xml`.
        images: URL prefix of the images.
        split: Split of the posts.
        share: Fraction of all posts of the split, in (0, 1]; only posts with images are drawn.
        seed: Random seed of the draw.
        replace: Overwrite existing files.

    Raises:
        DataError: The split is missing, or none of its posts has an image.
        ConfigError: The share is impossible, or a file exists.
        StorageError: The files cannot be written.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"rank.share is {share}; wanted above 0 and at most 1")
    interface = out.with_suffix(".xml")
    for path in (out, interface):
        check_new(path, replace=replace)
    posts = read_split(data, split).posts
    with_images = [post for post in posts if post.images]
    if not with_images:
        raise DataError(f"no post of {split} in {data} has an image")
    keys = [(split, post.id) for post in with_images]
    drawn = draw_posts(keys, max(1, round(share * len(posts))), seed=seed)
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
    path: Path,
    data: Path,
    out: Path,
    *,
    cache: Path | None = None,
    format_: Format = "auto",
    replace: bool = False,
) -> tuple[Ranking, ...]:
    """Convert rankings of another format to a file of rankings, provided that all fit the posts.

    The digests of the ranked texts, and of the images if the cache contains them, are recorded, so
    that rankings are not applied to posts or images that change later.

    Args:
        path: File to import.
        data: Folder of the ranked posts.
        out: File to write.
        cache: Feature cache with the ranked images, if it exists.
        format_: One of `FORMATS`.
        replace: Overwrite an existing file.

    Raises:
        DataError: The format is unknown, or rankings are invalid or do not fit the posts; all
            of them are listed, and nothing is written.
        ConfigError: The file exists.
        StorageError: The file cannot be written.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"format: {format_!r}; choose from: {', '.join(FORMATS)}")
    check_new(out, replace=replace)
    detected = _detect_format(path) if format_ == "auto" else format_
    posts = read_all_splits(data)
    if detected == "gifr":
        file = parse_published(path)
        file = dataclasses.replace(file, rankings=identify_posts(file.rankings, posts))
    else:
        file = parse_export(path) if detected == "label-studio" else parse_rankings(path)
    ranked: Sequence[RankedPost] = match_posts(file, posts)
    if cache is not None and cache.exists():
        with FeatureCache(cache) as opened:
            ranked = record_contents(opened, ranked)
    rankings = tuple(one.ranking for one in ranked)
    write_rankings(rankings, out)
    return rankings


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
    """Write rankings by CLIP similarity, marked as a proxy for people's.

    Images are ranked by the cosine similarity of their embedding and their post's. The blank image
    is ranked by its own similarity, or by a threshold.

    Args:
        data: Folder of the posts.
        out: File to write.
        extraction: Configuration that names the cache, and the CLIP for the blank image.
        split: Split of the posts.
        blank: Blank image.
        threshold: Similarity above which an image ranks before the blank image.
        replace: Overwrite an existing file.

    Raises:
        DataError: The split is missing, or none of its posts has a usable image.
        CacheLookupError: CLIP embeddings are missing.
        ConfigError: The file exists.
        StorageError: The file cannot be written.
    """
    check_new(out, replace=replace)
    posts = read_split(data, split).posts
    blank_id = extract_blank(extraction, blank)
    ranked = []
    with FeatureCache(extraction.cache) as cache:
        unranked = select_embedded(cache, _unranked(posts, split))
        indexed, texts, images = index_rankings(unranked)
        embeddings = load_embeddings(cache, texts, images, load_blank(cache, blank_id))
        for one, values in zip(unranked, clip_similarities(indexed, embeddings), strict=True):
            *similarities, of_blank = values
            bar = of_blank if threshold is None else threshold
            order = np.argsort(-np.asarray(similarities), kind="stable").tolist()
            ranking = dataclasses.replace(
                one.ranking,
                images=tuple(one.ranking.images[i] for i in order),
                blank=sum(similarity > bar for similarity in similarities),
            )
            ranked.append(dataclasses.replace(one, ranking=ranking))
        rankings = tuple(one.ranking for one in record_contents(cache, ranked))
    write_rankings(rankings, out)
    return rankings


def _unranked(posts: Sequence[Post], split: str) -> list[RankedPost]:
    """Return the posts that have images, with all images before the blank in the given order."""
    unranked = []
    for post in posts:
        images = tuple(dict.fromkeys(post.images))
        ranking = Ranking(id=post.id, images=images, blank=len(images), source=PROXY, split=split)
        if images:
            unranked.append(RankedPost(split=split, post=post, ranking=ranking))
    if not unranked:
        raise DataError(f"no post of {split} has an image")
    return unranked


def check_new(path: Path, *, replace: bool) -> None:
    """Check that a file may be written.

    Raises:
        ConfigError: It exists and must not be replaced.
    """
    if path.exists() and not replace:
        raise ConfigError(f"{path} exists", hint="--replace to overwrite it, or another --out")


def _detect_format(path: Path) -> Format:
    start = read_text(path).lstrip()
    formats: dict[str, Format] = {"[": "label-studio", "{": "jsonl", "id:": "gifr"}
    for prefix, format_ in formats.items():
        if start.startswith(prefix):
            return format_
    raise DataError(
        f"{path} begins with {start[:40]!r} and has no known format: wanted '{{' (JSON lines), '[' "
        "(Label Studio's JSON export) or 'id:' (text/preference2.txt of GIFR's authors)",
        hint=f"name the format with --format: {', '.join(FORMATS[1:])}",
    )
