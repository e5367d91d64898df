"""Configuration of a run of extraction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from mnerfeat.datasets.pair_columns import REWARD
from mnerfeat.errors import ConfigError
from mnerfeat.extractors.base import Extractor, ExtractorOptions
from mnerfeat.extractors.registry import (
    DEFAULT_EXTRACTORS,
    EXTRACTORS,
    OPTIONS,
    PRESETS,
    make_extractor,
    references_of,
)


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """What to extract, with which models, and into which cache."""

    images: Path = Path("images")
    """Folder of images, searched recursively."""

    cache: Path = Path("features.h5")
    """Cache file for the features; created if it does not exist."""

    features: tuple[str, ...] = DEFAULT_EXTRACTORS
    """Features to extract, by extractor (`mnerfeat extract --help` lists them), and reward: the
    rewards of posts' texts with their images, by a trained discriminator."""

    preset: str = "base"
    """Models: base (the papers' backbones, downloaded) or tiny (in the package, offline)."""

    vit: str | None = None
    """Vision transformer of transformers, by hub id or folder, instead of the preset's."""

    clip: str | None = None
    """open_clip model: NAME:TAG, NAME:CHECKPOINT, hf-hub:ID or a folder."""

    quality: str | None = None
    """maniqa, maniqa-kadid, maniqa-pipal (optionally :CHECKPOINT), piqe, or an image model of
    transformers with one output. pyiqa (maniqa, piqe) is for non-commercial use only."""

    grid: str | None = None
    """ResNet of transformers, by hub id or folder, for grid and regions."""

    detector: str | None = None
    """Object detector of transformers, for regions and tags."""

    captioner: str | None = None
    """Captioning model of transformers, for caption."""

    bert: str | None = None
    """Text encoder of transformers for captions and tags."""

    captions: Path | None = None
    """JSONL file of captions (image, caption), instead of a captioner."""

    tags: Path | None = None
    """JSONL file of object tags (image, tags), instead of a detector."""

    regions: Path | None = None
    """JSONL file of boxes (image, boxes in pixels, XYXY), instead of a detector."""

    models: Mapping[str, str] = field(default_factory=dict)
    """Models and files of extractors whose options have no line of their own here, by option."""

    discriminator: Path = Path("discriminator")
    """Folder of the discriminator for rewards; `mnerfeat rank train` makes one."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, mps, or several: cuda:0,cuda:1."""

    engine: Literal["local", "ray"] = "local"
    """local (this machine) or ray (all nodes of a Ray cluster; needs the extra `ray`)."""

    numerics: Literal["fast", "strict"] = "fast"
    """On CUDA, fast runs the models' bodies in float16, strict everything in float32 (TF32)."""

    dtype: Literal["float16", "float32"] = "float16"
    """Type of stored vectors; scores are always float32."""

    batch_size: int | None = None
    """Batch size; by default one that suits the device."""

    workers: int | None = None
    """Number of decoder processes; 0 decodes in the main process. Default: by the machine."""

    image_timeout: float = 120.0
    """Time limit for decoding an image, in seconds."""

    replace: bool = False
    """Recompute features made by a different model or with other settings."""

    rename: bool = False
    """Let names that the cache holds for images of another folder lead to these images."""

    dry_run: bool = False
    """Report what would be done, and do nothing."""

    progress: bool | None = None
    """Show progress bars; by default if standard error is a terminal."""

    def __post_init__(self) -> None:
        for name, known in (("features", (*EXTRACTORS, REWARD)), ("preset", PRESETS)):
            given = self.features if name == "features" else (self.preset,)
            unknown = [value for value in given if value not in known]
            if unknown or not given:
                raise ConfigError(
                    f"{name}: {', '.join(map(repr, unknown)) or 'nothing given'}; choose from: "
                    f"{', '.join(known)}"
                )
        strange = sorted(set(self.models) - set(OPTIONS))
        if strange:
            raise ConfigError(
                f"models: unknown {', '.join(strange)}; choose from: {', '.join(OPTIONS)}"
            )
        for name, least in (("batch_size", 1), ("workers", 0), ("image_timeout", 0.1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        for name, choices in (
            ("engine", ("local", "ray")),
            ("numerics", ("fast", "strict")),
            ("dtype", ("float16", "float32")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name}: {getattr(self, name)!r}; choose from: {', '.join(choices)}"
                )

    def extractors(self) -> tuple[Extractor, ...]:
        """Return the requested extractors of images, their models found but not loaded.

        Raises:
            ConfigError: If the preset has no model for a requested feature.
            DataError: If a file to import cannot be used.
            ModelError: If a model is missing.
        """
        options = ExtractorOptions(
            preset=self.preset,
            given=self._given(),
            dtype=np.dtype(self.dtype),
            numerics=self.numerics,
        )
        return tuple(
            make_extractor(name, options)
            for name in dict.fromkeys(self.features)
            if name in EXTRACTORS
        )

    def references(self) -> dict[str, str]:
        """Return the models and files named here, for a run to record (see `extractors_of`)."""
        return references_of(self._given())

    def _given(self) -> dict[str, str | Path | None]:
        return {name: getattr(self, name, None) or self.models.get(name) for name in OPTIONS}
