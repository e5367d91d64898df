"""Captions by a captioning model of `transformers` (BLIP, GIT, ViT-GPT2), or from a file."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from mnerfeat.extractors.annotations import read_captions
from mnerfeat.extractors.base import (
    Extractor,
    ExtractorFactory,
    ExtractorOptions,
    ModelOption,
    Prepare,
    Prepared,
)
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.image_texts import BERT, ImageTextExtractor
from mnerfeat.extractors.loader import find_model
from mnerfeat.extractors.vision import VisionModel

if TYPE_CHECKING:
    import torch

CAPTIONER: Final = ModelOption(
    name="captioner", base="Salesforce/blip-image-captioning-base", file_instead="captions"
)
FILE: Final = ModelOption(name="captions", is_file=True)
TOKENS: Final = 40
"""Tokens kept of a caption."""
NEW_TOKENS: Final = 32
"""Tokens that the captioner may write."""


@final
class Captioner:
    """Writes captions with the model's own `generate`, always taking the likeliest token.

    Args:
        reference: A folder or hub id.

    Raises:
        ModelError: The model is missing, or has no tokenizer.
    """

    def __init__(self, reference: str) -> None:
        self._files = find_model(reference, option=CAPTIONER.name, text=True)
        self._model = VisionModel(self._files, auto="AutoModelForImageTextToText")
        self._tokenizer: Any = None

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `ImageTextModel.facts`."""
        return {**self._files.facts, "generation": f"greedy, {NEW_TOKENS} new tokens at most"}

    @property
    def prepare(self) -> Prepare:
        """See `ImageTextModel.prepare`."""
        return self._model.prepare

    def load(self, compute: Compute) -> None:
        """See `ImageTextModel.load`."""
        self._tokenizer = self._files.load_companion("AutoTokenizer")
        self._model.load(compute)

    def describe(self, batch: Sequence[Prepared], size: int, compute: Compute) -> list[str]:
        """See `ImageTextModel.describe`."""

        def step(model: Any, pixels: "torch.Tensor") -> "torch.Tensor":
            tokens: torch.Tensor = model.generate(
                pixel_values=pixels, do_sample=False, num_beams=1, max_new_tokens=NEW_TOKENS
            )
            return tokens

        captions: list[str] = []
        for start in range(0, len(batch), size):  # each batch ends with its longest caption
            written = self._model.run(batch[start : start + size], size, compute, step)
            texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
            captions += [" ".join(text.split()) for text in texts]
        return captions


def _make(options: ExtractorOptions) -> Extractor:
    file = options.file(FILE)
    source = read_captions(file) if file else Captioner(options.model(CAPTIONER))
    return ImageTextExtractor.of_options("caption", source, options, tokens=TOKENS)


FACTORY: Final = ExtractorFactory(
    help="token states of a caption",
    options={BERT: "model", CAPTIONER: "told_by.model", FILE: "imported"},
    make=_make,
)
