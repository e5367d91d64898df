"""Texts about images as token states: what `captions` and `tags` share.

Wang et al. 2022, "ITA: Image-Text Alignments for Multi-Modal Named Entity Recognition".
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.errors import ModelError
from mnerfeat.extractors.annotations import AnnotationPrepare, Annotations
from mnerfeat.extractors.base import (
    Extractor,
    ExtractorOptions,
    FeatureSpec,
    ModelOption,
    Prepare,
    Prepared,
    run_padded,
)
from mnerfeat.extractors.decoder import DECODING
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.loader import find_model, packaged, versions

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

BERT: Final = ModelOption(name="bert", base="google-bert/bert-base-uncased", tiny=packaged("text"))
_TEXT = "text"
_PADDING = -1


class ImageTextModel(Protocol):
    """A model that describes images in words."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The model, for provenances."""
        ...

    @property
    def prepare(self) -> Prepare:
        """The part of the work that decoder processes do."""
        ...

    def load(self, compute: Compute) -> None:
        """Load the weights to a device."""
        ...

    def describe(self, batch: Sequence[Prepared], size: int, compute: Compute) -> list[str]:
        """Return a text for each image, which depends on that image alone."""
        ...


@dataclass(frozen=True)
class _TextPrepare:
    """Sends a text that is known in advance, in place of the image."""

    text: str

    def __call__(self, image: Image.Image) -> Prepared:  # noqa: ARG002 - part of the contract
        return {_TEXT: np.frombuffer(self.text.encode("utf-8"), np.uint8)}


@final
class ImageTextExtractor(Extractor):
    """`<name>_states` and `<name>_length`: token states of a text about each image.

    States are `last_hidden_state` of a text encoder on the text alone, with those of [CLS] and
    [SEP], padded with zeros to a fixed length. A text without words has length 0.

    Args:
        name: Name of the extractor, and of its features.
        source: A model that describes images, or annotations.
        bert: Text encoder of `transformers`: a folder or hub id.
        tokens: Maximum number of tokens; longer texts are cut, and a warning is logged once.
        dtype: Type in which states are stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: A model is missing or of another kind.
    """

    def __init__(
        self,
        name: str,
        source: ImageTextModel | Annotations[str],
        *,
        bert: str,
        tokens: int,
        dtype: np.dtype[Any],
        numerics: Numerics,
    ) -> None:
        self.name = name
        self._source = source
        self._files = find_model(bert, option=BERT.name, images=False, text=True)
        self._tokens = tokens
        self._warned = False
        self._tokenizer: Any = None
        self._model: Any = None
        if isinstance(source, Annotations):
            origin: Mapping[str, Any] = {"imported": source.file}
        else:
            origin = {"told_by": dict(source.facts), "decoding": DECODING}
        states = FeatureSpec(shape=(tokens, self._files.hidden_size()), dtype=dtype)
        length = FeatureSpec(shape=(), dtype=np.dtype(np.float32))
        super().__init__(
            {f"{name}_states": states, f"{name}_length": length},
            facts={
                **self._files.facts,
                **origin,
                "pieces": tokens,
                "numerics": numerics,
                "libraries": versions("torch", "torchvision", "transformers"),
            },
            own_facts={
                f"{name}_states": {"output": "last_hidden_state, padded"},
                f"{name}_length": {"output": "pieces of the text"},
            },
        )

    @classmethod
    def of_options(
        cls,
        name: str,
        source: ImageTextModel | Annotations[str],
        options: ExtractorOptions,
        *,
        tokens: int,
    ) -> "ImageTextExtractor":
        """Take the text encoder and the number formats from options."""
        return cls(
            name,
            source,
            bert=options.model(BERT),
            tokens=tokens,
            dtype=options.dtype,
            numerics=options.numerics,
        )

    @property
    def prepare(self) -> Prepare:
        """See `Extractor.prepare`."""
        if isinstance(self._source, Annotations):
            return AnnotationPrepare(annotations=self._source, make=_TextPrepare)
        return self._source.prepare

    def _load(self, compute: Compute) -> None:
        if not isinstance(self._source, Annotations):
            self._source.load(compute)
        self._tokenizer = self._files.load_companion("AutoTokenizer")
        self._model = self._files.load_model("AutoModel").to(compute.device)

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        if isinstance(self._source, Annotations):
            texts = [prepared[_TEXT].tobytes().decode("utf-8") for prepared in batch]
        else:
            texts = self._source.describe(batch, size, self.compute)
        tokens = [self._tokenize(text) for text in texts]
        padded = np.full((len(tokens), self._tokens), _PADDING, np.int64)
        for row, ids in zip(padded, tokens, strict=True):
            row[: len(ids)] = ids
        states = run_padded(padded, size, self.compute, self._run)
        states[padded == _PADDING] = 0
        lengths = np.array([len(ids) for ids in tokens], np.float32)
        return dict(zip(self.features, (states, lengths), strict=True))

    def _tokenize(self, text: str) -> list[int]:
        if not text.strip():
            return []
        ids: list[int] = self._tokenizer(text, verbose=False)["input_ids"]
        if len(ids) > self._tokens:
            if not self._warned:
                logger.warning(
                    "%s: a text of %d tokens is cut to %d, and others may be: %s",
                    *(self.name, len(ids), self._tokens, text),
                )
                self._warned = True
            ids = self._tokenizer(text, truncation=True, max_length=self._tokens)["input_ids"]
        return ids

    def _run(self, tokens: "torch.Tensor") -> "torch.Tensor":
        valid = tokens != _PADDING
        # An empty text attends to its padding, so that no softmax is over nothing.
        mask = valid | ~valid.any(dim=1, keepdim=True)
        output = self._model(input_ids=tokens.clamp(min=0), attention_mask=mask.long())
        states: torch.Tensor | None = getattr(output, "last_hidden_state", None)
        if states is None or states.ndim != 3:
            raise ModelError(
                f"bert: {self._files.name} returns no token states",
                hint="name a text encoder of transformers, such as bert-base-uncased",
            )
        return states
