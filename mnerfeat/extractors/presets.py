"""Which models a preset means, and which extractor runs them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

import mnerfeat
from mnerfeat.errors import ConfigError
from mnerfeat.extractors.base import Extractor
from mnerfeat.extractors.clip import ClipExtractor
from mnerfeat.extractors.device import Numerics
from mnerfeat.extractors.quality import quality_extractor
from mnerfeat.extractors.vit import VitExtractor

_TINY = Path(mnerfeat.__file__).parent / "toy" / "weights"

PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    "base": {
        "vit": "google/vit-base-patch16-224",
        "clip": "ViT-B-32:openai",
        "quality": "maniqa",
    },
    "tiny": {name: str(_TINY / name) for name in ("vit", "clip", "quality")},
}
"""`base`: the papers' backbones. `tiny`: those inside the package, which know the toy world."""

EXTRACTORS: Final[Mapping[str, Callable[[str, np.dtype[Any], Numerics], Extractor]]] = {
    "vit": lambda model, dtype, numerics: VitExtractor(model, dtype=dtype, numerics=numerics),
    "clip": lambda model, dtype, numerics: ClipExtractor(model, dtype=dtype, numerics=numerics),
    "quality": lambda model, _, numerics: quality_extractor(model, numerics=numerics),
}
"""By the name that `--features` knows them by."""


def make_extractor(
    name: str, *, preset: str, model: str | None, dtype: np.dtype[Any], numerics: Numerics
) -> Extractor:
    """An extractor, its model found but not loaded.

    Args:
        name: One of `EXTRACTORS`.
        preset: One of `PRESETS`: what runs where `model` is None.
        model: By hub id or path.
        dtype: In which vectors are stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ConfigError: For an unknown name or preset.
        ModelError: Where the model is not there.
    """
    for what, given, known in (("features", name, EXTRACTORS), ("preset", preset, PRESETS)):
        if given not in known:
            raise ConfigError(f"{what}: unknown {given!r}; choose from: {', '.join(known)}")
    return EXTRACTORS[name](model or PRESETS[preset][name], dtype, numerics)
