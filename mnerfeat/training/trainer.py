"""One training, from posts to a complete run folder."""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ProgressCallback

from mnerfeat.checkpoint import METRICS, Manifest, Origin, Run
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.tags import TagSet
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.errors import ConfigError, MnerfeatError, RunError, StorageError
from mnerfeat.evaluation import gold_tags, score
from mnerfeat.heads.base import IGNORED, Candidates, HeadConfig
from mnerfeat.tagger import Tagger
from mnerfeat.text import TextConfig, TextCounts, TextEncoder
from mnerfeat.training.arguments import choose_precision, optimizer, trainer_arguments
from mnerfeat.training.callbacks import EpochLog, HeadScalars, Progress, scalars
from mnerfeat.training.config import TrainingConfig
from mnerfeat.training.model import Collator, Examples, TrainingStep
from mnerfeat.training.reproducibility import deterministic, quiet_trainer, readable_failures

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
"""Last file that the trainer writes into a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Data for training and for choosing the epoch; the test split has no place here.

    Attributes:
        train: Labelled posts to learn from.
        dev: Labelled posts that choose the epoch.
        train_images: Images of the train posts, with the columns that the head reads.
        dev_images: Images of the dev posts.
        tag_set: Tags to predict.
        fingerprints: Fingerprints of splits and features, for the run's record.
        origin: Where the data and the request come from, for the run's record.
    """

    train: Sequence[Post]
    dev: Sequence[Post]
    train_images: VisionTable
    dev_images: VisionTable
    tag_set: TagSet
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)


def train(
    data: TrainingData,
    *,
    text: TextConfig,
    head: HeadConfig,
    config: TrainingConfig,
    runs: Path,
    name: str | None = None,
    resume: Run | None = None,
    progress: bool = False,
) -> Run:
    """Train a tagger, choose its best epoch on dev, and write a complete run folder.

    The epoch with the best lenient micro F1 on dev is kept. After an interruption at any moment,
    `resume` continues from the last complete epoch and ends with the same weights as without it.
    Under `torchrun` or `accelerate launch`, every process calls this function and shares the work.

    Args:
        data: Posts and images of train and dev.
        text: Options of the text encoder.
        head: Options of the head.
        config: Options of training.
        runs: Folder that gets the run folder.
        name: Name of the run folder; by default date, time and head.
        resume: Interrupted run to continue; all options must be the same.
        progress: Whether to show a progress bar; without it each epoch is logged.

    Returns:
        The complete run, on all processes.

    Raises:
        ConfigError: Options do not fit each other or the device, or the loss is not finite.
        DataError: Posts have no tags, or tags that are not in the tag set.
        ModelError: The text encoder cannot be loaded.
        RunError: The run to resume has other options or data, or is complete.
        StorageError: The disk is full, or the folder cannot be written.
        KeyboardInterrupt: With a note that says how to resume.
    """
    if not data.train or not data.dev:
        raise ConfigError("training needs at least one post in train and one in dev")
    with deterministic(config.deterministic):
        arguments = trainer_arguments(config)
        encoder = TextEncoder.from_pretrained(text)
        sizes = data.train_images.column_sizes
        tagger = Tagger.build(encoder, head, data.tag_set, column_sizes=sizes, seed=config.seed)
        manifest = Manifest.of(
            text=text,
            head=head,
            training=asdict(config),
            tag_set=data.tag_set,
            column_sizes=sizes,
            fingerprints=data.fingerprints,
            origin=data.origin,
        )
        examples = Examples(data.train, tagger), Examples(data.dev, tagger)
        run = _shared_run(runs, manifest, name=name, resume=resume)
        arguments.output_dir = str(run.checkpoints)
        logger.log(
            logging.INFO if arguments.process_index == 0 else logging.DEBUG,
            "training %s on %s in %s, %d posts per step, dev has %d posts; run %s",
            *(manifest.head, arguments.device, choose_precision(config), config.batch_size),
            *(len(data.dev), run.folder),
        )
        started = time.monotonic()
        try:
            with readable_failures(config, arguments.device, run), quiet_trainer():
                trainer = _fit(run, tagger, examples, data, config, arguments, progress=progress)
                if arguments.process_index == 0:
                    run = run.add_time(time.monotonic() - started)
                    _finish(run, tagger, examples, data, trainer, head)
        except KeyboardInterrupt as stop:
            stop.add_note(run.resume_command)
            if arguments.process_index == 0:
                with contextlib.suppress(StorageError):
                    run.add_time(time.monotonic() - started)
            raise
        PartialState().wait_for_everyone()
    return Run.open(run.folder)


def _fit(
    run: Run,
    tagger: Tagger,
    examples: tuple[Examples, Examples],
    data: TrainingData,
    config: TrainingConfig,
    arguments: TrainingArguments,
    *,
    progress: bool,
) -> Trainer:
    step = TrainingStep(
        tagger,
        train=data.train_images.to(arguments.device),
        dev=data.dev_images.to(arguments.device),
    )
    trainer = Trainer(
        model=step,
        args=arguments,
        train_dataset=examples[0],
        eval_dataset=examples[1],
        data_collator=Collator(tagger.encoder.tokenizer),
        compute_metrics=lambda found: _score_dev(found, tagger),
        optimizers=(optimizer(tagger, config), None),
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback((Progress if progress else EpochLog)(config.epochs))
    if config.patience:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    if arguments.process_index == 0:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - slow to import

        writer = SummaryWriter(str(run.folder / "tensorboard"))
        trainer.add_callback(TensorBoardCallback(writer))
        trainer.add_callback(HeadScalars(tagger, writer))
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(run.checkpoints))
    except FloatingPointError as error:
        raise ConfigError(
            f"{error} in step {trainer.state.global_step + 1} (epoch "
            f"{int(trainer.state.epoch or 0) + 1}); the run {run.name} stops here",
            hint=_lower(config),
        ) from error
    return trainer


