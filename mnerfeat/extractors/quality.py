"""How good an image is: MANIQA, PIQE, or any image model of `transformers` with one output."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.cache import Provenance
from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import RECIPE, Extractor, FeatureSpec, Prepared, UnreadableImageError
from mnerfeat.extractors.decoder import DECODING
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.loading import find_model, require, versions
from mnerfeat.extractors.maniqa import QUALITY, VARIANTS, ManiqaExtractor
from mnerfeat.extractors.vision_extractor import VisionExtractor

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

PIQE: Final = "piqe"
_OPTION = "quality"
_PIXELS = "pixels"
_PIQE_SIDE = 16  # pixels: PIQE looks at blocks of this size


def quality_extractor(reference: str, *, numerics: Numerics) -> Extractor:
    """The extractor of `quality` that an option names.

    Args:
        reference: `maniqa`, `maniqa-kadid` or `maniqa-pipal`, with a checkpoint's path after a
            colon where it lies elsewhere; `piqe`; or a model of `transformers` with one output,
            by folder or hub id.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: Where it is not there or is of another kind.
    """
    if reference == PIQE or reference.partition(":")[0] in VARIANTS:
        require("pyiqa", "pyiqa", "quality", option=_OPTION)
        _tell_licence()
        return (
            PiqeExtractor() if reference == PIQE else ManiqaExtractor(reference, numerics=numerics)
        )
    return ScoreExtractor(reference, numerics=numerics)


@cache
def _tell_licence() -> None:
    logger.warning(
        "quality: pyiqa's licence, PolyForm Noncommercial 1.0.0, allows non-commercial use only"
    )


class PiqePrepare:
    """The whole image: PIQE looks at every block of it."""

    def __call__(self, image: Image.Image) -> Prepared:
        """`pixels`: (3, height, width) uint8.

        Raises:
            UnreadableImageError: Where it is smaller than one block.
        """
        if min(image.size) < _PIQE_SIDE:
            raise UnreadableImageError(
                f"{image.width} × {image.height} pixels; PIQE looks at blocks of "
                f"{_PIQE_SIDE} × {_PIQE_SIDE}"
            )
        return {_PIXELS: np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))}


@final
class PiqeExtractor:
    """`quality`: 1 − PIQE / 100, so that higher is better; 0 to 1. It has no weights.

    Venkatanath et al. 2015, Blind image quality evaluation using perception based features.
    """

    name = "quality"

    def __init__(self) -> None:
        self.features = {QUALITY: FeatureSpec(shape=(), dtype=np.dtype(np.float32))}
        facts = {
            "extractor": self.name,
            "recipe": RECIPE,
            "model": PIQE,
            "decoding": DECODING,
            "output": "1 - piqe / 100, higher is better",
            "dtype": "float32",
            "libraries": versions("torch", "pyiqa"),
        }
        self.provenance: Mapping[str, Provenance] = {QUALITY: Provenance(facts)}
        self._compute: Compute | None = None

    @property
    def prepare(self) -> PiqePrepare:
        """The whole image."""
        return PiqePrepare()

    def default_size(self, compute: Compute) -> int:  # noqa: ARG002
        """See `Extractor.default_size`: images differ in size, so they go one by one."""
        return 1

    def images_at_once(self, size: int) -> int:
        """See `Extractor.images_at_once`."""
        return size

    def load(self, compute: Compute) -> None:
        """There is nothing to load."""
        self._compute = compute

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:  # noqa: ARG002
        """See `Extractor.extract`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pyiqa.archs.piqe_arch import piqe  # noqa: PLC0415

        compute = self._compute
        assert compute is not None, "load comes first"
        scores = []
        for image in batch:
            with compute.running():
                pixels = compute.put(image[_PIXELS][None]).float().div_(255)
                scores.append(1 - float(piqe(pixels)[0]) / 100)
        return {QUALITY: np.array(scores, np.float32)}


@final
class ScoreExtractor(VisionExtractor):
    """`quality`: the one output of an image model of `transformers`, as it is; a number.

    Args:
        reference: A folder, or a hub id.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: Where the model is not there or has several outputs.
    """

    name = "quality"

    def __init__(self, reference: str, *, numerics: Numerics) -> None:
        files = find_model(reference, option=_OPTION)
        outputs = files.config.get("num_labels", len(files.config.get("id2label", "12")))
        if outputs != 1:
            raise ModelError(
                f"{_OPTION}: {files.name} has {outputs} outputs; a score is one",
                hint="name a model that was trained with num_labels=1",
            )
        super().__init__(
            files,
            auto="AutoModelForImageClassification",
            option=_OPTION,
            feature=QUALITY,
            spec=FeatureSpec(shape=(), dtype=np.dtype(np.float32)),
            output="logits[:, 0]",
            numerics=numerics,
        )

    def _rows(self, output: Any) -> "torch.Tensor":
        logits: torch.Tensor = output.logits
        return logits[:, 0]
