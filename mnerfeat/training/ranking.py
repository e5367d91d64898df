"""Training and evaluation of the discriminator, from rankings, posts and a feature cache."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnerfeat.cache import FAILED, OK, FeatureCache, content_id, text_id
from mnerfeat.datasets import Post, read_folder
from mnerfeat.datasets.image_rows import resolve
from mnerfeat.errors import CacheLookupError, ConfigError, DataError
from mnerfeat.extraction.blank import extract_blank
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.tuning import TunedClip
from mnerfeat.extractors.clip import CLIP_IMAGE, CLIP_TEXT, ClipExtractor
from mnerfeat.extractors.registry import PRESETS
from mnerfeat.preference.blank import blank_name, blank_png
from mnerfeat.preference.checkpoint import (
    SavedDiscriminator,
    check_available,
    load_discriminator,
    save_discriminator,
)
from mnerfeat.preference.discriminator import CachedEmbeddings, Embeddings
from mnerfeat.preference.pairs import IndexedRanking, index_rankings
from mnerfeat.preference.posts import RankedPost, draw_d_dis, draw_posts, match_posts
from mnerfeat.preference.rankings import count_sources, parse_rankings
from mnerfeat.preference.scores import RankingScores, Rewards, score_rankings
from mnerfeat.preference.training import (
    Progress,
    RankConfig,
    TrainingResult,
    reward_rankings,
    train_discriminator,
)

logger = logging.getLogger(__name__)

TRAIN = "train"
"""Split whose rankings the discriminator is trained on."""


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """What to train a discriminator on.

    Attributes:
        rankings: File of rankings.
        data: Folder of the ranked posts.
        out: Folder of the discriminator.
        extraction: Configuration of the extraction that filled the cache. It names the cache and
            the CLIP for the blank image; with `tune_clip`, also the folder of images and the CLIP
            to start from.
        config: Training options.
        replace: Replace an existing discriminator.
    """

    rankings: Path
    data: Path
    out: Path
    extraction: ExtractConfig
    config: RankConfig = field(default_factory=RankConfig)
    replace: bool = False


@dataclass(frozen=True, kw_only=True)
class RankEvaluation:
    """Agreement of a discriminator with rankings that it was not trained on.

    Attributes:
        discriminator: The discriminator's manifest.
        split: Split of the posts; None for all splits.
        scores: Scores of the discriminator.
        clip_similarity: Scores of the cosine similarity of the CLIP embeddings, for comparison.
        sources: Number of rankings by source.
        left_out: Number of rankings of posts that the discriminator was trained on.
    """

    discriminator: SavedDiscriminator
    split: str | None
    scores: RankingScores
    clip_similarity: RankingScores
    sources: Mapping[str, int]
    left_out: int


def train_ranker(plan: RankPlan, *, progress: Progress | None = None) -> SavedDiscriminator:
    """Train a discriminator on the rankings of D_dis and save it.

    Args:
        plan: What to train it on.
        progress: Called after each step.

    Raises:
        RunError: The folder exists.
        DataError: Rankings are invalid, do not fit the posts, or are of images that have changed
            since; all of them are listed.
        CacheLookupError: CLIP embeddings are missing.
        ConfigError: The loss is not finite, or the device is not available.
        ModelError: CLIP is needed, for a new blank image or for tuning, and is not available.
        StorageError: The folder cannot be written.
    """
    config = plan.config
    device = _device(config)
    check_available(plan.out, replace=plan.replace)
    posts = read_all_splits(plan.data)
    ranked = match_posts(parse_rankings(plan.rankings), posts)
    count = len(posts.get(TRAIN, ()))
    d_dis = draw_d_dis(ranked, split=TRAIN, posts=count, share=config.share, seed=config.seed)
    blank_id = extract_blank(plan.extraction, config.blank)
    with FeatureCache(plan.extraction.cache) as cache:
        usable = select_embedded(cache, d_dis)
        keys = [one.key for one in usable]
        held_out = draw_posts(keys, round(config.held_out * len(set(keys))), seed=config.seed)
        indexed, texts, images = index_rankings(usable)
        fit, test = (
            [one for one, key in zip(indexed, keys, strict=True) if (key in held_out) == wanted]
            for wanted in (False, True)
        )
        cached = load_embeddings(cache, texts, images, load_blank(cache, blank_id))
        embeddings: Embeddings = (
            _load_towers(plan, cache, texts, images, device)
            if config.tune_clip
            else cached.to(device)
        )
        sources = count_sources(one.ranking for one in usable)
        logger.info(
            "%d rankings (%s) of %d posts; %d posts are held out",
            len(usable),
            ", ".join(f"{n} {source}" for source, n in sources.items()),
            len(set(keys)),
            len(held_out),
        )
        result = train_discriminator(fit, test, embeddings, config, progress=progress)
        saved = SavedDiscriminator(
            network=asdict(config.network),
            sizes=embeddings.sizes,
            training=asdict(config),
            rankings={"sources": sources, "sha256": _digest(usable)},
            learned_from=_by_split(keys),
            held_out=_by_split(held_out),
            text_ids=tuple(sorted({text_id(text).hex() for text in texts})),
            clip={name: dict(cache[name].provenance.facts) for name in (CLIP_TEXT, CLIP_IMAGE)},
            blank=config.blank,
            scores=_scores(result, test, cached.to(torch.device("cpu"))),
            tuned_clip=config.tune_clip,
        )
        rankings = record_contents(cache, usable)
    return _save(plan, saved, result, embeddings, blank=len(images), ranked=rankings)


def evaluate_ranker(
    folder: Path, rankings: Path, data: Path, cache: Path, *, split: str | None = None
) -> RankEvaluation:
    """Compare a discriminator with rankings of posts that it was not trained on.

    Args:
        folder: Folder of the discriminator.
        rankings: File of rankings.
        data: Folder of the ranked posts.
        cache: Cache with the CLIP embeddings of these posts' texts and images.
        split: Evaluate posts of this split only.

    Raises:
        RunError: There is no discriminator.
        DataError: Rankings are invalid, do not fit the posts, or are of images that have changed
            since; or no ranking is left.
        CacheLookupError: CLIP embeddings are missing.
        ProvenanceError: The embeddings come from another CLIP.
    """
    saved, discriminator, blank = load_discriminator(folder)
    matched = match_posts(parse_rankings(rankings), read_all_splits(data))
    ranked = [one for one in matched if split in {None, one.split}]
    unseen = [one for one in ranked if text_id(one.post.text).hex() not in saved.text_ids]
    if not unseen:
        raise DataError(
            f"{rankings} has no ranking of a post{f' of {split}' if split else ''} that the "
            f"discriminator was not trained on ({len(ranked):,} others)",
            hint="name another split with --split, or another file with --rankings",
        )
    with FeatureCache(cache) as opened:
        usable = select_embedded(opened, unseen)
        for name in (CLIP_TEXT, CLIP_IMAGE):
            saved.require_clip(name, opened[name].provenance, cache=cache, folder=folder)
        indexed, texts, images = index_rankings(usable)
        embeddings = load_embeddings(opened, texts, images, blank)
    return RankEvaluation(
        discriminator=saved,
        split=split,
        scores=score_rankings(indexed, reward_rankings(discriminator, indexed, embeddings)),
        clip_similarity=score_rankings(indexed, clip_similarities(indexed, embeddings)),
        sources=count_sources(one.ranking for one in usable),
        left_out=len(ranked) - len(unseen),
    )


def read_all_splits(data: Path) -> dict[str, Sequence[Post]]:
    """Read the posts of all splits in a folder.

    Raises:
        DataError: There is no split, or one cannot be read.
    """
    return {split.name: split.posts for split in read_folder(data, None)}


def select_embedded(cache: FeatureCache, ranked: Sequence[RankedPost]) -> tuple[RankedPost, ...]:
    """Remove images without an embedding from rankings, and rankings that become empty.

    Raises:
        CacheLookupError: CLIP embeddings have not been extracted; all of them are listed.
        DataError: Images differ from those that were ranked, or no ranking is left.
    """
    for name in (CLIP_TEXT, CLIP_IMAGE):
        if name not in cache:
            raise CacheLookupError(
                f"{cache.path} lacks {name}", hint="mnerfeat extract --features clip"
            )
    names = list(dict.fromkeys(name for one in ranked for name in one.ranking.images))
    rows = dict(zip(names, resolve(cache, names).tolist(), strict=True))
    states = {name: int(cache[CLIP_IMAGE].state[row]) for name, row in rows.items() if row >= 0}
    embedded = {name for name, state in states.items() if state == OK}
    texts = list(dict.fromkeys(one.post.text for one in ranked))
    missing_texts = {
        text
        for text, row in zip(texts, cache.text_rows(texts).tolist(), strict=True)
        if row < 0 or cache[CLIP_TEXT].state[row] != OK
    }
    faults = [name for name, state in states.items() if state not in {OK, FAILED}]
    faults += [f"text of {one.post.id}" for one in ranked if one.post.text in missing_texts]
    if faults:
        raise CacheLookupError(
            f"{cache.path} lacks {len(faults):,} CLIP embeddings of ranked posts:",
            faults=faults,
            hint="mnerfeat extract --features clip --posts DIR (the folder of train, dev, test)",
        )
    changed = [
        f"{name} of post {one.post.id}"
        for one in ranked
        for name, id_ in zip(one.ranking.images, one.ranking.image_ids, strict=False)
        if rows[name] >= 0 and cache.images.ids[rows[name]].tobytes().hex() != id_
    ]
    if changed:
        raise DataError(
            f"{len(changed):,} images in {cache.path} are not the files that were ranked:",
            faults=changed,
            hint="extract the ranked images (`mnerfeat extract --images DIR`), or rank again",
        )
    lost = [name for name in names if name not in embedded]
    if lost:
        logger.warning(
            "%d ranked images are not in the cache or unreadable and are left out of their "
            "rankings: %s",
            len(lost),
            ", ".join(lost[:5]) + (", …" if len(lost) > 5 else ""),
        )
    kept = tuple(
        one for one in (one.restricted_to(embedded) for one in ranked) if one.ranking.images
    )
    if not kept:
        raise DataError(
            "none of the ranked images is in the cache",
            hint="extract the folder that holds them: mnerfeat extract --images DIR",
        )
    return kept


def record_contents(cache: FeatureCache, ranked: Sequence[RankedPost]) -> list[RankedPost]:
    """Return posts whose rankings hold the identities of their texts and images.

    Images that the cache does not contain have none; then `image_ids` stays empty.
    """
    names = list(dict.fromkeys(name for one in ranked for name in one.ranking.images))
    ids = {
        name: cache.images.ids[row].tobytes().hex()
        for name, row in zip(names, resolve(cache, names).tolist(), strict=True)
        if row >= 0
    }
    found = []
    for one in ranked:
        images = one.ranking.images
        known = tuple(ids[name] for name in images) if ids.keys() >= set(images) else ()
        ranking = replace(
            one.ranking,
            text_id=text_id(one.post.text).hex(),
            image_ids=one.ranking.image_ids or known,
        )
        found.append(replace(one, ranking=ranking))
    return found


def load_embeddings(
    cache: FeatureCache,
    texts: Sequence[str],
    images: Sequence[str],
    blank: NDArray[np.floating],
) -> CachedEmbeddings:
    """Read the embeddings of texts and images from a cache.

    Args:
        cache: The cache.
        texts: Texts, in the order of their indices.
        images: Image names, in the order of their indices.
        blank: (d_clip_image,) embedding of the blank image, which comes after the others.
    """
    rows = cache[CLIP_IMAGE][resolve(cache, images)].astype(np.float32)
    return CachedEmbeddings(
        torch.from_numpy(cache[CLIP_TEXT][cache.text_rows(texts)].astype(np.float32)),
        torch.from_numpy(np.concatenate([rows, np.asarray(blank, np.float32)[None]])),
    )


def load_blank(cache: FeatureCache, id_: bytes) -> NDArray[np.float32]:
    """Return the embedding of the blank image with this identity, (d_clip_image,)."""
    return np.asarray(cache[CLIP_IMAGE][cache.images.find([id_])][0], np.float32)


def clip_similarities(rankings: Sequence[IndexedRanking], embeddings: CachedEmbeddings) -> Rewards:
    """Return the cosine similarities of every ranking's items with its text."""
    text, image = (
        torch.nn.functional.normalize(rows.float(), dim=1)
        for rows in (embeddings.text, embeddings.image)
    )
    return [(image[list(one.items)] @ text[one.text]).double().tolist() for one in rankings]


