"""Runs and imported predictions, scored on a split."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mnerfeat.cache import FeatureCache, Provenance
from mnerfeat.checkpoint import Run, find_run
from mnerfeat.datasets import Post, read_split
from mnerfeat.datasets.tags import convention_note
from mnerfeat.errors import DataError, ProvenanceError
from mnerfeat.evaluation import Mistakes, Scores, gold_tags, mistakes, score, score_by_images
from mnerfeat.prediction.predictions import predict, read_predictions
from mnerfeat.tagger import choose_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was predicted on a split, scored.

    Attributes:
        name: Of the run, or of the file of predictions.
        split: Its name.
        scores: Over all posts.
        by_images: The same for posts without an image, with one, and with several.
        mistakes: What became of the entities.
    """

    name: str
    split: str
    scores: Scores
    by_images: Mapping[str, Scores]
    mistakes: Mistakes


def evaluate_runs(
    names: Sequence[str | None],
    runs: Path,
    *,
    data: Path,
    cache: Path,
    split: str,
    device: str = "auto",
    progress: bool = False,
) -> list[Evaluation]:
    """Score runs on a split; scores and predictions are kept in their folders.

    Args:
        names: Of the runs, or their folders; None is the newest complete one.
        runs: The folder of run folders.
        data: The folder of the splits.
        cache: The feature cache; not opened where no head reads images.
        split: `train`, `dev` or `test`.
        device: `auto`, `cpu` or `cuda`.
        progress: Show progress bars.

    Raises:
        RunError: Where there is no such run.
        DataError: Where the split is missing or cannot be read.
        ProvenanceError: Where the cache's features are not those that a run was trained on.
        CacheError: Where features are missing.
    """
    found = [find_run(runs, name) for name in names]
    posts = read_split(data, split).posts
    return [_evaluate(run, posts, cache, split, device=device, progress=progress) for run in found]


def _evaluate(
    run: Run, posts: Sequence[Post], cache: Path, split: str, *, device: str, progress: bool
) -> Evaluation:
    tagger = run.load_tagger(choose_device(device))
    opened = FeatureCache(cache) if tagger.head.columns else None
    if opened is not None:
        require_features(run, opened)
    predictions = predict(tagger, posts, opened, progress=progress)
    evaluation = _scored(run.name, split, posts, [one.tagged.tags for one in predictions])
    run.write_lines(f"predictions/{split}.jsonl", (one.record() for one in predictions))
    run.write_json(
        f"metrics-{split}.json",
        {
            "split": split,
            "scores": evaluation.scores.as_json(),
            "by_images": {k: v.as_json() for k, v in evaluation.by_images.items()},
            "mistakes": asdict(evaluation.mistakes),
        },
    )
    return evaluation


def evaluate_predictions(path: Path, data: Path, split: str) -> Evaluation:
    """Score a file of predictions, whoever made them, on a split.

    Args:
        path: JSONL with `text` and `label`; posts are matched by `id`, and the words compared.
        data: The folder of the splits.
        split: `train`, `dev` or `test`.

    Raises:
        DataError: With every post that lacks a prediction, is unknown, or has other words.
    """
    posts = read_split(data, split).posts
    predicted = {one.post.id: one for one in read_predictions(path)}
    known = {post.id for post in posts}
    faults = [f"{post.id}: no prediction" for post in posts if post.id not in predicted]
    faults += [f"{name}: not a post of {split}" for name in predicted if name not in known]
    faults += [
        f"{post.id}: {len(predicted[post.id].post.words)} other words, not the {len(post.words)} "
        "of the post"
        for post in posts
        if post.id in predicted and predicted[post.id].post.words != post.words
    ]
    if faults:
        raise DataError(f"{path} does not hold the predictions of {split}:", faults=faults)
    return _scored(path.name, split, posts, [predicted[post.id].tagged.tags for post in posts])


def require_features(run: Run, cache: FeatureCache) -> None:
    """Make sure that a cache holds the features that a run was trained on.

    Raises:
        CacheLookupError: Where one is missing.
        ProvenanceError: Where some were made by something else; it shows every fact that differs.
    """
    faults = [
        f"{name}: {difference}"
        for name, trained_on in run.manifest.fingerprints.get("features", {}).items()
        for difference in cache[name].provenance.differences(Provenance(trained_on["provenance"]))
    ]
    if faults:
        raise ProvenanceError(
            f"{run.name} was trained on other features than {cache.path} holds (what it holds, "
            "not what the run was trained on):",
            faults=faults,
            hint="use the cache that it was trained on (--cache), make the features as they were "
            "(`mnerfeat extract --replace`), or train on these",
        )


def _scored(
    name: str, split: str, posts: Sequence[Post], predicted: Sequence[Sequence[str]]
) -> Evaluation:
    gold = gold_tags(posts)
    if note := convention_note(gold):
        logger.warning("%s: %s", split, note)
    return Evaluation(
        name=name,
        split=split,
        scores=score(gold, predicted),
        by_images=score_by_images(posts, predicted),
        mistakes=mistakes(gold, predicted),
    )
