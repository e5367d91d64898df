"""Image features for prediction, by the images' bytes: cached rows are read, others extracted."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import FeatureCache, Provenance, stack_ids
from mnerfeat.checkpoint import Run
from mnerfeat.datasets import Post
from mnerfeat.datasets.image_rows import resolve
from mnerfeat.datasets.images import find_files
from mnerfeat.datasets.pair_columns import REWARD, REWARD_BLANK
from mnerfeat.errors import DataError, ProvenanceError
from mnerfeat.extraction.config import ExtractConfig

logger = logging.getLogger(__name__)

REWARDS = frozenset({REWARD, REWARD_BLANK})
"""Features of a text with an image, which a discriminator computes from CLIP embeddings."""


@dataclass(frozen=True, kw_only=True)
class PostFeatures:
    """The features of some posts' images.

    Attributes:
        cache: A view of the caches that hold them.
        ids: Identity of each image by the name that posts use; images without one are missing.
    """

    cache: FeatureCache
    ids: Mapping[str, bytes]

    def find(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each image in the view, -1 if it is missing."""
        rows = np.full(len(names), -1, np.int64)
        there = [at for at, name in enumerate(names) if name in self.ids]
        if there:
            rows[there] = self.cache.images.find(stack_ids([self.ids[names[at]] for at in there]))
        return rows


def cached_features(run: Run, posts: Sequence[Post], cache: Path) -> PostFeatures:
    """Find the features of posts' images in the training cache, by name.

    Raises:
        ProvenanceError: The features are not those that the run was trained on.
        CacheError: There is no cache, or names fit several images.
    """
    opened = FeatureCache(cache)
    require_features(run, opened)
    names = list(dict.fromkeys(name for post in posts for name in post.images))
    rows = resolve(opened, names)
    ids = {
        name: opened.images.ids[row].tobytes()
        for name, row in zip(names, rows.tolist(), strict=True)
        if row >= 0
    }
    return PostFeatures(cache=opened, ids=ids)


def extracted_features(
    run: Run, posts: Sequence[Post], config: ExtractConfig, own: Path
) -> PostFeatures | None:
    """Find the features of posts' images in a folder, and extract those that are not cached.

    The models are those that the run was trained with. Rows of the training cache are used for
    the same bytes. The training cache is not changed, and its names are not used.

    Args:
        run: The run.
        posts: Posts with images.
        config: Images folder, training cache, device, and models in place of those that the run
            recorded.
        own: Cache that gets new features.

    Returns:
        The features; None if no image of the posts is in the folder.

    Raises:
        ModelError: A model is missing.
        ProvenanceError: A model found here is not the one that the run was trained with.
        DataError: Image names fit several files.
    """
    files = _find(posts, config.images)
    if not files:
        return None
    from mnerfeat.extraction.extract import extract  # noqa: PLC0415 - needs an extra
    from mnerfeat.extractors.registry import extractors_of  # noqa: PLC0415

    wanted = _extracted(run)
    extractors = extractors_of(
        wanted,
        {**run.manifest.origin.models, **config.references()},
    )
    known = _matching(config.cache, wanted | feature_provenances(run))
    summary = extract(
        replace(config, cache=own, features=tuple(one.name for one in extractors)),
        posts=posts if "clip_text" in wanted else (),
        names=dict.fromkeys(files.values()),
        extractors=extractors,
        known=known,
    )
    logger.info("%d images are cached, %d are new", summary.reused, summary.new)
    return PostFeatures(
        cache=_joined(known, own),
        ids={name: summary.ids[file] for name, file in files.items() if file in summary.ids},
    )


def with_rewards(
    found: PostFeatures, posts: Sequence[Post], discriminator: Path, own: Path
) -> PostFeatures:
    """Add rewards that are not cached yet; they are computed from CLIP embeddings.

    Args:
        found: Features of the posts' images.
        posts: The posts.
        discriminator: Folder of the discriminator.
        own: Cache that gets the rewards.

    Raises:
        RunError: There is no discriminator.
        CacheLookupError: CLIP embeddings are missing.
        ProvenanceError: Embeddings or rewards come from another model.
    """
    from mnerfeat.extractors.rewards import extract_rewards, lacks_rewards  # noqa: PLC0415

    if not lacks_rewards(found.cache, posts, find=found.find):
        return found
    extract_rewards(own, posts, discriminator, source=found.cache, find=found.find)
    return replace(found, cache=_joined(found.cache, own))


def feature_provenances(run: Run) -> dict[str, Provenance]:
    """Return the provenance of every feature that a run was trained on."""
    features = run.manifest.fingerprints.get("features", {})
    return {name: Provenance(one["provenance"]) for name, one in features.items()}


def _extracted(run: Run) -> dict[str, Provenance]:
    """The provenance of all features of a run that come from extractors.

    A discriminator computes rewards; the embeddings that it needs come from an extractor.
    """
    wanted = feature_provenances(run)
    inputs = run.manifest.fingerprints.get("features", {}).get(REWARD, {}).get("inputs", {})
    wanted |= {name: Provenance(facts) for name, facts in inputs.items()}
    return {name: made for name, made in wanted.items() if name not in REWARDS}


def require_features(run: Run, cache: FeatureCache) -> None:
    """Check that a cache has the features that a run was trained on.

    Raises:
        CacheLookupError: A feature is missing.
        ProvenanceError: Features come from another model or other settings; all are listed.
    """
    faults = [
        f"{name}: {difference}"
        for name, made in feature_provenances(run).items()
        for difference in cache[name].provenance.differences(made, "in the cache", "in the run")
    ]
    if faults:
        raise ProvenanceError(
            f"the features in {cache.path} are not those that {run.name} was trained on:",
            faults=faults,
            hint="use the cache that the run was trained on (--cache), extract the same features "
            "again (`mnerfeat extract --replace`), or train on these",
        )


def _find(posts: Sequence[Post], folder: Path) -> Mapping[str, str]:
    """Return the file of each image that is in a folder, and report the others."""
    resolution = find_files(folder, [name for post in posts for name in post.images])
    if resolution.ambiguous:
        raise DataError(
            f"image names that fit several different files in {folder}:",
            faults=[f"{name}: {', '.join(fit)}" for name, fit in resolution.ambiguous.items()],
            hint="give the names with their folders",
        )
    for note in resolution.notes():
        logger.info("%s", note)
    if resolution.missing:
        logger.warning(
            "%d images of the posts are not in %s; the posts are predicted without them, for "
            "example %s",
            len(resolution.missing),
            folder,
            resolution.missing[0],
        )
    return resolution.found


def _matching(path: Path, wanted: Mapping[str, Provenance]) -> FeatureCache | None:
    """Return a cache, if there is one and its features are the wanted ones."""
    if not path.exists():
        return None
    cache = FeatureCache(path)
    fits = all(cache[name].provenance == wanted[name] for name in wanted if name in cache)
    return cache if fits else None


def _joined(cache: FeatureCache | None, own: Path) -> FeatureCache:
    there = [cache] if cache is not None else []
    if own.exists() or not there:
        there.append(FeatureCache(own))
    return FeatureCache.joined(there)
