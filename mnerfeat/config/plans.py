"""From settings and options to what extraction and training take."""

from collections.abc import Mapping, Sequence
from typing import Any

from mnerfeat.config.builder import build, unknown
from mnerfeat.config.settings import Settings
from mnerfeat.errors import ConfigError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.tagger import HEADS
from mnerfeat.text import TextConfig
from mnerfeat.toy import backbone
from mnerfeat.training import Plan, TrainingConfig

DEFAULT_HEAD = "iqcr"

ENCODERS = {
    "text": "bert-base-uncased",
    "iqcr": "roberta-base",
    "gifr": "bert-base-uncased",
    "dpe": "bert-base-cased",
    "iterative": "bert-base-cased",
}
"""The text encoder of each head's paper, by Hugging Face id; the preset `base` takes these."""


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
    """What to train, from settings and what the command line says.

    Args:
        settings: Of the folder.
        head: Its name; `iqcr` by default.
        seeds: One run each.
        name: Of the run.
        text: Options of the text encoder; None in them counts as not given, as in the next two.
        options: Options of the head.
        training: Options of training.

    Raises:
        ConfigError: With what cannot be used.
    """
    head = head or DEFAULT_HEAD
    if head not in HEADS:
        raise ConfigError(unknown(head, sorted(HEADS), "head"))
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
        discriminator=plan_extraction(settings).discriminator,
    )


def plan_extraction(settings: Settings, **options: Any) -> ExtractConfig:
    """What to extract, from settings and what the command line says.

    Args:
        settings: Of the folder.
        options: Of `ExtractConfig`; None counts as not given.

    Raises:
        ConfigError: With what cannot be used.
    """
    return build(
        ExtractConfig,
        "extract",
        {"cache": settings.cache, "preset": settings.preset},
        settings.section("extract"),
        options,
    )


def text_encoder(settings: Settings, head: str) -> str:
    """The text encoder of a preset: the paper's, or the tiny one."""
    if settings.preset == "tiny":
        return str(backbone("text"))
    if settings.preset != "base":
        raise ConfigError(unknown(settings.preset, ("base", "tiny"), "preset"))
    return ENCODERS[head]
