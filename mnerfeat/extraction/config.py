"""What a run of extraction is asked to do."""

from dataclasses import dataclass
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
    """What to extract, with what, and where to."""

    images: Path = Path("images")
    """The folder of images; folders in it are searched too."""

    cache: Path = Path("features.h5")
    """The cache that the features go into; made where it is not there yet."""

    features: tuple[str, ...] = DEFAULT_EXTRACTORS
    """What to extract: vit ([CLS] vectors), clip (embeddings of images and posts), quality; reward
    (of posts' texts with their images, by a discriminator) once there is a discriminator; and,
    for DPE-MNER, grid (ResNet cells), regions (the grids of three boxes), tags (of objects) and
    caption."""

    preset: str = "base"
    """Models: base (the papers' backbones, downloaded) or tiny (inside the package, offline)."""

    vit: str | None = None
    """A vision transformer of transformers, by hub id or folder, in place of the preset's."""

    clip: str | None = None
    """A model of open_clip, as NAME:TAG, NAME:CHECKPOINT, hf-hub:ID or a folder."""

    quality: str | None = None
    """maniqa, maniqa-kadid, maniqa-pipal (:CHECKPOINT after it), piqe, or an image model of
    transformers with one output. pyiqa (maniqa, piqe) is for non-commercial use only."""

    grid: str | None = None
    """A ResNet of transformers, by hub id or folder, for grid and regions."""

    detector: str | None = None
    """An object detector of transformers, for regions and tags."""

    captioner: str | None = None
    """A model of transformers that writes captions, for caption."""

    bert: str | None = None
    """The text encoder of transformers that encodes captions and tags."""

    captions: Path | None = None
    """A JSONL file of captions, in place of a captioner: image, caption."""

    tags: Path | None = None
    """A JSONL file of object tags, in place of a detector: image, tags."""

    regions: Path | None = None
    """A JSONL file of boxes, in place of a detector: image, boxes (pixels, XYXY)."""

    discriminator: Path = Path("discriminator")
    """The folder of the discriminator that gives rewards; `mnerfeat rank train` makes one."""

    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, mps, or several: cuda:0,cuda:1."""

    engine: Literal["local", "ray"] = "local"
    """local (this machine) or ray (every node of a Ray cluster; the extra `ray`)."""

    numerics: Literal["fast", "strict"] = "fast"
    """On CUDA: fast runs the models' bodies in float16, strict everything in float32 (TF32)."""

    dtype: Literal["float16", "float32"] = "float16"
    """In which vectors are stored; scores are always float32."""

    batch_size: int | None = None
    """Inputs of a model that run at once; by default what suits the device."""

    workers: int | None = None
    """Processes that decode images; 0 decodes in the main process. By default what suits the
    machine."""

    image_timeout: float = 120.0
    """Seconds after which decoding one image is given up."""

    replace: bool = False
    """Make features anew that the cache holds from another model or other settings."""

    dry_run: bool = False
    """Say what there is to do, and do nothing."""

    progress: bool | None = None
    """Show progress bars; by default where standard error is a terminal."""

    def __post_init__(self) -> None:
        for name, known in (("features", (*EXTRACTORS, REWARD)), ("preset", PRESETS)):
            given = self.features if name == "features" else (self.preset,)
            unknown = [value for value in given if value not in known]
            if unknown or not given:
                raise ConfigError(
                    f"{name}: {', '.join(map(repr, unknown)) or 'nothing given'}; choose from: "
                    f"{', '.join(known)}"
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
        """The extractors of images asked for, their models found but not loaded.

        Raises:
            ConfigError: Where the preset has no model for what is asked for.
            DataError: Where a file that is imported cannot be used.
            ModelError: Where a model is not there.
        """
        options = ExtractorOptions(
            preset=self.preset,
            given={name: getattr(self, name) for name in OPTIONS},
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
        return references_of({name: getattr(self, name) for name in OPTIONS})