def _lower(config: TrainingConfig) -> str:
    """Return the options that keep the loss finite."""
    rates = ("encoder_lr", "fusion_lr", "crf_lr", "scalar_lr")
    options = [f"--set train.{name}={getattr(config, name) / 2:g}" for name in rates]
    if choose_precision(config) == "float16":
        options.append("--set train.precision=float32")
    return f"begin a new run with lower learning rates, for example {' '.join(options)}"


def _score_dev(found: Any, tagger: Tagger) -> dict[str, float]:
    """Score dev after an epoch; a head with a threshold chooses it here."""
    predicted = found.predictions
    chosen: dict[str, float] = {}
    if isinstance(predicted, tuple):  # tags and scores
        tags, scores = map(torch.from_numpy, predicted)
        candidates = Candidates(tags=tags, scores=scores)
        tags, chosen = tagger.head.calibrate(torch.from_numpy(found.label_ids), candidates)
        predicted = tags.numpy()
    scores_found = score(*_tags(found.label_ids, predicted, tagger.tag_set))
    f1 = {"f1": scores_found.lenient.overall.f1, "strict_f1": scores_found.strict.overall.f1}
    return f1 | chosen


def _finish(
    run: Run,
    tagger: Tagger,
    examples: tuple[Examples, Examples],
    data: TrainingData,
    trainer: Trainer,
    head: HeadConfig,
) -> None:
    """Write weights, scores and predictions of the best epoch, and mark the run as complete."""
    posts = list(data.dev)
    found = tagger.tag(posts, data.dev_images, batch_size=trainer.args.per_device_eval_batch_size)
    scores = score(gold_tags(posts), [post.tags for post in found])
    dev = scores.lenient.overall
    if dev.gold and not dev.predicted:
        logger.warning(
            "the best epoch found none of dev's %d entities: %s",
            dev.gold,
            head.no_entities_hint,
        )
    history = trainer.state.log_history
    best = max((log for log in history if "eval_f1" in log), key=lambda log: log["eval_f1"])
    run.save_weights(tagger)
    run.write_lines(
        "predictions/dev.jsonl",
        (tagged.record(post) for tagged, post in zip(found, posts, strict=True)),
    )
    run.write_json(
        METRICS,
        {
            "dev": scores.as_json(),
            "best_epoch": round(best["epoch"]),
            "epochs": round(trainer.state.epoch or 0),
            "steps": trainer.state.global_step,
            "scalars": scalars(tagger),
            "text": {
                split: asdict(TextCounts.of(each.texts))
                for split, each in zip(("train", "dev"), examples, strict=True)
            },
            "images": {
                split: None if table.coverage is None else str(table.coverage)
                for split, table in (("train", data.train_images), ("dev", data.dev_images))
            },
            "device": str(trainer.args.device),
            "processes": trainer.args.world_size,
            "history": history,
        },
    )
    run.finish()
    shutil.rmtree(run.checkpoints, ignore_errors=True)


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint of a run; incomplete ones are removed.

    A checkpoint has the path of the best one so far; it is corrected if the run was moved.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = []
    for path in found:
        try:
            state = json.loads((path / TRAINER_STATE).read_text("utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
            continue
        whole.append(path)
        best = state.get("best_model_checkpoint")
        if best and Path(best) != folder / Path(best).name:
            state["best_model_checkpoint"] = str(folder / Path(best).name)
            (path / TRAINER_STATE).write_text(json.dumps(state), "utf-8")
    return str(whole[-1]) if whole else None


def _shared_run(runs: Path, manifest: Manifest, *, name: str | None, resume: Run | None) -> Run:
    """Create or check the run folder in the first process, and share it with the others."""
    shared: list[Run | MnerfeatError | None] = [None]
    if PartialState().is_main_process:
        try:
            shared = [_run(runs, manifest, name=name, resume=resume)]
        except MnerfeatError as error:
            shared = [error]
    broadcast_object_list(shared)
    (found,) = shared
    if isinstance(found, MnerfeatError):
        raise found
    assert found is not None
    return found


def _run(runs: Path, manifest: Manifest, *, name: str | None, resume: Run | None) -> Run:
    if resume is None:
        return Run.create(runs.resolve(), manifest, name=name)
    if resume.complete:
        raise RunError(f"the run {resume.folder} is complete: there is nothing to resume")
    faults = resume.manifest.differences(manifest)
    if faults:
        raise RunError(
            f"the run {resume.folder} was begun with other options or data:",
            faults=faults,
            hint="resume it with the same options and data, or begin a new run",
        )
    return Run(folder=resume.folder.resolve(), manifest=resume.manifest)


def _tags(
    gold: Any, predicted: Any, tag_set: TagSet
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return the tags of real words from padded arrays of tag ids."""
    real = gold != IGNORED
    return (
        [tag_set.decode(row[mask]) for row, mask in zip(gold, real, strict=True)],
        [tag_set.decode(row[mask]) for row, mask in zip(predicted, real, strict=True)],
    )
