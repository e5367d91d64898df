"""Scores of runs and of predictions files on a split."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mnerfeat.cache import FeatureCache
from mnerfeat.checkpoint import Run, find_run
from mnerfeat.checkpoint.manifest import now
from mnerfeat.datasets import Split, read_folder, read_split
from mnerfeat.datasets.loader import find_splits
from mnerfeat.datasets.tags import convention_note
from mnerfeat.errors import DataError, RunError
from mnerfeat.evaluation import Mistakes, Scores, gold_tags, mistakes, score, score_by_images
from mnerfeat.prediction.features import require_features
from mnerfeat.prediction.predictions import predict, read_predictions
from mnerfeat.tagger import choose_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of predictions on a split.

    Attributes:
        name: Name of the run or of the predictions file.
        split: Name of the split.
        scores: Scores over all posts.
        by_images: Scores of posts without an image, with one, and with several. For a run the
            images used are counted, for a predictions file those named.
        mistakes: Entities by what went wrong with them.
        configuration: Everything but the seed that determines the run, hashed; empty for a
            predictions file. Only runs of one configuration have a mean.
        label: Short description of the configuration.
        saved: Metrics file in the run folder.
        own_data: Whether the split belongs to the data that the run was trained on.
    """

    name: str
    split: str
    scores: Scores
    by_images: Mapping[str, Scores]
    mistakes: Mistakes
    configuration: str = ""
    label: str = ""
    saved: Path | None = None
    own_data: bool = True


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
    """Score runs on a split, and save scores and predictions in the run folders.

    They are saved as `metrics-<split>.json` and `predictions/<split>.jsonl` if the data is that of
    the run, and otherwise with the start of the data's fingerprint after the split. Results of one
    data set never replace those of another one.

    Args:
        names: Runs as `find_run` takes them; None for the one completed last.
        runs: Folder of run folders.
        data: Folder of the splits.
        cache: Feature cache; not opened if no head reads images.
        split: `train`, `dev` or `test`.
        device: `auto`, `cpu` or `cuda`.
        progress: Whether to show progress bars.

    Raises:
        RunError: There is no such run.
        DataError: The split is missing or cannot be read.
        ProvenanceError: The cached features are not those that a run was trained on.
        CacheError: Features are missing.
    """
    found = {run.folder: run for run in (find_run(runs, name) for name in names)}
    read = read_split(data, split)
    chosen_by = _fingerprints(data)
    return [
        _evaluate(
            run,
            read,
            data,
            cache,
            own=_is_own_data(run, data, chosen_by),
            device=device,
            progress=progress,
        )
        for run in found.values()
    ]


def evaluate_predictions(path: Path, data: Path, split: str) -> Evaluation:
    """Score a predictions file on a split.

    Args:
        path: Posts with predicted tags in any format; posts are matched by id, and their words
            compared.
        data: Folder of the splits.
        split: `train`, `dev` or `test`.

    Raises:
        DataError: Predictions are missing, or posts are unknown or have other words; all are
            listed.
    """
    read = read_split(data, split)
    posts = read.posts
    predicted = {one.post.id: one for one in read_predictions(path)}
    known = {post.id for post in posts}
    faults = [f"{post.id}: no prediction" for post in posts if post.id not in predicted]
    faults += [f"{name}: not a post of {split}" for name in predicted if name not in known]
    faults += [
        f"{post.id}: the prediction's {len(predicted[post.id].post.words)} words are not the "
        f"{len(post.words)} words of the post"
        for post in posts
        if post.id in predicted and predicted[post.id].post.words != post.words
    ]
    if faults:
        raise DataError(f"{path} does not match the posts of {split}:", faults=faults)
    tags = [predicted[post.id].tagged.tags for post in posts]
    return _scored(path.name, read, tags, [len(post.images) for post in posts])


def _evaluate(
    run: Run,
    split: Split,
    data: Path,
    cache: Path,
    *,
    own: bool,
    device: str,
    progress: bool,
) -> Evaluation:
    tagger = run.load_tagger(choose_device(device))
    opened = FeatureCache(cache) if tagger.head.columns else None
    if opened is not None:
        require_features(run, opened)
    predictions = predict(tagger, split.posts, opened, progress=progress)
    stem = _stem(run, split, own=own)
    evaluation = _scored(
        run.name,
        split,
        [one.tagged.tags for one in predictions],
        [sum(value is not None for value in one.tagged.images) for one in predictions],
        configuration=configuration(run),
        label=label(run),
        saved=run.folder / f"metrics-{stem}.json",
        own_data=own,
    )
    mark = f"{split.name}:{split.fingerprint[:8]}"
    run.write_lines(
        f"predictions/{stem}.jsonl", (one.record() | {"data": mark} for one in predictions)
    )
    run.write_json(
        f"metrics-{stem}.json",
        {
            "split": split.name,
            "data": str(data.resolve()),
            "fingerprint": split.fingerprint,
            "own_data": own,
            "date": now(),
            "predictions": f"predictions/{stem}.jsonl",
            "scores": evaluation.scores.as_json(),
            "by_images": {k: v.as_json() for k, v in evaluation.by_images.items()},
            "mistakes": asdict(evaluation.mistakes),
        },
    )
    return evaluation


def configuration(run: Run) -> str:
    """Return a hash of everything but the seed that determines a run."""
    found = run.manifest.configuration()
    for name in ("seed", "device"):
        found["training"].pop(name, None)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def label(run: Run) -> str:
    """Return the head of a run with its ablation: `iqcr`, `iqcr:no-iqw`."""
    ablation = run.manifest.head_options.get("ablation")
    return f"{run.manifest.head}:{ablation}" if ablation else run.manifest.head


def _fingerprints(data: Path) -> dict[str, str]:
    """Return the fingerprints of train and dev; none if there are no such splits to read."""
    names = [name for name in ("train", "dev") if name in find_splits(data)]
    try:
        return {one.name: one.fingerprint for one in read_folder(data, names)}
    except DataError:
        return {}


def _is_own_data(run: Run, data: Path, fingerprints: Mapping[str, str]) -> bool:
    """Return whether a data folder has the train and dev posts that a run was trained on.

    Without fingerprints of the folder's splits, its path decides.
    """
    trained_on = run.manifest.fingerprints.get("data")
    if not fingerprints or not isinstance(trained_on, Mapping):
        return run.manifest.origin.data in {"", str(data.resolve())}
    return all(one == trained_on.get(name) for name, one in fingerprints.items())


def _stem(run: Run, split: Split, *, own: bool) -> str:
    """Return the name under which results are saved: the split, or with its fingerprint."""
    try:
        earlier = run.read_json(f"metrics-{split.name}.json").get("fingerprint")
    except RunError:
        earlier = None
    if own and earlier in {None, split.fingerprint}:
        return split.name
    return f"{split.name}-{split.fingerprint[:8]}"


def _scored(
    name: str,
    split: Split,
    predicted: Sequence[Sequence[str]],
    images: Sequence[int],
    *,
    configuration: str = "",
    label: str = "",
    saved: Path | None = None,
    own_data: bool = True,
) -> Evaluation:
    gold = gold_tags(split.posts)
    if note := convention_note(gold):
        logger.warning("%s: %s", split.name, note)
    return Evaluation(
        name=name,
        split=split.name,
        scores=score(gold, predicted),
        by_images=score_by_images(split.posts, predicted, images),
        mistakes=mistakes(gold, predicted),
        configuration=configuration,
        label=label,
        saved=saved,
        own_data=own_data,
    )
