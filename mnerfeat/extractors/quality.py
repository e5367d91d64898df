"""Image quality: by MANIQA, by PIQE, or by an image model of `transformers` with one output."""

import logging
from functools import cache
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import Extractor, ExtractorFactory, FeatureSpec, ModelOption
from mnerfeat.extractors.device import Numerics
from mnerfeat.extractors.loader import find_model, packaged, require
from mnerfeat.extractors.maniqa import VARIANTS, ManiqaExtractor
from mnerfeat.extractors.piqe import PIQE, PiqeExtractor
from mnerfeat.extractors.vision import VisionExtractor

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

QUALITY: Final = ModelOption(name="quality", base="maniqa", tiny=packaged("quality"))


@final
class ScoreExtractor(VisionExtractor):
    """`quality`: the single output of an image model of `transformers`, unchanged.

    Args:
        reference: A folder or hub id.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: The model is missing or has several outputs.
    """

    name = "quality"

    def __init__(self, reference: str, *, numerics: Numerics) -> None:
        files = find_model(reference, option=QUALITY.name)
        outputs = files.config.get("num_labels", len(files.config.get("id2label", "12")))
        if outputs != 1:
            raise ModelError(
                f"quality: {files.name} has {outputs} outputs; wanted one, the score",
                hint="name a model that was trained with num_labels=1",
            )
        super().__init__(
            files,
            auto="AutoModelForImageClassification",
            feature=self.name,
            spec=FeatureSpec(shape=(), dtype=np.dtype(np.float32)),
            output="logits[:, 0]",
            numerics=numerics,
        )

    def _rows(self, output: Any) -> "torch.Tensor":
        logits: torch.Tensor = output.logits
        return logits[:, 0]


def quality_extractor(reference: str, *, numerics: Numerics) -> Extractor:
    """Make the extractor of `quality` that an option names.

    Args:
        reference: `maniqa`, `maniqa-kadid` or `maniqa-pipal`, optionally with `:CHECKPOINT`;
            `piqe`; or a model of `transformers` with one output, by folder or hub id.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: It is missing or of another kind.
    """
    if reference != PIQE and reference.partition(":")[0] not in VARIANTS:
        return ScoreExtractor(reference, numerics=numerics)
    require("pyiqa", "pyiqa", "quality", option=QUALITY.name)
    _warn_of_licence()
    return PiqeExtractor() if reference == PIQE else ManiqaExtractor(reference, numerics=numerics)


@cache
def _warn_of_licence() -> None:
    logger.warning(
        "quality: pyiqa's licence, PolyForm Noncommercial 1.0.0, allows non-commercial use only"
    )


FACTORY: Final = ExtractorFactory(
    help="image quality",
    options={QUALITY: "model"},
    make=lambda o: quality_extractor(o.model(QUALITY), numerics=o.numerics),
    default=True,
)