def _load_towers(
    plan: RankPlan,
    cache: FeatureCache,
    texts: Sequence[str],
    images: Sequence[str],
    device: torch.device,
) -> TunedClip:
    """Load CLIP for tuning, with the image files of the cache's images."""
    extraction = plan.extraction
    rows = resolve(cache, images)
    names = cache.images.describe(rows)
    ids = [cache.images.ids[row].tobytes() for row in rows.tolist()]
    with tempfile.TemporaryDirectory() as folder:
        blank = Path(folder) / blank_name(plan.config.blank)
        mean = cache[CLIP_IMAGE].provenance.facts["preprocessing"]["mean"]
        blank.write_bytes(blank_png(plan.config.blank, mean))
        files = [*(extraction.images / name for name in names), blank]
        clip = extraction.clip or PRESETS[extraction.preset]["clip"]
        return TunedClip(clip, texts, files, [*ids, content_id(blank.read_bytes())], device)


def _save(
    plan: RankPlan,
    saved: SavedDiscriminator,
    result: TrainingResult,
    embeddings: Embeddings,
    *,
    blank: int,
    ranked: Sequence[RankedPost],
) -> SavedDiscriminator:
    """Write the discriminator's folder, with CLIP if it was tuned."""
    with torch.no_grad():
        row = embeddings(torch.tensor([0]), torch.tensor([blank]))[1][0].float().cpu().numpy()
    rankings = [one.ranking for one in ranked]
    save_clip = None
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(embeddings, TunedClip):
            clip = Path(folder) / "clip"
            embeddings.save(clip)
            dtype, numerics = np.dtype(plan.extraction.dtype), plan.extraction.numerics
            made = ClipExtractor(str(clip), dtype=dtype, numerics=numerics).provenance
            saved = replace(saved, clip={name: dict(made[name].facts) for name in saved.clip})

            def save_clip(place: Path) -> object:
                return shutil.copytree(clip, place)

        return save_discriminator(
            plan.out,
            saved,
            result.discriminator,
            row,
            rankings=rankings,
            replace=plan.replace,
            save_clip=save_clip,
        )


