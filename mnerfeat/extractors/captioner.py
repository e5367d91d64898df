"""Captions by a model of `transformers` that writes about images (BLIP, GIT, ViT-GPT2)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.extractors.base import Prepared
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.loading import find_model
from mnerfeat.extractors.vision import PIXELS, ProcessorPrepare, VisionModel, load_companion

_OPTION = "captioner"
NEW_TOKENS: Final = 32


@final
class Captioner:
    """The caption that the model's own `generate` writes, the likeliest token at each step.

    Args:
        reference: A folder, or a hub id.

    Raises:
        ModelError: Where the model is not there, or has no tokenizer.
    """

    def __init__(self, reference: str) -> None:
        self._files = find_model(reference, option=_OPTION, reads=True)
        self._model = VisionModel(self._files, auto="AutoModelForImageTextToText", option=_OPTION)
        self._tokenizer: Any = None

    @property
    def facts(self) -> Mapping[str, Any]:
        """For provenances."""
        return {**self._files.facts, "generation": f"greedy, {NEW_TOKENS} new tokens at most"}

    @property
    def prepare(self) -> ProcessorPrepare:
        """The model's own image processor."""
        return self._model.prepare

    def load(self, compute: Compute) -> None:
        """Load tokenizer and weights, unless they are there already."""
        if self._tokenizer is None:
            self._tokenizer = load_companion(self._files, auto="AutoTokenizer", option=_OPTION)
        self._model.load(compute)

    def tell(self, batch: Sequence[Prepared], size: int) -> list[str]:
        """A caption for each image.

        Args:
            batch: From `prepare`.
            size: How many images run at once.
        """
        captions: list[str] = []
        for start in range(0, len(batch), size):
            some = batch[start : start + size]
            pixels = np.stack([image[PIXELS] for image in some])
            written = self._model.generate(_filled(pixels, size), max_new_tokens=NEW_TOKENS)
            texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
            captions += [" ".join(text.split()) for text in texts[: len(some)]]
        return captions


def _filled(pixels: NDArray[Any], size: int) -> NDArray[Any]:
    """Always so many images, so that products have one shape and a row always the same bits."""
    lacking = np.zeros((size - len(pixels), *pixels.shape[1:]), pixels.dtype)
    return np.concatenate([pixels, lacking])
