"""Extraction: images and texts to rows of the cache. Nothing else writes features of images."""

import copy
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike

from mnerfeat.cache import OK, FeatureCache, stack_ids
from mnerfeat.datasets.pair_columns import REWARD
from mnerfeat.datasets.posts import Post
from mnerfeat.errors import ConfigError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.engine import Engine, LocalEngine
from mnerfeat.extraction.planning import (
    ImagePlan,
    TextPlan,
    check_provenance,
    plan_images,
    plan_texts,
)
from mnerfeat.extraction.progress import progress_bar
from mnerfeat.extraction.summary import ExtractSummary
from mnerfeat.extractors.base import Extractor, reads_texts
from mnerfeat.extractors.device import usable_cores
from mnerfeat.extractors.image_files import check_folder

logger = logging.getLogger(__name__)


def extract(
    config: ExtractConfig,
    *,
    texts: Iterable[str] = (),
    posts: Iterable[Post] = (),
    names: Iterable[str | PathLike[str]] | None = None,
    extractors: Sequence[Extractor] | None = None,
) -> ExtractSummary:
    """Bring the cache up to date with a folder of images, and with texts of posts.

    Only what is missing is done; images that could not be used before are tried again. It may
    be interrupted at any moment and run again, and any number of processes may run it on the
    same cache at once.

    Args:
        config: What to extract.
        texts: Texts of posts, for their CLIP embeddings.
        posts: Posts, for the embeddings of their texts, and for rewards.
        names: Images to look at, relative to the folder; by default all that are in it.
        extractors: From `config.extractors()`, where several runs are to share loaded models.

    Returns:
        What was done.

    Raises:
        ConfigError: Where the folder is not there or holds no image, or there is no such device.
        ModelError: Where a model is not there or cannot be loaded.
        ProvenanceError: Where the cache holds a feature from another model and `replace` is not
            set.
        StorageError: Where the disk is full; what was finished is kept.
        KeyboardInterrupt: After SIGINT, when what was finished has been sealed.
        SystemExit: With 143, likewise after SIGTERM.
    """
    posts = tuple(posts)
    texts = (*texts, *(post.text for post in posts))
    if REWARD in config.features:
        return _extract_rewards(config, texts, posts, names, extractors)
    started = time.monotonic()
    check_folder(config.images)  # before any model is looked for, or even fetched
    make = config.extractors if extractors is None else partial(copy.deepcopy, tuple(extractors))
    extractors = config.extractors() if extractors is None else extractors
    cache = FeatureCache(config.cache, missing_ok=True)
    if not config.replace:
        check_provenance(cache, extractors)
    plan = _plan_images(config, names, cache, extractors)
    reader = next(filter(reads_texts, extractors), None)
    text_plan = plan_texts(texts, cache, reader) if reader else TextPlan(texts=0, todo=())
    if not plan.names and not text_plan.texts:
        raise ConfigError(
            f"there is no image in {config.images}"
            + (f", only {len(plan.others):,} other files" if plan.others else ""),
            hint="name the folder of images with --images DIR",
        )
    run = _engine(config)(config, extractors, plan, text_plan, make)
    if not config.dry_run:
        _warn_of_loss(cache, extractors, plan)
        run.run(reader)
    return ExtractSummary(
        cache=config.cache,
        features=tuple(extractor.name for extractor in extractors),
        device=run.device,
        names=plan.names,
        new=len(plan.jobs) - run.ledger.lost,
        reused=plan.reused,
        copies=plan.copies,
        failed=tuple(run.ledger.failed),
        others=len(plan.others),
        closed=plan.closed,
        texts=text_plan.texts,
        new_texts=len(text_plan.todo),
        cut_texts=run.cut_texts,
        context_length=reader.context_length if reader else 0,
        seconds=time.monotonic() - started,
        dry_run=config.dry_run,
    )


def _engine(config: ExtractConfig) -> type[Engine]:
    if config.engine == "local":
        return LocalEngine
    from mnerfeat.extraction.ray_engine import RayEngine  # noqa: PLC0415

    return RayEngine


def _extract_rewards(
    config: ExtractConfig,
    texts: Sequence[str],
    posts: Sequence[Post],
    names: Iterable[str | PathLike[str]] | None,
    extractors: Sequence[Extractor] | None,
) -> ExtractSummary:
    """What else is asked for first, then the rewards, which are made of it."""
    from mnerfeat.extractors.rewards import extract_rewards  # noqa: PLC0415  (it loads torch)

    if not posts:
        raise ConfigError(
            "rewards are of posts' texts with their images, and there are no posts",
            hint="name the folder of train, dev and test with --posts DIR",
        )
    others = tuple(name for name in config.features if name != REWARD)
    summary = ExtractSummary.nothing(config.cache, dry_run=config.dry_run)
    if others:
        images_only = replace(config, features=others)
        summary = extract(images_only, texts=texts, names=names, extractors=extractors)
    if config.dry_run and (summary.new or summary.new_texts):
        return replace(summary, rewards="rewards are computed after that")
    rewards = extract_rewards(
        config.cache, posts, config.discriminator, replace=config.replace, dry_run=config.dry_run
    )
    return replace(summary, rewards=str(rewards))


def _plan_images(
    config: ExtractConfig,
    names: Iterable[str | PathLike[str]] | None,
    cache: FeatureCache,
    extractors: Sequence[Extractor],
) -> ImagePlan:
    with progress_bar(config, total=None, what="reading", unit=" files") as bar:
        return plan_images(
            config.images,
            names,
            cache,
            extractors,
            threads=min(16, 2 * usable_cores()),
            progress=bar.update,
        )


def _warn_of_loss(cache: FeatureCache, extractors: Sequence[Extractor], plan: ImagePlan) -> None:
    """Say how much of a feature that is replaced will not be made anew now."""
    named = cache.images.find(stack_ids([job.id for job in plan.jobs]))
    for extractor in extractors:
        for name in extractor.features:
            held = cache.images.features.get(name)
            if held is None or held.provenance == extractor.provenance[name]:
                continue
            left = int((held.state == OK).sum() - (held.state[named[named >= 0]] == OK).sum())
            logger.warning(
                "replacing %s; %s rows of images that are not named now are dropped",
                name,
                f"{left:,}",
            )
