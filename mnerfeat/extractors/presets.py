"""Which models a preset means, and which extractor runs them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

import mnerfeat
from mnerfeat.errors import ConfigError
from mnerfeat.extractors.base import Extractor
from mnerfeat.extractors.captioner import Captioner
from mnerfeat.extractors.clip import ClipExtractor
from mnerfeat.extractors.detector import Detector
from mnerfeat.extractors.device import Numerics
from mnerfeat.extractors.grid import GridExtractor
from mnerfeat.extractors.imports import Imported, read_boxes, read_captions, read_tags
from mnerfeat.extractors.quality import quality_extractor
from mnerfeat.extractors.regions import RegionsExtractor
from mnerfeat.extractors.texts_of_images import (
    CAPTION_PIECES,
    TAG_PIECES,
    ImageTextExtractor,
    Teller,
    joined_tags,
)
from mnerfeat.extractors.vit import VitExtractor

_TINY = Path(mnerfeat.__file__).parent / "toy" / "weights"

PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    "base": {
        "vit": "google/vit-base-patch16-224",
        "clip": "ViT-B-32:openai",
        "quality": "maniqa",
        "grid": "microsoft/resnet-50",
        "detector": "facebook/detr-resnet-50@no_timm",
        "captioner": "Salesforce/blip-image-captioning-base",
        "bert": "bert-base-uncased",
    },
    "tiny": {
        **{name: str(_TINY / name) for name in ("vit", "clip", "quality", "grid")},
        "bert": str(_TINY / "text"),
    },
}
"""`base`: the papers' backbones, and what stands in for those that cannot be had (VinVL). `tiny`:
those inside the package, which know the toy world; it has neither a detector nor a captioner, for
the toy world writes boxes, tags and captions itself."""

MODELS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "vit": ("vit",),
    "clip": ("clip",),
    "quality": ("quality",),
    "grid": ("grid",),
    "regions": ("grid", "detector"),
    "tags": ("detector", "bert"),
    "caption": ("captioner", "bert"),
}
"""By extractor, the options that name its models."""

IMPORTS: Final = ("captions", "tags", "regions")
"""Options that name files in place of models."""

DEFAULT_EXTRACTORS: Final = ("vit", "clip", "quality")
"""What is extracted where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How features are to be made.

    Attributes:
        preset: One of `PRESETS`: what runs where `models` names none.
        models: By option (`vit`, `detector`, …), a hub id or path; None counts as not given.
        imports: Files of `captions`, `tags` and `regions`, in place of models.
        dtype: In which vectors are stored.
        numerics: See `mnerfeat.extractors.device`.
    """

    preset: str
    models: Mapping[str, str | None] = field(default_factory=dict)
    imports: Mapping[str, Path | None] = field(default_factory=dict)
    dtype: np.dtype[Any]
    numerics: Numerics

    def model(self, option: str, *, instead: str = "") -> str:
        """The model that an option means.

        Args:
            option: Its name.
            instead: The option that imports what the model would make.

        Raises:
            ConfigError: Neither the option nor the preset names one.
        """
        found = self.models.get(option) or PRESETS[self.preset].get(option)
        if not found:
            raise ConfigError(
                f"the preset {self.preset} has no {option}",
                hint=f"give the file that holds what it would tell (--{instead} FILE; `mnerfeat "
                f"toy` writes {instead}.jsonl), or a model with --{option}",
            )
        return found

    def file(self, what: str) -> Path | None:
        """The file that is imported in place of a model, if any."""
        return self.imports.get(what)


def _caption(wanted: Wanted) -> Extractor:
    file = wanted.file("captions")
    return _texts(
        "caption",
        read_captions(file) if file else Captioner(wanted.model("captioner", instead="captions")),
        CAPTION_PIECES,
        wanted,
    )


def _tags(wanted: Wanted) -> Extractor:
    file = wanted.file("tags")
    source: Detector | Imported[str]
    if file:
        read = read_tags(file)
        texts = {image: joined_tags(tags) for image, tags in read.entries.items()}
        source = Imported(file=read.file, entries=texts)
    else:
        source = Detector(wanted.model("detector", instead="tags"))
    return _texts("tags", source, TAG_PIECES, wanted)


def _texts(name: str, source: Teller | Imported[str], pieces: int, wanted: Wanted) -> Extractor:
    return ImageTextExtractor(
        name,
        source,
        bert=wanted.model("bert"),
        pieces=pieces,
        dtype=wanted.dtype,
        numerics=wanted.numerics,
    )


def _regions(wanted: Wanted) -> Extractor:
    file = wanted.file("regions")
    return RegionsExtractor(
        wanted.model("grid"),
        read_boxes(file) if file else Detector(wanted.model("detector", instead="regions")),
        dtype=wanted.dtype,
        numerics=wanted.numerics,
    )


EXTRACTORS: Final[Mapping[str, Callable[[Wanted], Extractor]]] = {
    "vit": lambda w: VitExtractor(w.model("vit"), dtype=w.dtype, numerics=w.numerics),
    "clip": lambda w: ClipExtractor(w.model("clip"), dtype=w.dtype, numerics=w.numerics),
    "quality": lambda w: quality_extractor(w.model("quality"), numerics=w.numerics),
    "grid": lambda w: GridExtractor(w.model("grid"), dtype=w.dtype, numerics=w.numerics),
    "regions": _regions,
    "tags": _tags,
    "caption": _caption,
}
"""By the name that `--features` knows them by."""


def make_extractor(name: str, wanted: Wanted) -> Extractor:
    """An extractor, its models found but not loaded.

    Args:
        name: One of `EXTRACTORS`.
        wanted: How.

    Raises:
        ConfigError: For an unknown name or preset, or where the preset has no such model.
        DataError: Where a file that is imported cannot be used.
        ModelError: Where a model is not there.
    """
    for what, given, known in (("features", name, EXTRACTORS), ("preset", wanted.preset, PRESETS)):
        if given not in known:
            raise ConfigError(f"{what}: unknown {given!r}; choose from: {', '.join(known)}")
    return EXTRACTORS[name](wanted)
