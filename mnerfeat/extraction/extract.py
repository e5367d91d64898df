"""Extraction: from a folder of images, and texts of posts, to features in the cache."""

import copy
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike

from mnerfeat.cache import OK, FeatureCache, pack, stack_ids
from mnerfeat.datasets.pair_columns import REWARD
from mnerfeat.datasets.posts import Post
from mnerfeat.errors import CacheError, ConfigError, DataError, StorageError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.local import run_locally
from mnerfeat.extraction.plan import ImagePlan, Plan, check_provenance, plan_images, plan_texts
from mnerfeat.extraction.progress import show_progress
from mnerfeat.extraction.recorder import ImageRecorder
from mnerfeat.extraction.signals import stop_on_signals
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
    known: FeatureCache | None = None,
) -> ExtractSummary:
    """Bring the cache up to date with a folder of images, and with texts of posts.

    Only missing rows are computed; images that failed before are tried again. A run may be
    interrupted at any moment and started again, and any number of processes may extract into the
    same cache at once.

    Args:
        config: What to extract.
        texts: Texts of posts, for their CLIP embeddings.
        posts: Posts, for the embeddings of their texts, and for rewards.
        names: Images to extract, relative to the folder; None for all images in it.
        extractors: Result of `config.extractors()`, to share loaded models between runs.
        known: Another cache to be read only: images and texts that it has with the requested
            provenance are not extracted again, and nothing is written about them.

    Returns:
        Counts, failures, and the identity of every image file.

    Raises:
        ConfigError: If the folder does not exist, or there is no such device.
        DataError: If the folder holds no image.
        CacheError: If names belong to images of another folder in the cache, and `rename` is not
            set.
        ModelError: If a model is missing or cannot be loaded.
        ProvenanceError: If the cache holds a feature from another model and `replace` is not set.
        StorageError: If the disk is full; finished rows are kept.
        KeyboardInterrupt: After SIGINT, when finished rows have been sealed.
        SystemExit: With code 143, likewise after SIGTERM.
    """
    posts = tuple(posts)
    texts = (*texts, *(post.text for post in posts))
    if REWARD in config.features:
        return _extract_rewards(config, texts, posts, names, extractors)
    started = time.monotonic()
    check_folder(config.images)  # before any model is looked for, or even downloaded
    make = config.extractors if extractors is None else partial(copy.deepcopy, tuple(extractors))
    extractors = config.extractors() if extractors is None else extractors
    cache = FeatureCache(config.cache, missing_ok=True)
    if not config.replace:
        check_provenance(cache, extractors)
    images = _plan_images(config, names, cache, extractors, known)
    if names is None and not images.ids:
        raise _no_images(config, images)
    renamed = cache.compare_names(images.ids, config.images)
    if renamed.conflicting and not config.rename:
        raise _conflict(config, renamed.conflicting)
    reader = next(filter(reads_texts, extractors), None)
    plan = Plan(
        config=config,
        extractors={extractor.name: extractor for extractor in extractors},
        make=make,
        images=images,
        texts=plan_texts(texts, cache, reader, known),
        reader=reader,
    )
    recorder = ImageRecorder(plan)
    device, cut_texts = (None, 0) if config.dry_run else _run(plan, recorder, cache)
    return ExtractSummary(
        cache=config.cache,
        features=tuple(plan.extractors),
        device=device,
        ids=images.ids,
        new=len(images.jobs) - recorder.undecodable,
        reused=images.reused,
        copies=images.copies,
        updated=len(set(renamed.updated) - {file.name for file in images.unreadable}),
        renamed=len(renamed.conflicting),
        failed=tuple(recorder.failed),
        profiles_ignored=recorder.profiles_ignored,
        transparency_dropped=recorder.transparency_dropped,
        others=len(images.others),
        closed=images.closed,
        texts=plan.texts.texts,
        new_texts=len(plan.texts.todo),
        cut_texts=cut_texts,
        context_length=reader.context_length if reader else 0,
        seconds=time.monotonic() - started,
        dry_run=config.dry_run,
    )


def _run(plan: Plan, recorder: ImageRecorder, cache: FeatureCache) -> tuple[str | None, int]:
    """Carry out a plan and pack the cache.

    Returns:
        The devices that were used, and how many texts were cut.
    """
    config = plan.config
    device, cut_texts = None, 0
    _warn_of_loss(cache, plan)
    with stop_on_signals() as stop:
        with recorder.open():
            if not plan.is_empty:
                engine = run_locally
                if config.engine == "ray":
                    from mnerfeat.extraction.cluster import run_on_cluster  # noqa: PLC0415

                    engine = run_on_cluster
                device, cut_texts = engine(plan, recorder, stop)
        if stop.event.is_set():
            logger.warning(
                "stopped; finished rows are in %s, and the same command continues", config.cache
            )
            stop.leave()
    written = recorder.records_names or not plan.is_empty
    if written or any(file.path != config.cache for file in cache.files):
        try:
            pack(config.cache)
        except StorageError:
            if written:
                raise
            logger.info("%s is complete, but its parts cannot be packed", config.cache)
    return device, cut_texts


def _no_images(config: ExtractConfig, images: ImagePlan) -> DataError:
    others = f", only {len(images.others):,} other files" if images.others else ""
    return DataError(
        f"there is no image in {config.images}{others}",
        hint="name the folder of images: mnerfeat extract --images DIR",
    )


def _conflict(config: ExtractConfig, names: Sequence[str]) -> CacheError:
    return CacheError(
        f"{config.cache} has these names already, for other images of another folder than "
        f"{config.images}:",
        faults=names,
        hint="give these images a cache of their own with --cache FILE (`mnerfeat cache merge "
        "--folder` joins both), or add --rename: the names then lead to these images",
    )


def _extract_rewards(
    config: ExtractConfig,
    texts: Sequence[str],
    posts: Sequence[Post],
    names: Iterable[str | PathLike[str]] | None,
    extractors: Sequence[Extractor] | None,
) -> ExtractSummary:
    """Extract the other features first, then the rewards, which are computed from them."""
    from mnerfeat.extractors.rewards import extract_rewards  # noqa: PLC0415  (it loads torch)

    if not posts:
        raise ConfigError(
            "rewards are of posts' texts with their images, and there are no posts",
            hint="name the folder of train, dev and test with --posts DIR",
        )
    others = tuple(name for name in config.features if name != REWARD)
    summary = ExtractSummary(cache=config.cache, dry_run=config.dry_run)
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
    known: FeatureCache | None,
) -> ImagePlan:
    with show_progress(config, total=None, what="reading", unit="files") as progress:
        return plan_images(
            config.images,
            names,
            cache,
            extractors,
            known=known,
            threads=min(16, 2 * usable_cores()),
            progress=progress.update,
        )


def _warn_of_loss(cache: FeatureCache, plan: Plan) -> None:
    """Say how many rows of a replaced feature are not computed again now."""
    named = cache.images.find(stack_ids([job.id for job in plan.images.jobs]))
    for extractor in plan.extractors.values():
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
