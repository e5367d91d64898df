"""Plans of extraction and training from settings and options."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mnerfeat.checkpoint import find_run
from mnerfeat.checkpoint.manifest import differences
from mnerfeat.config.builder import build, unknown
from mnerfeat.config.settings import Settings, load_settings
from mnerfeat.errors import ConfigError, RunError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.tagger import HEADS
from mnerfeat.text import TextConfig
from mnerfeat.toy import backbone
from mnerfeat.training import Plan, TrainingConfig
from mnerfeat.training.config import training_config

DEFAULT_HEAD = "iqcr"

ENCODERS = {
    "text": "bert-base-uncased",
    "iqcr": "roberta-base",
    "gifr": "bert-base-uncased",
    "dpe": "bert-base-cased",
    "iterative": "bert-base-cased",
}
"""Text encoder of each head's paper, by Hugging Face id; the preset `base` uses these."""


def plan_training(
    settings: Settings,
    *,
    head: str | None = None,
    seeds: Sequence[int] = (),
    name: str | None = None,
    text: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan of a training from settings and options.

    Args:
        settings: Settings of the folder.
        head: Name of the head; `iqcr` by default.
        seeds: One run for each.
        name: Run name.
        text: Options of the text encoder; in this and the next two, None counts as not given.
        options: Options of the head.
        training: Options of training.

    Raises:
        ConfigError: Options cannot be used.
    """
    head = head or DEFAULT_HEAD
    if head not in HEADS:
        raise ConfigError(unknown(head, sorted(HEADS), "head"))
    extraction = plan_extraction(settings)
    return Plan(
        data=settings.data,
        cache=settings.cache,
        runs=settings.runs,
        text=build(
            TextConfig,
            "text",
            {"encoder": text_encoder(settings, head)},
            settings.section("text"),
            text or {},
        ),
        head=build(HEADS[head], f"head.{head}", settings.section(f"head.{head}"), options or {}),
        training=build(TrainingConfig, "train", settings.section("train"), training or {}),
        seeds=tuple(seeds),
        name=name,
        discriminator=extraction.discriminator,
        models=extraction.references(),
    )


def plan_resume(
    settings: Settings,
    *,
    name: str | None = None,
    overrides: Sequence[str] = (),
    head: str | None = None,
    seeds: Sequence[int] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """Return the plan that resumes an interrupted run with the options it was begun with.

    Data and cache are those of the run if they still exist. The device may be another one.

    Args:
        settings: Settings of the folder.
        name: The run, as `find_run` takes it; None for the one that was begun last.
        overrides: Overrides of the command line.
        head: Name of the head.
        seeds: Seeds of the interrupted plan.
        options: Options of the command line by section: `text`, `head`, `train`; None counts as
            not given. They and the arguments before must agree with the run's own.

    Raises:
        RunError: No run is waiting, or this version cannot continue it.
        ConfigError: Options differ from those of the run; all are listed.
    """
    run = find_run(settings.runs, name, state="training")
    if run.complete:
        raise RunError(f"the run {run.folder} is complete: there is nothing to resume")
    typed = load_settings(None, overrides)
    origin, own_head = run.manifest.origin, run.manifest.head
    own: dict[str, Any] = {
        "text": run.text_config(),
        f"head.{own_head}": run.head_config(),
        "train": training_config(run),
    }
    faults = [f"head: {own_head!r} there, {head!r} here"] if head not in {None, own_head} else []
    resumed: dict[str, Any] = {}
    for section, config in own.items():
        given = (options or {}).get(section.partition(".")[0], {})
        if section.startswith("head.") and faults:
            given = {}
        asked = build(type(config), section, asdict(config), typed.section(section), given)
        resumed[section] = asked
        faults += differences(section, _comparable(config), _comparable(asked))
    planned = origin.seeds or (own["train"].seed,)
    if not set(seeds) <= set(planned):
        faults.append(f"seeds: {_joined(planned)} there, {_joined(seeds)} here")
    if faults:
        raise ConfigError(
            f"the run {run.name} was begun with other options:",
            faults=faults,
            hint=f"{run.resume_command}, without other options, or begin a new run",
        )
    return Plan(
        data=_existing(origin.data) or settings.data,
        cache=_existing(origin.cache) or settings.cache,
        runs=settings.runs,
        text=own["text"],
        head=own[f"head.{own_head}"],
        training=resumed["train"],
        seeds=planned,
        name=origin.name,
        resume=run,
        discriminator=plan_extraction(settings).discriminator,
    )


def plan_extraction(settings: Settings, **options: Any) -> ExtractConfig:
    """Return the configuration of an extraction from settings and options.

    Args:
        settings: Settings of the folder.
        options: Options of `ExtractConfig`; None counts as not given.

    Raises:
        ConfigError: Options cannot be used.
    """
    return build(
        ExtractConfig,
        "extract",
        {"cache": settings.cache, "preset": settings.preset},
        settings.section("extract"),
        options,
    )


def text_encoder(settings: Settings, head: str) -> str:
    """Return the text encoder of the preset: that of the head's paper, or the tiny one."""
    if settings.preset == "tiny":
        return str(backbone("text"))
    if settings.preset != "base":
        raise ConfigError(unknown(settings.preset, ("base", "tiny"), "preset"))
    return ENCODERS[head]


def _comparable(config: Any) -> dict[str, Any]:
    """Return options as a run records them, without the device and the seed."""
    return {k: v for k, v in asdict(config).items() if k not in {"device", "seed"}}


def _existing(path: str) -> Path | None:
    return Path(path) if path and Path(path).exists() else None


def _joined(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))