def _scores(
    result: TrainingResult, test: Sequence[IndexedRanking], cached: CachedEmbeddings
) -> dict[str, Any]:
    """Return `SavedDiscriminator.scores`."""
    similarity = score_rankings(test, clip_similarities(test, cached)) if test else None
    return {
        "fitted": asdict(result.fitted),
        "held_out": asdict(result.held_out) if result.held_out else None,
        "clip_similarity": asdict(similarity) if similarity else None,
        "temperature": result.temperature,
        "calibration_error_after": result.calibration_error_after,
    }


def _digest(ranked: Sequence[RankedPost]) -> str:
    lines = [json.dumps([*one.key, one.ranking.images, one.ranking.blank]) + "\n" for one in ranked]
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def _by_split(keys: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for split, id_ in sorted(set(keys)):
        found.setdefault(split, []).append(id_)
    return {split: tuple(ids) for split, ids in found.items()}


def _device(config: RankConfig) -> torch.device:
    """Return the device to train on; the small network of frozen CLIP is fastest on the CPU.

    Raises:
        ConfigError: A GPU was asked for and torch finds none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "rank.device is 'cuda', but torch finds no GPU", hint="see `mnerfeat doctor`"
        )
    automatic = config.device == "auto" and config.tune_clip and torch.cuda.is_available()
    return torch.device("cuda" if automatic or config.device == "cuda" else "cpu")
