"""Image quality by PIQE, which needs no weights.

Venkatanath et al. 2015, Blind image quality evaluation using perception based features.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.extractors.base import Extractor, FeatureSpec, Prepared, UnreadableImageError
from mnerfeat.extractors.decoder import DECODING
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.loader import versions

PIQE: Final = "piqe"
_PIXELS = "pixels"
_BLOCK = 16  # pixels


class PiqePrepare:
    """Sends the whole image."""

    def __call__(self, image: Image.Image) -> Prepared:
        """Return `pixels`: (3, height, width) uint8.

        Raises:
            UnreadableImageError: The image is smaller than one block of PIQE.
        """
        if min(image.size) < _BLOCK:
            raise UnreadableImageError(
                f"{image.width} × {image.height} pixels; PIQE reads blocks of {_BLOCK} × {_BLOCK}"
            )
        return {_PIXELS: np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))}


@final
class PiqeExtractor(Extractor):
    """`quality`: 1 − PIQE / 100, from 0 to 1; higher is better."""

    name = "quality"
    cuda_size = mps_size = cpu_size = 1  # images differ in size
    prepare: Final = PiqePrepare()

    def __init__(self) -> None:
        super().__init__(
            {"quality": FeatureSpec(shape=(), dtype=np.dtype(np.float32))},
            facts={
                "model": PIQE, "decoding": DECODING, "libraries": versions("torch", "pyiqa"),
            },
            own_facts={"quality": {"output": "1 - piqe / 100, higher is better"}},
        )  # fmt: skip

    def _load(self, compute: Compute) -> None:
        """Load nothing: there are no weights."""

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:  # noqa: ARG002
        """See `Extractor.extract`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pyiqa.archs.piqe_arch import piqe  # noqa: PLC0415

        scores = []
        for image in batch:
            with self.compute.running():
                pixels = self.compute.put(image[_PIXELS][None]).float().div_(255)
                scores.append(1 - float(piqe(pixels)[0]) / 100)
        return {"quality": np.array(scores, np.float32)}
