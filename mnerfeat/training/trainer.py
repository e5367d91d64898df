"""One training: from posts to a complete run folder."""

import json
import logging
import math
import os
import shutil
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

from mnerfeat.checkpoint import METRICS, Manifest, Run
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.tags import TagSet
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.errors import ConfigError, MnerfeatError, RunError
from mnerfeat.evaluation import gold_tags, score
from mnerfeat.heads.base import IGNORED, Candidates, HeadConfig
from mnerfeat.tagger import Tagger
from mnerfeat.text import TextConfig, TextCounts, TextEncoder
from mnerfeat.training.callbacks import HeadScalars, Progress, scalars
from mnerfeat.training.config import TrainingConfig
from mnerfeat.training.model import GOLD, Collator, Examples, TrainingStep
from mnerfeat.training.reproducibility import deterministic, plain_failures, quiet_trainer

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
"""The last file that the trainer writes into a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a tagger is trained and selected on. The test split has no place here.

    Attributes:
        train: Labelled posts to learn from.
        dev: Labelled posts that choose the epoch.
        train_images: The images of the training posts, with the columns that the head reads.
        dev_images: Those of the dev posts.
        tag_set: The tags to predict.
        fingerprints: Of data and cache features, kept with the run; by names of the caller's.
    """

    train: Sequence[Post]
    dev: Sequence[Post]
    train_images: VisionTable
    dev_images: VisionTable
    tag_set: TagSet
    fingerprints: Mapping[str, Any] = field(default_factory=dict)


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
    """Train a tagger, choose its best epoch on dev, and leave a complete run folder.

    The epoch with the best lenient micro F1 on dev is kept. Interrupted at any moment, `resume`
    goes on from the last whole epoch and ends with the same weights as if nothing had happened.
    Started by `torchrun` or `accelerate launch`, every process calls this, and shares the work.

    Args:
        data: What to learn from, and what to choose the epoch on.
        text: The text encoder.
        head: The head.
        config: How to train.
        runs: The folder that gets the run folder.
        name: Of the run folder; None for date, time and head.
        resume: The interrupted run to go on with; all options must be the same.
        progress: Show a progress bar.

    Returns:
        The complete run, on all processes.

    Raises:
        ConfigError: Options that do not fit each other or the device.
        DataError: Posts without tags, or tags that are not in the tag set.
        ModelError: The text encoder cannot be loaded.
        RunError: The run to resume is of other options or data, or is complete.
        StorageError: The disk is full, or the folder cannot be written.
    """
    if not data.train or not data.dev:
        raise ConfigError("training needs at least one post to learn from and one in dev")
    with deterministic(config.deterministic):
        arguments = _arguments(config)
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
        )
        examples = Examples(data.train, tagger), Examples(data.dev, tagger)
        run = _shared_run(runs, manifest, name=name, resume=resume)
        arguments.output_dir = str(run.checkpoints)
        logger.log(
            logging.INFO if arguments.process_index == 0 else logging.DEBUG,
            "training %s on %s in %s, %d posts a step, dev has %d posts; run %s",
            *(manifest.head, arguments.device, _precision(config), config.batch_size),
            *(len(data.dev), run.folder),
        )
        with plain_failures(config, arguments.device), quiet_trainer():
            trainer = _fit(run, tagger, examples, data, config, arguments, progress=progress)
            if arguments.process_index == 0:
                _finish(run, tagger, examples, data, trainer, head)
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

    def score_dev(found: Any) -> dict[str, float]:
        predicted = found.predictions
        chosen: dict[str, float] = {}
        if isinstance(predicted, tuple):  # tags and scores: the head chooses a threshold
            tags, scores = map(torch.from_numpy, predicted)
            candidates = Candidates(tags=tags, scores=scores)
            tags, chosen = tagger.head.calibrate(torch.from_numpy(found.label_ids), candidates)
            predicted = tags.numpy()
        found_scores = score(*_tags(found.label_ids, predicted, data.tag_set))
        f1 = {"f1": found_scores.lenient.overall.f1, "strict_f1": found_scores.strict.overall.f1}
        return f1 | chosen

    trainer = Trainer(
        model=step,
        args=arguments,
        train_dataset=examples[0],
        eval_dataset=examples[1],
        data_collator=Collator(tagger.encoder.tokenizer),
        compute_metrics=score_dev,
        optimizers=(optimizer(tagger, config), None),
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if progress:
        trainer.add_callback(Progress(config.epochs))
    if config.patience:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    if arguments.process_index == 0:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - slow to import

        writer = SummaryWriter(str(run.folder / "tensorboard"))
        trainer.add_callback(TensorBoardCallback(writer))
        trainer.add_callback(HeadScalars(tagger, writer))
    trainer.train(resume_from_checkpoint=last_checkpoint(run.checkpoints))
    return trainer


def _finish(
    run: Run,
    tagger: Tagger,
    examples: tuple[Examples, Examples],
    data: TrainingData,
    trainer: Trainer,
    head: HeadConfig,
) -> None:
    """Write what the best epoch gives; the run is complete only after that."""
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


def optimizer(tagger: Tagger, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with a learning rate for each group of parameters; only matrices decay."""
    rates = {
        "encoder": config.encoder_lr,
        "fusion": config.fusion_lr,
        "crf": config.crf_lr,
        "scalars": config.scalar_lr,
    }
    groups = []
    for name, parameters in tagger.parameter_groups().items():
        for decays in (True, False):
            some = [x for x in parameters if (x.ndim >= 2) == decays]
            if some:
                decay = config.weight_decay if decays else 0.0
                groups.append({"params": some, "lr": rates[name], "weight_decay": decay})
    return torch.optim.AdamW(groups, fused=True)


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint of a run; half-written ones are removed.

    A checkpoint names the best one so far by its path; that is mended where the run has moved.
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


def _arguments(config: TrainingConfig) -> TrainingArguments:
    """The trainer's arguments, once the processes have found each other; no folder yet."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "train.device is 'cuda', and torch sees no GPU",
            hint="`mnerfeat doctor` tells why; train.device = 'auto' takes what there is",
        )
    precision = _precision(config)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    parts = processes * config.accumulation
    if config.batch_size % parts:
        raise ConfigError(
            f"train.batch_size is {config.batch_size}, which {processes} devices with "
            f"{config.accumulation} accumulation steps each cannot share evenly",
            hint=f"--set train.batch_size={math.ceil(config.batch_size / parts) * parts}",
        )
    arguments = TrainingArguments(
        output_dir="",
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size // parts,
        per_device_eval_batch_size=config.eval_batch_size,
        gradient_accumulation_steps=config.accumulation,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup if config.warmup < 1 else 1 - 1e-9,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=config.device == "cpu",
        dataloader_pin_memory=config.device != "cpu" and torch.cuda.is_available(),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_first_step=True,
        logging_steps=20,
        report_to="none",
        disable_tqdm=True,
        label_names=[GOLD],
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    # One process drives one GPU; several GPUs take `torchrun` or `accelerate launch`.
    arguments.device  # noqa: B018 - counts the GPUs
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _precision(config: TrainingConfig) -> str:
    if config.precision != "auto":
        return config.precision
    if config.device == "cpu" or not torch.cuda.is_available():
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _shared_run(runs: Path, manifest: Manifest, *, name: str | None, resume: Run | None) -> Run:
    """The run folder, made or checked by the first process and told to the others."""
    told: list[Run | MnerfeatError | None] = [None]
    if PartialState().is_main_process:
        try:
            told = [_run(runs, manifest, name=name, resume=resume)]
        except MnerfeatError as error:
            told = [error]
    broadcast_object_list(told)
    (answer,) = told
    if isinstance(answer, MnerfeatError):
        raise answer
    assert answer is not None
    return answer


def _run(runs: Path, manifest: Manifest, *, name: str | None, resume: Run | None) -> Run:
    if resume is None:
        return Run.create(runs.resolve(), manifest, name=name)
    if resume.complete:
        raise RunError(f"the run {resume.folder} is complete; there is nothing to resume")
    faults = resume.manifest.differences(manifest)
    if faults:
        raise RunError(
            f"the run {resume.folder} was begun with other options or data:",
            faults=faults,
            hint="resume it with the same ones, or begin a new run",
        )
    return Run(folder=resume.folder.resolve(), manifest=resume.manifest)


def _tags(
    gold: Any, predicted: Any, tag_set: TagSet
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Padded arrays of tag ids as tags of real words."""
    real = gold != IGNORED
    return (
        [tag_set.decode(row[mask]) for row, mask in zip(gold, real, strict=True)],
        [tag_set.decode(row[mask]) for row, mask in zip(predicted, real, strict=True)],
    )
