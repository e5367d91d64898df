"""From rankings, posts and a cache to a discriminator, and to figures of what it can."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnerfeat.cache import FAILED, OK, FeatureCache, text_id
from mnerfeat.datasets import Post, read_folder
from mnerfeat.datasets.image_rows import resolve
from mnerfeat.errors import CacheLookupError, ConfigError, DataError
from mnerfeat.extraction.blank import extract_blank
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.tuning import TunedClip
from mnerfeat.extractors.clip import ClipExtractor
from mnerfeat.extractors.registry import PRESETS
from mnerfeat.preference.blank import blank_name, blank_png
from mnerfeat.preference.discriminator import CachedEmbeddings, Embeddings
from mnerfeat.preference.folder import (
    SavedDiscriminator,
    check_free,
    load_discriminator,
    save_discriminator,
)
from mnerfeat.preference.matching import RankedPost, choose, draw, match
from mnerfeat.preference.measuring import RankingScores, measure
from mnerfeat.preference.pairs import Order, number
from mnerfeat.preference.rankings import Ranking, find_rankings, sources
from mnerfeat.preference.training import (
    Progress,
    RankConfig,
    Trained,
    score_orders,
    train_discriminator,
)

logger = logging.getLogger(__name__)

CLIP_TEXT, CLIP_IMAGE = "clip_text", "clip_image"

TRAIN = "train"
"""The split whose rankings the discriminator learns from."""


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """What to train a discriminator on, and where to put it.

    Attributes:
        rankings: The file of rankings.
        data: The folder of the posts that were ranked.
        out: The folder for the discriminator.
        extraction: Of the extraction that filled the cache: names the cache, and the CLIP for
            the blank image; with `tune_clip`, the folder of images and the CLIP to start from.
        config: How to train.
        replace: Take the place of a discriminator that is there.
    """

    rankings: Path
    data: Path
    out: Path
    extraction: ExtractConfig
    config: RankConfig = field(default_factory=RankConfig)
    replace: bool = False


@dataclass(frozen=True, kw_only=True)
class RankEvaluation:
    """How well a discriminator agrees with rankings that it did not learn from.

    Attributes:
        discriminator: What was measured.
        split: Of the posts; None for all splits.
        scores: The discriminator's.
        clip_similarity: The same of the cosine of the CLIP embeddings, in place of the reward.
        sources: Who ranked, with how many rankings.
        left_out: Rankings of posts that the discriminator learned from.
    """

    discriminator: SavedDiscriminator
    split: str | None
    scores: RankingScores
    clip_similarity: RankingScores
    sources: Mapping[str, int]
    left_out: int


def train_ranker(plan: RankPlan, *, progress: Progress | None = None) -> SavedDiscriminator:
    """Train a discriminator on the rankings of D_dis, and leave it in its folder.

    Args:
        plan: What to do.
        progress: Told of every step.

    Raises:
        RunError: The folder holds something already.
        DataError: Rankings that cannot be used, or do not fit the posts; all of them are listed.
        CacheLookupError: CLIP embeddings are missing.
        ModelError: CLIP is needed, for a blank image that is not in the cache yet or to be
            tuned, and is not there.
        StorageError: The folder cannot be written.
    """
    config = plan.config
    device = _device(config)
    check_free(plan.out, replace=plan.replace)
    posts = read_every_split(plan.data)
    ranked = match(find_rankings(plan.rankings), posts)
    count = len(posts.get(TRAIN, ()))
    chosen = choose(ranked, split=TRAIN, posts=count, share=config.share, seed=config.seed)
    blank_id = extract_blank(plan.extraction, config.blank)
    with FeatureCache(plan.extraction.cache) as cache:
        usable = with_embeddings(cache, chosen)
        keys = [one.key for one in usable]
        held = draw(keys, round(config.held_out * len(set(keys))), seed=config.seed)
        orders, texts, images = number(usable)
        apart = [one.key in held for one in usable]
        cached = cached_embeddings(cache, texts, images, blank_row(cache, blank_id))
        embeddings: Embeddings = cached.to(device)
        if config.tune_clip:
            embeddings = _towers(plan, cache, texts, images, device)
        logger.info(
            "%d rankings (%s) of %d posts; %d posts are held out",
            len(usable),
            ", ".join(f"{n} {who}" for who, n in sources(_rankings(usable)).items()),
            len(set(keys)),
            len(held),
        )
        trained = train_discriminator(
            [order for order, out in zip(orders, apart, strict=True) if not out],
            [order for order, out in zip(orders, apart, strict=True) if out],
            embeddings,
            config,
            progress=progress,
        )
        tests = [order for order, out in zip(orders, apart, strict=True) if out]
        saved = SavedDiscriminator(
            network=asdict(config.network),
            sizes=embeddings.sizes,
            training=asdict(config),
            rankings=_fingerprint(usable),
            learned_from=_by_split(keys),
            held_out=_by_split(held),
            text_ids=tuple(sorted({text_id(text).hex() for text in texts})),
            clip={name: dict(cache[name].provenance.facts) for name in (CLIP_TEXT, CLIP_IMAGE)},
            blank=config.blank,
            scores=_scores(trained, tests, cached),
            tuned_clip=config.tune_clip,
        )
        return _save(plan, saved, trained, embeddings, len(images))


def evaluate_ranker(
    folder: Path, rankings: Path, data: Path, cache: Path, *, split: str | None = None
) -> RankEvaluation:
    """Compare a discriminator with rankings of posts that it did not learn from.

    Args:
        folder: The discriminator's.
        rankings: The file of rankings.
        data: The folder of the posts that were ranked.
        cache: With the CLIP embeddings of these posts' texts and images.
        split: Only posts of this one.

    Raises:
        RunError: There is no discriminator.
        DataError: Rankings that cannot be used, or do not fit the posts; or none is left.
        CacheLookupError: CLIP embeddings are missing.
        ProvenanceError: They come from another CLIP.
    """
    saved, discriminator, blank = load_discriminator(folder)
    every = match(find_rankings(rankings), read_every_split(data))
    ranked = [one for one in every if split in {None, one.split}]
    fresh = [one for one in ranked if text_id(one.post.text).hex() not in saved.text_ids]
    if not fresh:
        raise DataError(
            f"{rankings} has no ranking of a post{f' of {split}' if split else ''} that the "
            f"discriminator did not learn from ({len(ranked):,} others)",
            hint="name another split with --split, or another file with --rankings",
        )
    with FeatureCache(cache) as opened:
        usable = with_embeddings(opened, fresh)
        for name in (CLIP_TEXT, CLIP_IMAGE):
            saved.require_clip(name, opened[name].provenance, where=str(cache))
        orders, texts, images = number(usable)
        embeddings = cached_embeddings(opened, texts, images, blank)
    return RankEvaluation(
        discriminator=saved,
        split=split,
        scores=measure(orders, score_orders(discriminator, orders, embeddings)),
        clip_similarity=measure(orders, similarity_rewards(orders, embeddings)),
        sources=sources(_rankings(usable)),
        left_out=len(ranked) - len(fresh),
    )


def read_every_split(data: Path) -> dict[str, Sequence[Post]]:
    """The posts of all splits that a folder has, by split.

    Raises:
        DataError: There is none, or one cannot be read.
    """
    return {split.name: split.posts for split in read_folder(data, None)}


def with_embeddings(cache: FeatureCache, ranked: Sequence[RankedPost]) -> tuple[RankedPost, ...]:
    """Rankings without the images that cannot be used; those that then are empty are left out.

    Raises:
        CacheLookupError: CLIP embeddings have not been extracted; all of them are listed.
        DataError: No ranking is left.
    """
    for name in (CLIP_TEXT, CLIP_IMAGE):
        if name not in cache:
            raise CacheLookupError(
                f"{cache.path} lacks {name}", hint="mnerfeat extract --features clip"
            )
    names = list(dict.fromkeys(name for one in ranked for name in one.ranking.images))
    rows = resolve(cache, names)
    state = cache[CLIP_IMAGE].state[rows]
    fine = {name for name, row, s in zip(names, rows, state, strict=True) if row >= 0 and s == OK}
    untried = [
        name
        for name, row, s in zip(names, rows, state, strict=True)
        if row >= 0 and s not in {OK, FAILED}
    ]
    texts = list(dict.fromkeys(one.post.text for one in ranked))
    text_rows = cache.text_rows(texts)
    unread = {
        text
        for text, row in zip(texts, text_rows.tolist(), strict=True)
        if row < 0 or cache[CLIP_TEXT].state[row] != OK
    }
    faults = [*untried, *(f"text of {one.post.id}" for one in ranked if one.post.text in unread)]
    if faults:
        raise CacheLookupError(
            f"{cache.path} lacks {len(faults):,} CLIP embeddings of ranked posts:",
            faults=faults,
            hint="mnerfeat extract --features clip --posts DIR (the folder of train, dev, test)",
        )
    lost = [name for name in names if name not in fine]
    if lost:
        logger.warning(
            "%d ranked images are not in the cache or cannot be read; the rankings do without "
            "them: %s",
            len(lost),
            ", ".join(lost[:5]) + (", …" if len(lost) > 5 else ""),
        )
    kept = tuple(one for one in (_without(one, fine) for one in ranked) if one.ranking.images)
    if not kept:
        raise DataError(
            "not one ranked image is in the cache",
            hint="extract the folder that holds them: mnerfeat extract --images DIR",
        )
    return kept


def cached_embeddings(
    cache: FeatureCache,
    texts: Sequence[str],
    images: Sequence[str],
    blank: NDArray[np.floating],
) -> CachedEmbeddings:
    """The embeddings of texts and images, with the blank image's after them.

    Args:
        cache: That holds them.
        texts: In the order of their numbers.
        images: Names, in the order of their numbers.
        blank: (d_clip_image,).
    """
    rows = cache[CLIP_IMAGE][resolve(cache, images)].astype(np.float32)
    return CachedEmbeddings(
        torch.from_numpy(cache[CLIP_TEXT][cache.text_rows(texts)].astype(np.float32)),
        torch.from_numpy(np.concatenate([rows, np.asarray(blank, np.float32)[None]])),
    )


def blank_row(cache: FeatureCache, id_: bytes) -> NDArray[np.float32]:
    """The embedding of the blank image, (d_clip_image,)."""
    row = cache.images.find([id_])
    return np.asarray(cache[CLIP_IMAGE][row][0], np.float32)


def similarity_rewards(orders: Sequence[Order], embeddings: CachedEmbeddings) -> list[list[float]]:
    """Cosines of every ranking's items with its text, in the ranking's order."""
    text = torch.nn.functional.normalize(embeddings.text.float().cpu(), dim=1)
    image = torch.nn.functional.normalize(embeddings.image.float().cpu(), dim=1)
    return [(image[list(order.items)] @ text[order.text]).double().tolist() for order in orders]


def _without(one: RankedPost, fine: Container[str]) -> RankedPost:
    """A ranking without the images that are not fine."""
    ranking = one.ranking
    images = tuple(name for name in ranking.images if name in fine)
    blank = sum(name in fine for name in ranking.relevant)
    return replace(one, ranking=replace(ranking, images=images, blank=blank))


def _towers(
    plan: RankPlan,
    cache: FeatureCache,
    texts: Sequence[str],
    images: Sequence[str],
    device: torch.device,
) -> TunedClip:
    """CLIP to be tuned, on the files that the cache knows the images by."""
    extraction = plan.extraction
    found = cache.images.describe(resolve(cache, images))
    with tempfile.TemporaryDirectory() as folder:
        blank = Path(folder) / blank_name(plan.config.blank)
        mean = cache[CLIP_IMAGE].provenance.facts["preprocessing"]["mean"]
        blank.write_bytes(blank_png(plan.config.blank, mean))
        files = [*(extraction.images / name for name in found), blank]
        clip = extraction.clip or PRESETS[extraction.preset]["clip"]
        return TunedClip(clip, texts, files, device)


def _save(
    plan: RankPlan,
    saved: SavedDiscriminator,
    trained: Trained,
    embeddings: Embeddings,
    blank: int,
) -> SavedDiscriminator:
    """Write the folder, with CLIP where it was tuned."""
    with torch.no_grad():
        row = embeddings(torch.tensor([0]), torch.tensor([blank]))[1][0].float().cpu().numpy()
    network = trained.discriminator
    if not isinstance(embeddings, TunedClip):
        return save_discriminator(plan.out, saved, network, row, replace=plan.replace)
    extraction = plan.extraction
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip"
        embeddings.save(clip)
        dtype, numerics = np.dtype(extraction.dtype), extraction.numerics
        made = ClipExtractor(str(clip), dtype=dtype, numerics=numerics).provenance
        saved = replace(saved, clip={name: dict(made[name].facts) for name in saved.clip})
        return save_discriminator(
            plan.out,
            saved,
            network,
            row,
            replace=plan.replace,
            save_clip=lambda place: shutil.copytree(clip, place),
        )


def _scores(trained: Trained, tests: Sequence[Order], cached: CachedEmbeddings) -> dict[str, Any]:
    """What the folder says of what the discriminator can."""
    similarity = measure(tests, similarity_rewards(tests, cached)).as_json() if tests else None
    return {
        "fitted": trained.fitted.as_json(),
        "held_out": trained.held_out.as_json() if trained.held_out else None,
        "clip_similarity": similarity,
        "temperature": trained.temperature,
        "calibration_error_after": trained.calibration_error_after,
    }


def _fingerprint(ranked: Sequence[RankedPost]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for one in ranked:
        line = json.dumps([*one.key, one.ranking.images, one.ranking.blank])
        digest.update(f"{line}\n".encode("ascii"))
    return {"sources": sources(_rankings(ranked)), "sha256": digest.hexdigest()}


def _by_split(keys: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for split, id_ in sorted(set(keys)):
        found.setdefault(split, []).append(id_)
    return {split: tuple(ids) for split, ids in found.items()}


def _rankings(ranked: Sequence[RankedPost]) -> list[Ranking]:
    return [one.ranking for one in ranked]


def _device(config: RankConfig) -> torch.device:
    """Where to train: the tiny network of frozen embeddings is quickest on the CPU.

    Raises:
        ConfigError: torch sees no GPU and one was asked for.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "rank.device is 'cuda', and torch sees no GPU", hint="`mnerfeat doctor` tells why"
        )
    automatic = config.device == "auto" and config.tune_clip and torch.cuda.is_available()
    return torch.device("cuda" if automatic or config.device == "cuda" else "cpu")
